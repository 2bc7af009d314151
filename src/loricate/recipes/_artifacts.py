"""What a user takes away: adapter folder, merged autoencoder, and proof that they agree."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import Tensor, nn

from loricate.adapters.formats.merged import Merged
from loricate.adapters.formats.peft import PEFT
from loricate.core.family import Family
from loricate.core.shapes import Images
from loricate.integrity.digest import adapter_digest, digest
from loricate.records.schema import Integrity
from loricate.surfaces.attach import Attached, pristine_copy

__all__ = ["ADAPTER", "MERGED", "verify", "write_artifacts"]

ADAPTER: Final = "adapter"
MERGED: Final = "vae"
_PICTURES_CHECKED: Final = 16


def write_artifacts(out: Path, base: Path, family: Family, attached: Attached) -> nn.Module:
    """Write the adapter folder and the merged autoencoder.

    Args:
        out: Run folder.
        base: What the pipeline was loaded from.
        family: The pipeline with the adapter attached.
        attached: The adapter.

    Returns:
        The merged autoencoder, as it was read back from its folder.
    """
    adapter = attached.adapter("vae")
    PEFT(component="vae").write(adapter, out / ADAPTER)
    model: Any = type(family.vae)
    if base.is_dir():
        Merged(base=base, component="vae", dtype="float32").write(adapter, out / MERGED)
    else:
        # Under the names of diffusers; the same sums as of a folder, so that they can be replayed.
        with TemporaryDirectory() as folder:
            pristine: Any = pristine_copy(attached)
            pristine.save_pretrained(folder)
            Merged(base=Path(folder), component="vae", dtype="float32").write(adapter, out / MERGED)
    read_back: nn.Module = model.from_pretrained(out / MERGED).to(family.device)
    return read_back


@torch.no_grad()
def verify(
    family: Family, attached: Attached, merged: nn.Module, before: str, images: Images
) -> Integrity:
    """Compare base, attached and merged model, and take the adapter off.

    Args:
        family: The pipeline with the adapter attached.
        attached: The adapter.
        merged: The autoencoder with the adapter written into its weights.
        before: Digest of the base's autoencoder before anything was attached.
        images: Pictures the outputs are compared on.

    Returns:
        What was found.
    """
    images = images[:_PICTURES_CHECKED]
    adapter = attached.adapter("vae")
    with_adapter = _outputs(family, images)
    difference = (_outputs(family.with_vae(merged), images) - with_adapter).abs().max()
    with attached.off():
        off = _outputs(family, images)
    attached.detach()
    return Integrity(
        base_digest_before=before,
        base_digest_after=digest(family.vae.state_dict()),
        gain_zero_identical=bool(torch.equal(off, _outputs(family, images))),
        merged_max_difference=float(difference / with_adapter.abs().max()),
        adapter_digest=adapter_digest(adapter),
    )


def _outputs(family: Family, images: Images) -> Tensor:
    return family.vae_posterior()(images.to(family.device), [0] * len(images))
