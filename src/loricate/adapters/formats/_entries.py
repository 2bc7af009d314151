"""From the tensors of a file to updates: roles by the ends of names, one scale, checked factors."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.format import AdapterFile, ScaleSource
from loricate.adapters.formats._metadata import kept
from loricate.adapters.formats._peft_config import PEFTConfig
from loricate.adapters.formats._variants import refuse
from loricate.adapters.tensors import TensorFile
from loricate.basics.arrays import require_finite, unit_roundoff
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError, UnsupportedError

__all__ = ["Entry", "as_file", "entries_of", "role_of"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Every generation of names, newest first. A is the factor that meets the input.
_ROLES = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_A.default.weight": "A",
    ".lora_B.default.weight": "B",
    ".lora_down.weight": "A",
    ".lora_up.weight": "B",
    ".lora_mid.weight": "mid",
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A",
    ".lora_linear_layer.up.weight": "B",
    "_lora.down.weight": "A",
    "_lora.up.weight": "B",
    ".alpha": "alpha",
}
_PLACES: tuple[ScaleSource, ...] = ("tensor", "config", "header")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_EMPTY = "remove the tensors of this module, which is not updated"
_DAMAGED = "its training diverged or the file is damaged; take an earlier or a new copy"
_EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2")


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """The tensors of one module.

    Args:
        name: The module as the file spells it.
        target: Where the update attaches.
        keys: Names of the tensors by role: ``A``, ``B``, ``mid`` or ``alpha``.
    """

    name: str
    target: Target
    keys: Mapping[str, str]


def role_of(key: str) -> tuple[str, str] | None:
    """Module and role of a tensor of a plain LoRA, or ``None`` for any other tensor.

    Args:
        key: Name of the tensor.
    """
    for end, role in _ROLES.items():
        if key.endswith(end) and len(key) > len(end):
            module = key.removesuffix(end).replace(".processor.", ".")
            # Attention processors left out that the projection is the first of two layers.
            is_out = end.startswith("_") and module.endswith(".to_out")
            return (f"{module}.0" if is_out else module), role
    return None


def entries_of(file: TensorFile, by: str, prefix: str = "") -> dict[str, dict[str, str]]:
    """Names of tensors by module and role.

    Args:
        file: The file.
        by: Who reads, for errors.
        prefix: What stands in front of every name.

    Raises:
        UnsupportedError: A tensor belongs to no plain low-rank pair.
        ConfigError: Two tensors have the same role.
    """
    found: dict[str, dict[str, str]] = {}
    unknown = []
    for key in file:
        role = role_of(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if role is None:
            unknown.append(key)
            continue
        twin = found.setdefault(role[0], {}).setdefault(role[1], key)
        if twin != key:
            raise _shadow(role[0], twin, key, file)
    if not found and not unknown:
        raise UnsupportedError(f"the empty file {str(file.path)!r}", by=by)
    if unknown:
        refuse((key.removeprefix(prefix) for key in unknown), by)
    return found


def as_file(
    file: TensorFile,
    form: str,
    entries: Iterable[Entry],
    configs: Callable[[Target], Mapping[ScaleSource, PEFTConfig]],
    notes: Iterable[str] = (),
) -> AdapterFile:
    """Read the factors and scales of all modules.

    Args:
        file: The file.
        form: Its form.
        entries: Its modules.
        configs: Everything beside the tensors that states the scale of a target.
        notes: What was found out before.

    Raises:
        ShapeError: Factors do not belong together, look swapped, or are not of floating point.
        NumericalError: A factor holds NaN or infinity.
        UnsupportedError: A factor belongs to a grouped convolution.
        ConfigError: Two places state different scales, or two names mean one module.
    """
    updates: dict[Target, Update] = {}
    names: dict[Target, str] = {}
    sources: Counter[ScaleSource] = Counter()
    seen: Counter[str] = Counter()
    vouched: set[Target] = set()
    for entry in entries:
        if entry.target in names:
            raise _shadow(str(entry.target), names[entry.target], entry.name, file)
        names[entry.target] = entry.name
        places = configs(entry.target)
        updates[entry.target], source = _read(file, entry, places, seen)
        sources[source] += 1
        # Configs state the rank; an alpha that equals it confirms it.
        if places or (source == "tensor" and updates[entry.target].factors.scale == 1.0):
            vouched.add(entry.target)
    _refuse_swapped(updates, vouched, names)
    source = next((place for place in _PLACES if sources[place]), "absent")
    if source != "absent" and sources["absent"]:
        seen["no scale is stated, which means alpha == rank,"] = sources["absent"]
    return AdapterFile(
        path=file.path,
        form=form,
        adapter=Adapter(updates, kept(file.metadata)),
        scale_source=source,
        notes=(*notes, *(f"{what} at {n} of {len(updates)} modules" for what, n in seen.items())),
    )


def _read(
    file: TensorFile, entry: Entry, configs: Mapping[ScaleSource, PEFTConfig], seen: Counter[str]
) -> tuple[Update, ScaleSource]:
    down, up = (_factor(file, entry, side, seen) for side in "AB")
    stated = _stated_scales(file, entry, down.shape[0], configs)
    source, scale = _agreed(file, entry, stated)
    if "mid" in entry.keys:
        down, up = _folded(down, _factor(file, entry, "mid", seen), up, entry.name)
        seen["a Tucker core (lora_mid) was folded into lora_down"] += 1
    return _update(entry.name, down, up, scale), source


def _factor(file: TensorFile, entry: Entry, role: str, seen: Counter[str]) -> _Array:
    if role not in entry.keys:
        raise ShapeError("a pair of factors", sorted(entry.keys.values()), where=entry.name)
    array = _in_memory(file, entry.keys[role])
    if array.dtype.name in _EIGHT_BITS:
        # Which holds every value of eight bits exactly.
        array = array.astype(np.float16)
        seen[f"eight-bit factors ({role}) were widened to float16"] += 1
    if array.dtype.name not in _FLOATS:
        raise ShapeError("factors of floating point", array.dtype.name, where=entry.name)
    if array.size == 0:
        raise ShapeError("a rank of at least 1", array.shape, where=entry.name, hint=_EMPTY)
    if array.ndim not in (2, 4):
        raise ShapeError("two matrices or two kernels", array.shape, where=entry.name)
    require_finite(array, where=entry.name, hint=_DAMAGED)
    return array


def _in_memory(file: TensorFile, key: str) -> _Array:
    # Not mapped: the file may change or vanish while the adapter lives on.
    info = file.infos[key]
    raw = np.fromfile(file.path, np.uint8, info.size_bytes, offset=info.start)
    return raw.view(info.dtype).reshape(info.shape)


def _stated_scales(
    file: TensorFile, entry: Entry, rank: int, configs: Mapping[ScaleSource, PEFTConfig]
) -> dict[ScaleSource, float]:
    stated = {source: config.scale(entry.name, rank) for source, config in configs.items()}
    if (key := entry.keys.get("alpha")) is not None:
        tensor = _in_memory(file, key)
        if tensor.size != 1:
            raise ShapeError("alpha as one number", tensor.shape, where=entry.name)
        alpha = float(tensor.reshape(()).astype(np.float64))
        if not math.isfinite(alpha):
            require_finite(np.asarray(alpha), where=key, hint="write the alpha of training there")
        if alpha:  # 0 means that nobody set it
            stated["tensor"] = alpha / rank
    return stated


def _agreed(
    file: TensorFile, entry: Entry, stated: Mapping[ScaleSource, float]
) -> tuple[ScaleSource, float]:
    if not stated:
        return "absent", 1.0
    source, *others = (place for place in _PLACES if place in stated)
    for place in others:
        if not math.isclose(stated[place], stated[source], rel_tol=_rounding(file, entry)):
            expected = f"one scale in every place, as in the {source}: {stated[source]!r}"
            got = f"{stated[place]!r} in the {place} (ALPHA_CONFLICT)"
            raise ConfigError(
                ConfigProblem(key=entry.name, expected=expected, got=got), file=file.path
            )
    return source, stated[others[0] if others else source]


def _rounding(file: TensorFile, entry: Entry) -> float:
    # A tensor has alpha in the dtype of the factors, which may be half precision.
    dtype = file.infos[entry.keys["alpha"]].dtype if "alpha" in entry.keys else None
    return unit_roundoff(dtype) if dtype is not None and dtype.name in _FLOATS else 2**-24


def _folded(down: _Array, mid: _Array, up: _Array, where: str) -> tuple[_Array, _Array]:
    """A Tucker triple as a pair: the core and the 1x1 ``down`` before it are one convolution."""
    pointwise = {down.shape[2:], up.shape[2:]} <= {(1, 1), ()}
    if mid.ndim != 4 or not pointwise or mid.shape[:2] != (up.shape[1], down.shape[0]):
        raise ShapeError(
            "a core (rank, rank, kh, kw) between two 1x1 kernels",
            (down.shape, mid.shape, up.shape),
            where=where,
        )
    wide = (factor.astype(np.float64) for factor in (mid, down.reshape(down.shape[:2])))
    folded = np.einsum("pqhw,qi->pihw", *wide)
    dtype = np.float64 if down.dtype == np.float64 else np.float32
    return folded.astype(dtype), up.reshape(*up.shape[:2], 1, 1).astype(dtype)


def _update(module: str, a: _Array, b: _Array, scale: float) -> Update:
    if {a.ndim, b.ndim} == {2, 4}:
        # Some tools squeeze the factors of convolutions, others pad those of linear layers.
        a, b = (each if each.ndim == 4 else each[..., None, None] for each in (a, b))
    if _looks_grouped(a.shape, b.shape):
        raise UnsupportedError(
            f"what looks like a grouped convolution, {a.shape} and {b.shape} at {module!r},",
            by="low-rank updates",
            hint="its update is block-diagonal; leave the module out",
        )
    try:
        return Update.from_factors(a, b, scale)
    except ShapeError as error:
        hint = _likely_mistake(a.shape, b.shape) or error.hint
        raise ShapeError(error.expected, error.got, where=module, hint=hint) from None


def _looks_grouped(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    # The second convolution takes the groups over, and with them a part of the rank each.
    if len(a) != 4 or len(b) != 4 or b[1] == 0 or a[0] <= b[1]:
        return False
    groups, rest = divmod(a[0], b[1])
    return rest == 0 and b[0] % groups == 0


def _refuse_swapped(
    updates: Mapping[Target, Update], vouched: Collection[Target], names: Mapping[Target, str]
) -> None:
    """Refuse the factors of a square layer in each other's place, which fit as well.

    They read as a rank above both sides. A thin layer may have such a rank because the whole file
    has it: so it has to be the rank of another module too, or to be stated.
    """
    usual = {update.rank for update in updates.values() if update.rank <= max(update.factors.shape)}
    for target, update in updates.items():
        shape = update.factors.shape
        if update.rank > max(shape) and update.rank not in usual and target not in vouched:
            hint = "the two look swapped or transposed; if not, state alpha = rank"
            expected = f"a rank of at most {max(shape)} at a layer {shape[0]} x {shape[1]}"
            raise ShapeError(expected, update.rank, where=names[target], hint=hint)


def _likely_mistake(a: tuple[int, ...], b: tuple[int, ...]) -> str | None:
    if len(a) < 2 or len(b) < 2:
        return None
    if a[1] == b[0]:
        return "each looks transposed, or the two are swapped"
    if a[1] == b[1]:
        return "A looks transposed"
    return "B looks transposed" if a[0] == b[0] else None


def _shadow(what: str, first: str, second: str, file: TensorFile) -> ConfigError:
    expected = f"one name for one module, as {first!r}"
    got = f"{second!r} as well (KEY_SHADOW)"
    return ConfigError(ConfigProblem(key=what, expected=expected, got=got), file=file.path)
