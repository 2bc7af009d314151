"""What else LoRA files hold: recognized, so that it can be refused by its name."""

import re
from collections.abc import Iterable
from typing import NoReturn

from loricate.basics.errors import UnsupportedError

__all__ = ["refuse"]

_KINDS = {
    r"hada_(?:w[12]_[ab]|t[12])": "LoHa",
    r"lokr_(?:w[12](?:_[ab])?|t[12])": "LoKr",
    r"dora_scale|lora_magnitude_vector(?:\.\w+)*": "DoRA",
    r"(?:oft_(?:blocks|diag)|oft_R|rescale)(?:\.weight)?": "OFT",
    r"[ab][12]\.weight": "GLoRA",
    r"on_input": "IA3",
    r"diff": "a full difference of the weight (diff)",
    r"diff_b": "a difference of the bias (diff_b)",
    r"set_weight": "a replaced weight (set_weight)",
    r"reshape_weight": "a reshaped weight (reshape_weight)",
    r"[wb]_norm": "a replaced norm (w_norm, b_norm)",
    r"bias_(?:indices|values|size)": "a sparse bias",
    r"lora_(?:A|B|up|down)(?:\.\w+)?\.bias": "a LoRA with bias",
    r"lora_embedding_[AB](?:\.\w+)?": "a LoRA of an embedding",
    r"(?:modules_to_save(?:\.\w+)?\.)?(?:weight|bias)": "a full weight (modules_to_save)",
}
_PATTERNS = {
    kind: re.compile(rf"(?P<module>.+?)\.(?:{pattern})") for pattern, kind in _KINDS.items()
}
_PATTERNS["a bundled embedding"] = re.compile(r"bundle_emb\.(?P<module>[^.]+)\..+")

_HINT = (
    "only plain low-rank pairs add up and shrink exactly; merge it into a copy of its base with "
    "the tool it is for, then run loricate extract"
)


def refuse(keys: Iterable[str], by: str) -> NoReturn:
    """Say what tensors are that are no plain low-rank pair.

    Args:
        keys: Names of the tensors, at least one.
        by: Who refuses.

    Raises:
        UnsupportedError: Always; it names the kind and the module of a known kind.
    """
    keys = list(keys)
    for kind, pattern in _PATTERNS.items():
        modules = sorted({match["module"] for match in map(pattern.fullmatch, keys) if match})
        if modules:
            others = f" (and {len(modules) - 1} more)" if modules[1:] else ""
            raise UnsupportedError(f"{kind} at {modules[0]!r}{others}", by=by, hint=_HINT)
    others = f" (and {len(keys) - 1} more)" if keys[1:] else ""
    raise UnsupportedError(f"the unknown tensor {keys[0]!r}{others}", by=by)
