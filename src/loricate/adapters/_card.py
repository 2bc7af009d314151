"""A short model card beside the files of an adapter."""

from collections import Counter
from pathlib import Path

from loricate.adapters.adapter import Adapter

__all__ = ["write_card"]

_NAME = "README.md"
_TAGS = "tags: [lora, loricate]"


def write_card(staging: Path, folder: Path, adapter: Adapter, loading: str) -> None:
    """Write ``README.md``, unless the folder has one that is not from here.

    Args:
        staging: Where files are written before they appear.
        folder: Where they appear.
        adapter: What the files hold.
        loading: Lines of Python that load it.
    """
    card = folder / _NAME
    if card.exists() and _TAGS not in card.read_text(encoding="utf-8", errors="replace"):
        return
    rows = []
    for component in adapter.components:
        updates = adapter.modules(component).values()
        ranks = Counter(update.rank for update in updates)
        listed = ", ".join(f"{rank} ({n})" for rank, n in sorted(ranks.items()))
        size = sum(update.n_parameters for update in updates)
        rows.append(f"| {component} | {len(ranks) and sum(ranks.values())} | {listed} | {size:,} |")
    parts = (
        f"---\nlibrary_name: peft\n{_TAGS}\n---",
        "# LoRA adapter",
        "| component | modules | ranks (how many) | parameters |\n|---|---|---|---|\n"
        + "\n".join(rows),
        "The scale is in the factors: alpha equals the rank everywhere, so the update of a weight "
        "is `B @ A`.",
        f"```python\n{loading}\n```",
    )
    (staging / _NAME).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
