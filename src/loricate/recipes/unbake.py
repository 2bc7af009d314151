"""An adapter taken out of the weights of a model again, with proof."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loricate.adapters.adapter import Adapter
from loricate.adapters.baked_files import PROVENANCE
from loricate.adapters.formats.merged import Merged
from loricate.adapters.parts import Part, open_parts, step_of, write_copy
from loricate.adapters.restored_files import RestoredTensor, Unbaking, unbake_part
from loricate.adapters.undo import Undo, undo_path
from loricate.adapters.weights import Weights
from loricate.basics.errors import ConfigError, ConfigProblem, IntegrityError
from loricate.integrity.digest import baked_digest
from loricate.recipes._out import require_new, writing_to
from loricate.recipes._sources import open_source

__all__ = ["UnbakeReport", "unbake"]

_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class UnbakeReport:
    """What was restored.

    Args:
        out: File or folder.
        gain: Factor the update had been baked with.
        tensors: Every tensor of the files that held the update.
    """

    out: Path
    gain: float
    tensors: tuple[RestoredTensor, ...]

    @property
    def is_base(self) -> bool | None:
        """Whether every tensor is the base's, bit for bit; ``None`` where that is unknown."""
        return None if any(tensor.is_base is None for tensor in self.tensors) else True

    @property
    def max_error(self) -> float:
        """How far any entry may be off."""
        return max((tensor.max_error for tensor in self.tensors), default=0.0)


def unbake(
    baked: Path,
    adapter: Path,
    out: Path,
    *,
    base: Path | None = None,
    component: str | None = None,
    observer: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> UnbakeReport:
    """Take an adapter out of a model, and prove that the base is back where that can be proven.

    The record that ``bake`` keeps beside the weights corrects what subtraction rounds, and states
    the digest of every tensor. Without it, and without the base, nothing can be proven.

    Args:
        baked: Diffusers folder, folder of one component, or safetensors file.
        adapter: What was baked, in any form.
        out: Copy to write, at a new path.
        base: The base itself, to compare with.
        component: Component the adapter is for, or the only one to take out.
        observer: Called with (stage, done, total) after every tensor.

    Returns:
        What was restored.

    Raises:
        IntegrityError: The result is not the base; nothing is written.
            Or the base is not the one that the adapter names.
        ConfigError: The model lacks a component or a module, states no gain, or something is at
            the destination.
        ShapeError: An update does not fit its weight, or the base has other tensors.
        NumericalError: What would be the base is not finite.
        HostileFileError: A record is malformed.
        PrerequisiteError: There is no place to write.
    """
    require_new(out, [baked, adapter, *filter(None, [base])])
    opened = open_source(adapter, component=component, base=base, model=baked).adapter
    parts = open_parts(baked, opened)
    gain = _gain(parts)
    parts = open_parts(baked, opened.scaled(gain))
    references = _references(base, opened, baked) if base is not None else itertools.repeat(None)
    known = {part.file: reference for part, reference in zip(parts, references, strict=False)}
    step = step_of(parts, lambda done, total: observer("unbake", done, total))
    restored: list[RestoredTensor] = []

    def write(part: Part, path: Path) -> None:
        record = undo_path(part.file)
        undo = Undo.read(record) if record.is_file() else None
        how = Unbaking(undo=undo, reference=known[part.file], observe=step)
        restored.extend(found := unbake_part(part, path, how))
        stated = part.metadata if undo is None else undo.provenance
        _require_adapter(found, stated, opened)
        _require_base(found)

    with writing_to(out):
        write_copy(baked, out, parts, write)
    return UnbakeReport(out=out, gain=gain, tensors=tuple(restored))


def _gain(parts: Sequence[Part]) -> float:
    stated = {part.metadata.get(f"{PROVENANCE}gain", "1.0") for part in parts}
    try:
        (gain,) = map(float, stated)
    except ValueError:
        gain = math.nan
    if not math.isfinite(gain):
        expected = "one finite gain in the headers of the baked files"
        raise ConfigError(ConfigProblem(key="gain", expected=expected, got=sorted(stated)))
    return gain


def _references(base: Path, adapter: Adapter, baked: Path) -> Iterator[Weights]:
    # As laid out in the baked copy, which may be a VAE file made of a folder.
    return (part.weights for part in Merged(base=base, component=None).parts(adapter, baked))


def _require_adapter(
    found: Sequence[RestoredTensor], stated: Mapping[str, str], adapter: Adapter
) -> None:
    # Proof of the result is proof enough: a converted adapter may still be the same to the bit.
    is_proven = all(tensor.is_base for tensor in found)
    expected = stated.get(f"{PROVENANCE}adapter")
    if not is_proven and expected not in (None, baked_digest(adapter)):
        raise IntegrityError("the adapter, which is another than was baked, or a converted one,")


def _require_base(found: Sequence[RestoredTensor]) -> None:
    wrong = [tensor for tensor in found if tensor.is_base is False]
    if wrong:
        off = max(tensor.max_error for tensor in wrong)
        how_far = f"off by up to {off:.1e}" if math.isfinite(off) else "by their digests"
        what = f"the restored base, {len(wrong)} of {len(found)} tensors {how_far},"
        raise IntegrityError(what, entries=[tensor.name for tensor in wrong[:_LISTED]])
