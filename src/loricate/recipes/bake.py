"""An adapter written into the weights of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loricate.adapters.baked_files import BakedTensor
from loricate.adapters.formats.merged import Merged
from loricate.adapters.keys import BASE_DIGEST
from loricate.integrity.digest import baked_digest
from loricate.recipes._out import DtypeName, require_new, writing_to
from loricate.recipes._sources import open_source

__all__ = ["BASE_DIGEST", "BakeReport", "DtypeName", "bake"]


@dataclass(frozen=True, kw_only=True)
class BakeReport:
    """What was written.

    Args:
        out: File or folder.
        components: Components that were updated.
        modules: Number of modules that were updated.
        adapter_digest: Digest of the factors and scales.
        gain: Factor in front of the update.
        tensors: Every stored tensor that is not the base's.
    """

    out: Path
    components: tuple[str, ...]
    modules: int
    adapter_digest: str
    gain: float
    tensors: tuple[BakedTensor, ...]

    @property
    def n_underflow(self) -> int:
        """Entries that rounding to the stored dtype made zero."""
        return sum(tensor.loss.n_underflow for tensor in self.tensors)

    @property
    def retained_energy(self) -> float:
        """Share of the squared norm of the update that reached the weights."""
        update = sum(tensor.loss.update_norm**2 for tensor in self.tensors)
        lost = sum(tensor.loss.lost_norm**2 for tensor in self.tensors)
        return max(0.0, 1.0 - lost / update) if update else 1.0


def bake(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    component: str | None = None,
    dtype: DtypeName | None = None,
    gain: float = 1.0,
    observer: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> BakeReport:
    """Write an adapter into the weights of a model, in the layout of the model.

    Beside each file of weights a record of the base is kept, which ``unbake`` needs to restore
    the base to the bit.

    Args:
        adapter: File or folder in any form.
        base: Diffusers folder, folder of one component, or safetensors file.
        out: Copy to write, at a new path. A diffusers folder becomes a complete diffusers folder,
            a file a file; an autoencoder's folder becomes a VAE file if this ends in
            ``.safetensors``.
        component: Component the adapter is for, or the only one to bake.
        dtype: Dtype of all floats; ``None`` keeps those of the base.
        gain: Factor in front of the update.
        observer: Called with (stage, done, total) after every tensor.

    Returns:
        What was written, and what rounding cost.

    Raises:
        ConfigError: The base lacks a component or a module, or something is at the destination.
        ShapeError: An update does not fit its weight.
        UnsupportedError: The adapter is no plain LoRA, or the layout cannot hold the result.
        NumericalError: A value does not fit into the dtype.
        IntegrityError: The adapter names another base.
        PrerequisiteError: There is no place to write.
    """
    require_new(out, [adapter, base])
    opened = open_source(adapter, component=component, base=base).adapter
    provenance = {"adapter": baked_digest(opened), "gain": repr(gain)}
    with writing_to(out):
        tensors = Merged(base=base, component=None, dtype=dtype).bake(
            opened.scaled(gain),
            out,
            provenance=provenance,
            observe=lambda done, total: observer("bake", done, total),
        )
    return BakeReport(
        out=out,
        components=opened.components,
        modules=len(opened),
        adapter_digest=provenance["adapter"],
        gain=gain,
        tensors=tensors,
    )
