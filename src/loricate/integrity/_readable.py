"""What can be judged of an adapter that is no plain one as a whole."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats._kohya_names import underscored
from loricate.adapters.formats._peft_config import PEFTConfig, header_config
from loricate.adapters.formats.diffusers import COMPONENTS
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import LoricateError, ShapeError, UnsupportedError
from loricate.integrity._alpha import alpha_of
from loricate.integrity._base_model import Base
from loricate.integrity._keys import PEFT_PREFIX, Part, part_of, place_of
from loricate.integrity._products import loha, lokr, multiplied
from loricate.lowrank.factors import LowRank

__all__ = ["DORA", "Readable", "readable_part"]

_UNNAMED = "model"
# Beyond it a product of factors overflows anyhow.
_HUGE = 1e300
_LEVELS = re.compile(r"_(?=\d)|(?<=\d)_")

DORA = "DoRA, whose magnitudes set the size of the weight"
"""Why a module is left out whose factors are read, and whose magnitudes a rule compares."""

# Kinds whose numbers are not read, and what they are called. Others are findings by their names.
_UNREAD = {
    "dora": DORA,
    "oft": "OFT, which turns the weight",
    "glora": "GLoRA, which multiplies the weight",
    "ia3": "IA3, which multiplies what goes in or out",
    "bias": "a bias beside the factors",
    "unknown": "tensors of an unknown kind",
}


class Readable(NamedTuple):
    """The part of an adapter whose numbers can be read.

    Args:
        adapter: Updates; of two that mean one module, the larger one.
        left_out: Why others cannot be read, by module as the file spells it.
        placed: Where modules attach, by the same spelling; empty for a plain adapter.
    """

    adapter: Adapter
    left_out: Mapping[str, str]
    placed: Mapping[str, Target] = {}


def readable_part(
    file: TensorFile, config: Mapping[str, Any] | None, base: Base | None
) -> Readable:
    """Updates of a file, module by module, as far as there are any that can be read.

    Reads plain pairs with or without a core, pairs of embeddings, LoHa and LoKr. Where places state
    different scales it takes the largest, as there is a loader for each.

    Args:
        file: An adapter by its names.
        config: What stands beside it in ``adapter_config.json``.
        base: Model whose modules names are resolved by.
    """
    scales = _Scales(file, config)
    names = _Names(base)
    updates: dict[Target, Update] = {}
    left_out: dict[str, str] = {}
    placed: dict[str, Target] = {}
    for module, parts in _grouped(file).items():
        if unread := sorted({part.kind for part in parts} & _UNREAD.keys()):
            left_out[module] = "; ".join(_UNREAD[kind] for kind in unread)
        try:
            factors = _factors(file, module, parts, scales)
        except LoricateError as error:
            left_out[module] = f"cannot be read: {type(error).__name__}"
            continue
        if factors is not None:
            target, update = names.placed(module, factors)
            placed[module] = target
            twin = updates.get(target)
            updates[target] = update if twin is None else _larger(update, twin)
    return Readable(Adapter(updates, dict(file.metadata)), left_out, placed)


def _grouped(file: TensorFile) -> dict[str, list[Part]]:
    modules: dict[str, list[Part]] = {}
    for part in filter(None, map(part_of, file)):
        modules.setdefault(part.module, []).append(part)
    return modules


def _factors(
    file: TensorFile, module: str, parts: Sequence[Part], scales: "_Scales"
) -> Update | None:
    """The update of a module, or ``None`` where its tensors are not factors of one."""
    keys = {part.role: part.key for part in parts if part.kind == "lora"}
    alpha = alpha_of(file, keys["alpha"]) if "alpha" in keys else None
    for kind, product in (("loha", loha), ("lokr", lokr)):
        tensors = {part.role: _finite(file, part.key) for part in parts if part.kind == kind}
        if tensors:
            return Update(product(tensors, alpha))
    if {"A", "B"} <= keys.keys():
        roles = [role for role in ("A", "B", "mid") if role in keys]
        update = _pair(*(_finite(file, keys[role]) for role in roles))
    elif pair := sorted(part.key for part in parts if ".lora_embedding_" in part.key)[:2]:
        if len(pair) < 2:
            raise ShapeError("a pair of factors", pair)
        # An embedding has its inputs as rows, so that its update is the product transposed.
        a, b = (_finite(file, key) for key in pair)
        update = Update(LowRank(b.T, a.T))
    else:
        return None
    return replace(update, factors=update.factors.scaled(scales.of(module, update.rank, alpha)))


def _pair(a: Any, b: Any, mid: Any = None) -> Update:
    if mid is not None:
        if a.ndim < 2 or a.size != math.prod(a.shape[:2]):
            raise ShapeError("a core between two 1x1 kernels", (a.shape, mid.shape))
        a = multiplied("pqhw,qi->pihw", mid, a.reshape(a.shape[:2]))
    if {a.ndim, b.ndim} == {2, 4}:
        a, b = (each if each.ndim == 4 else each[..., None, None] for each in (a, b))
    if not {a.ndim, b.ndim} <= {2, 4} or 0 in (a.size, b.size):
        raise ShapeError("two matrices or two kernels", (a.shape, b.shape))
    return Update.from_factors(a, b)


def _finite(file: TensorFile, key: str) -> Any:
    array = np.asarray(file[key])
    if array.dtype.kind in "iub" or array.ndim == 0:
        raise ShapeError("factors of floating point", array.dtype.name)
    wide = array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32)
    if not np.isfinite(wide).all():
        raise UnsupportedError("NaN or infinity", by="this reader")
    return wide


def _larger(update: Update, other: Update) -> Update:
    sizes = [float(each.factors.frobenius_norm()) for each in (update, other)]
    return update if sizes[0] >= sizes[1] else other


class _Scales:
    """What is said of the scale of modules, in tensors, config and header."""

    def __init__(self, file: TensorFile, config: Mapping[str, Any] | None) -> None:
        self._config = config or {}
        self._places = list(_configs(file, self._config))

    def of(self, module: str, rank: int, alpha: float | None) -> float:
        """The largest scale that a place states; 1 where none does."""
        stated = [] if alpha is None else [alpha / rank]
        for prefix, place in self._places:
            if module.startswith(prefix):
                try:
                    bare = module.removeprefix(prefix).removeprefix(PEFT_PREFIX)
                    stated.append(place.scale(bare, rank))
                except LoricateError:
                    stated += self._bare(rank)
        return max(stated, key=abs, default=1.0)

    def _bare(self, rank: int) -> Iterable[float]:
        """Every alpha in a config whose patterns are not run, over the rank."""
        patterns = self._config.get("alpha_pattern")
        alphas = [self._config.get("lora_alpha")]
        alphas += patterns.values() if isinstance(patterns, dict) else []
        divisor = math.sqrt(rank) if self._config.get("use_rslora") else rank
        for each in alphas:
            if isinstance(each, int | float) and abs(each) < _HUGE:
                yield each / divisor


def _configs(file: TensorFile, table: Mapping[str, Any]) -> Iterator[tuple[str, PEFTConfig]]:
    if table.get("peft_type") is not None or "lora_alpha" in table:
        try:
            yield "", PEFTConfig.parse(table, Path(file.path))
        except LoricateError:
            yield "", PEFTConfig(math.nan, math.nan)
    for prefix in (PEFT_PREFIX, "", *(f"{component}." for component in COMPONENTS)):
        try:
            found = header_config(file, prefix)
        except LoricateError:
            continue
        if found is not None:
            yield prefix, found


class _Names:
    """Modules by the names of a base, or by what their names look like."""

    def __init__(self, base: Base | None) -> None:
        self._base = base
        parts = {} if base is None else {part: base.modules(part) for part in base.components}
        self._known = {
            part: {underscored(name): name for name in names} for part, names in parts.items()
        }

    def placed(self, name: str, update: Update) -> tuple[Target, Update]:
        """Where an update attaches, and the update in the shape of the weight there."""
        place = place_of(f"{name}.alpha")
        component, module = ("", name) if place is None else (place.component, place.module)
        owners = [component] if component in self._known else [*self._known]
        for owner in owners:
            if (dotted := self._known[owner].get(module)) is not None:
                return Target(component or owner, dotted), self._shaped(owner, dotted, update)
        return Target(_plain(component) or _UNNAMED, _plain(module) or _UNNAMED), update

    def _shaped(self, owner: str, module: str, update: Update) -> Update:
        """With the kernel of the weight, which flat products do not know."""
        shape = self._base.shape(owner, module) if self._base is not None else None
        is_flat = shape is not None and len(shape) == 4 and update.kernel is None
        if shape is None or not is_flat or update.factors.shape[1] != math.prod(shape[1:]):
            return update
        return replace(update, kernel=(shape[1], shape[2], shape[3]))


def _plain(name: str) -> str:
    """A dotted name of letters; numbers in it end a level."""
    dotted = _LEVELS.sub(".", re.sub(r"[^A-Za-z0-9_.]", "_", name))
    return ".".join(filter(None, dotted.split(".")))
