"""What a user takes away: adapter folder, merged autoencoder, and proof that they agree."""

from pathlib import Path

import torch
from torch import Tensor

from loricate.adapters.adapter import Adapter
from loricate.adapters.formats.merged import Merged
from loricate.adapters.formats.peft import PEFT
from loricate.basics.arrays import Array
from loricate.core.family import Family
from loricate.core.shapes import Images
from loricate.integrity.digest import digest
from loricate.records.schema import Integrity
from loricate.surfaces.attach import Attached, merged_copy

__all__ = ["ADAPTER", "MERGED", "WEIGHTS_CHECKED", "write_artifacts"]

ADAPTER = "adapter"
MERGED = "vae"
WEIGHTS_CHECKED = 16


@torch.no_grad()
def write_artifacts(
    out: Path, base: Path, family: Family, attached: Attached, before: str, images: Images
) -> Integrity:
    """Write adapter and merged autoencoder, and compare both with what was trained.

    Args:
        out: Run folder.
        base: Folder of the base pipeline; a merged copy needs one.
        family: The pipeline with the adapter attached; it is taken off at the end.
        attached: The adapter.
        before: Digest of the base before training.
        images: Pictures the outputs are compared on.

    Returns:
        What was found.
    """
    adapter = attached.adapter("vae")
    PEFT(component="vae").write(adapter, out / ADAPTER)
    if base.is_dir():
        Merged(base=base, component="vae", dtype="float32").write(adapter, out / MERGED)
        merged = family.with_vae(type(family.vae).from_pretrained(out / MERGED))  # type: ignore[attr-defined]
    else:
        merged = family.with_vae(merged_copy(attached))
    with_adapter = _outputs(family, images)
    difference = (_outputs(merged, images) - with_adapter).abs().max() / with_adapter.abs().max()
    with attached.off():
        off = _outputs(family, images)
    attached.detach()
    return Integrity(
        base_digest_before=before,
        base_digest_after=digest(family.vae.state_dict()),
        gain_zero_identical=bool(torch.equal(off, _outputs(family, images))),
        merged_max_difference=float(difference),
        adapter_digest=digest(_factors(adapter)),
    )


def _outputs(family: Family, images: Images) -> Tensor:
    return family.vae_posterior()(images.to(family.device), [0] * len(images))


def _factors(adapter: Adapter) -> dict[str, Array]:
    return {
        f"{target}.{side}": factor
        for target, update in adapter.items()
        for side, factor in zip("AB", update.pair(), strict=True)
    }
