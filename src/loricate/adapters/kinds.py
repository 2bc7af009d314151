"""What a module does inside its component, as its name shows."""

import re

__all__ = ["kind_of"]

_KINDS = {
    "self-attention": re.compile(r"\.attn1\."),
    "cross-attention": re.compile(r"\.attn2\."),
    "feed-forward": re.compile(r"\.(ff|ff_context|mlp)\.|\.proj_mlp$"),
    "projection": re.compile(r"(^|\.)(proj_in|proj_out|text_projection)$"),
    "attention": re.compile(r"\.(attn|self_attn)\.|\.attentions\."),
    "residual block": re.compile(r"\.resnets\."),
    "resampling": re.compile(r"\.(down|up)samplers\."),
    "other": re.compile(""),
}


def kind_of(module: str) -> str:
    """Kind of a module under its canonical name, such as ``cross-attention``."""
    return next(kind for kind, pattern in _KINDS.items() if pattern.search(module))
