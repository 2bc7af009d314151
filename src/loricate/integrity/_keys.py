"""What the name of a tensor in an adapter file says: naming scheme, component, module, role."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from loricate.adapters import sgm
from loricate.adapters.formats import _entries
from loricate.adapters.formats._kohya_names import find, underscored
from loricate.adapters.formats.diffusers import COMPONENTS
from loricate.adapters.keys import COMFY_PREFIXES, KOHYA_PREFIXES
from loricate.adapters.names import canonical

__all__ = [
    "PEFT_PREFIX",
    "Part",
    "Place",
    "Scheme",
    "is_adapter",
    "is_bare",
    "kind_of_key",
    "part_of",
    "place_of",
    "role_of",
    "scheme_of",
]

Scheme: TypeAlias = Literal["peft", "kohya", "lycoris", "comfy", "diffusers", "lone"]
"""How a file spells its modules; ``lone`` names say nothing of a component."""

PEFT_PREFIX = "base_model.model."
_LYCORIS = "lycoris_"

# Ends of names by what the tensor is; the module is what stands before. What may be repeated is
# bounded, as a name can be as long as a header and is searched from each of its dots.
_KINDS = {
    "replacement": r"set_weight|diff|diff_b|[wb]_norm|reshape_weight",
    "loha": r"hada_(?:w[12]_[ab]|t[12])",
    "lokr": r"lokr_(?:w[12](?:_[ab])?|t[12])",
    "dora": r"dora_scale|lora_magnitude_vector(?:\.\w+){0,3}",
    "oft": r"(?:oft_(?:blocks|diag)|oft_R|rescale)(?:\.weight)?",
    "glora": r"[ab][12]\.weight",
    "ia3": r"on_input|ia3_l(?:\.\w+){0,3}",
    "bias": r"bias_(?:indices|values|size)|lora_(?:A|B|up|down)(?:\.\w+)?\.bias",
    "embedding": r"lora_embedding_[AB](?:\.\w+)?",
}
_PATTERNS = {kind: re.compile(rf"(.+?)\.(?:{end})") for kind, end in _KINDS.items()}
# Pairs as parameters and not as layers, as trainers of Mochi save them and ComfyUI takes them.
_BARE = (".lora_A", ".lora_B")
_TUNERS = (
    r"boft|c3a|delora|fourierft|frod|gralora|hira|hra|p?vera|randlora|shira|tinylora|unilora|"
    r"vblora|waveft"
)
# Updates that nobody reads here: layouts of cloneofsimo and of XLabs, and other tuners of PEFT.
_FOREIGN = (
    re.compile(r"(.+:\d+):(up|down)"),
    re.compile(r"(.*lora(?:(?!lora)[^.:])*)[.:]((?:up|down|A|B|a|b)(?:\.weight)?)"),
    re.compile(r"(.+?)\.(lora_(?:[A-E]|up|down|mid|ranknum)(?:\.\w+){0,3})"),
    re.compile(rf"(.+?)\.((?:{_TUNERS})_\w+(?:\.\w+){{0,3}})"),
    re.compile(r"(.+)\.(diff\.weight)"),
)
_GLORA = frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight"})
_BUNDLED = re.compile(r"bundle_emb\.[^.]+\..+")


class Place(NamedTuple):
    """Where a tensor belongs.

    Args:
        component: Part of the pipeline; empty where the name does not say it.
        module: One spelling of the module whatever the scheme, with ``_`` for dots.
        name: The module as the file spells it.
        role: ``A``, ``B``, ``mid`` or ``alpha``.
    """

    component: str
    module: str
    name: str
    role: str


class Part(NamedTuple):
    """A tensor of an update.

    Args:
        module: The module as the file spells it.
        kind: As ``kind_of_key`` has it; ``unknown`` where only the scheme tells an update.
        role: Its part in the update: the role in a plain pair, otherwise the end of the name.
        key: Its name.
    """

    module: str
    kind: str
    role: str
    key: str


def is_bare(key: str) -> bool:
    """Whether the name of a factor ends before ``.weight``, which few loaders take."""
    return key.endswith(_BARE)


def role_of(key: str) -> tuple[str, str] | None:
    """Module and role of a tensor of a plain pair in any spelling, or ``None`` for any other."""
    return _entries.role_of(f"{key}.weight" if is_bare(key) else key)


@lru_cache(1 << 14)
def kind_of_key(key: str) -> str | None:
    """What a tensor is: ``lora``, another kind of update, ``bundled``, or ``None`` if unknown."""
    if role_of(key) is not None:
        return "lora"
    if _BUNDLED.fullmatch(key):
        return "bundled"
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(key)), None)


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether some names are those of updates, and not of a model itself."""
    quartets: dict[str, set[str]] = {}
    for key in keys:
        part = part_of(key)
        if part is None:
            continue
        if part.kind != "glora":
            return True
        # A layer of a model may well be called a1; all four below one module are an update.
        quartets.setdefault(part.module, set()).add(part.role)
    return any(quartet >= _GLORA for quartet in quartets.values())


def part_of(key: str) -> Part | None:
    """What a tensor is to an update, or ``None`` where its name is not that of an update."""
    kind = kind_of_key(key)
    if kind == "lora":
        module, role = role_of(key) or ("", "")
        return Part(module, kind, role, key)
    if kind == "bundled":
        return Part(".".join(key.split(".")[:2]), kind, "", key)
    if kind is not None and (match := _PATTERNS[kind].fullmatch(key)) is not None:
        return Part(match[1], kind, key.removeprefix(f"{match[1]}."), key)
    scheme = scheme_of(key)
    # Whole weights below PEFT's prefix are those of a model it has wrapped.
    is_whole = scheme == "peft" and key.endswith((".weight", ".bias"))
    if scheme in ("peft", "kohya", "lycoris") and not is_whole:
        module, _, end = key.rpartition(".")
        return Part(module, "unknown", end, key)
    match = next(filter(None, (pattern.fullmatch(key) for pattern in _FOREIGN)), None)
    return None if match is None else Part(match[1], "unknown", match[2], key)


def scheme_of(key: str) -> Scheme:
    """Scheme of a name."""
    if key.startswith(PEFT_PREFIX):
        return "peft"
    if key.startswith(tuple(KOHYA_PREFIXES)):
        return "kohya"
    if key.startswith(_LYCORIS):
        return "lycoris"
    if key.startswith(tuple(COMFY_PREFIXES)):
        return "comfy"
    return "diffusers" if key.partition(".")[0] in COMPONENTS else "lone"


def place_of(key: str) -> Place | None:
    """Place of a tensor of a plain low-rank pair, or ``None`` for any other tensor."""
    role = role_of(key)
    if role is None:
        return None
    name = role[0]
    scheme = scheme_of(key)
    if scheme in ("kohya", "lycoris"):
        component, module = _resolved(name)
    elif scheme == "comfy":
        prefix = next(filter(name.startswith, COMFY_PREFIXES))
        component, module = COMFY_PREFIXES[prefix], name.removeprefix(prefix)
    elif scheme == "diffusers":
        component, _, module = name.partition(".")
    else:
        component, module = "", name.removeprefix(PEFT_PREFIX)
    spelled = sgm.to_diffusers(component, module) or module
    # Text towers without a component are known by their layers.
    owner = component or ("text_encoder" if spelled.startswith("encoder.layers.") else "")
    return Place(component, underscored(canonical(owner, spelled)), name, role[1])


def _resolved(name: str) -> tuple[str, str]:
    prefix = next(filter(name.startswith, KOHYA_PREFIXES), "")
    component = KOHYA_PREFIXES.get(prefix, "")
    if (target := find(name, "model")) is not None:
        return component, target.module
    # Of a model whose modules are not known; only its own spelling is left.
    return component, name.removeprefix(prefix).removeprefix(_LYCORIS)
