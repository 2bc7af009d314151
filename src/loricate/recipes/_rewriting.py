"""Adapters on their way from file to file: cast once, compared with what was meant, kept whole."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import AdapterFile
from loricate.basics.arrays import dtype_name, upcast
from loricate.basics.errors import NumericalError, UnsupportedError
from loricate.lowrank.factors import LowRank
from loricate.lowrank.gram import retained_energy
from loricate.lowrank.rules import RankRule
from loricate.lowrank.svd import balanced
from loricate.recipes._out import Destination, DtypeName

__all__ = [
    "Change",
    "Observer",
    "Rewriting",
    "Written",
    "WrittenModule",
    "in_single",
    "stored_dtype",
    "truncated",
]

Observer: TypeAlias = Callable[[str, int, int], None]

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_SPLIT = "use --dtype float32, or split the factors evenly with resize --rule numerical"


class Change(NamedTuple):
    """What becomes of one update.

    Args:
        exact: What is meant.
        kept: What is written of it, before it is cast.
        dtype: Dtype of the source.
    """

    exact: Update
    kept: LowRank
    dtype: np.dtype[Any]


def in_single(factors: LowRank) -> LowRank:
    """The same factors in float32 or wider."""
    return LowRank(upcast(factors.A), upcast(factors.B), factors.scale)


def stored_dtype(*updates: Update) -> np.dtype[Any]:
    """The dtype of all factors; float32 or wider where they differ, as two halves have no common.

    Args:
        updates: Updates in numpy.
    """
    dtypes: set[np.dtype[Any]] = {
        factor.dtype for each in updates for factor in (each.factors.A, each.factors.B)
    }
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def truncated(exact: Update, rule: RankRule, dtype: np.dtype[Any]) -> Change:
    """The best update of the rank a rule picks, split evenly between its factors.

    Args:
        exact: Update of any rank.
        rule: How the rank is chosen.
        dtype: Dtype of the source.

    Raises:
        UnsupportedError: The rule is not for products of factors.
    """
    return Change(exact, balanced(in_single(exact.factors), rule), dtype)


@final
@dataclass(frozen=True, kw_only=True)
class WrittenModule:
    """What became of one module.

    Args:
        component: Part of the pipeline, such as ``unet``.
        module: Dotted path inside the component.
        shape: Shape of the weight.
        rank_before: Rank of the factors of what is meant.
        rank: Rank that was written; 0 means that nothing was.
        retained_energy: Share of the squared norm that is in the file, all rounding included.
        n_underflow: Entries of the factors that rounding made zero.
    """

    component: str
    module: str
    shape: tuple[int, ...]
    rank_before: int
    rank: int
    retained_energy: float
    n_underflow: int


@final
@dataclass(frozen=True, kw_only=True)
class Written:
    """An adapter that was written.

    Args:
        out: File or folder.
        form: What it is now.
        notes: Oddities of the sources that were resolved, in words.
        modules: What became of each module.
    """

    out: Path
    form: str
    notes: tuple[str, ...]
    modules: tuple[WrittenModule, ...]

    @property
    def n_underflow(self) -> int:
        """Entries of all factors that rounding made zero."""
        return sum(module.n_underflow for module in self.modules)

    @property
    def least_energy(self) -> float:
        """Smallest share of the squared norm that any module keeps."""
        return min(module.retained_energy for module in self.modules)

    @property
    def parameter_share(self) -> float:
        """Entries of the written factors over entries of the exact ones."""
        sides = [module.shape[0] + math.prod(module.shape[1:]) for module in self.modules]
        pairs = list(zip(sides, self.modules, strict=True))
        before = sum(n * module.rank_before for n, module in pairs)
        return sum(n * module.rank for n, module in pairs) / before


@final
@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """Makes one adapter file of others.

    Args:
        sources: What is read; the first decides the form where the destination leaves it open.
        destination: Where the result goes.
        metadata: Text that travels with it.
        base: Model that was read as well.
        observe: Called with (done, total) after every module.
    """

    sources: tuple[AdapterFile, ...]
    destination: Destination
    metadata: Mapping[str, str]
    base: Path | None = None
    observe: Callable[[int, int], None] = field(default=lambda done, total: None)

    def write(self, changes: Mapping[Target, Callable[[], Change]]) -> Written:
        """Work out all updates and write them, completely or not at all.

        Args:
            changes: What to call for each update.

        Raises:
            ConfigError: The destination is taken, or one of PEFT would have to hold several
                components.
            NumericalError: A value does not fit into the dtype, or nothing of an update does.
            UnsupportedError: Nothing is left, or the form cannot hold it.
            PrerequisiteError: There is no room or permission to write.
        """
        destination = self._destination()
        destination.require_free(self._read())
        destination.require_components({target.component for target in changes})
        updates: dict[Target, Update] = {}
        modules = []
        for done, (target, work) in enumerate(changes.items(), start=1):
            update, module = _cast(target, work(), destination.dtype)
            modules.append(module)
            if update.rank:
                updates[target] = update
            self.observe(done, len(changes))
        if not updates:
            raise UnsupportedError(f"rank 0 for all {len(modules)} modules", by="a LoRA")
        destination.save(Adapter(updates, self.metadata))
        notes = tuple(f"{each.path.name}: {note}" for each in self.sources for note in each.notes)
        form = str(destination.form)
        return Written(out=destination.path, form=form, notes=notes, modules=tuple(modules))

    def _destination(self) -> Destination:
        # ComfyUI has no form of its own that it would not take as kohya's.
        form = self.destination.form or self.sources[0].form
        return replace(self.destination, form="kohya" if form == "comfy" else form)

    def _read(self) -> list[Path]:
        return [*(source.path for source in self.sources), *filter(None, [self.base])]


def _cast(target: Target, change: Change, dtype: DtypeName | None) -> tuple[Update, WrittenModule]:
    exact, kept, source_dtype = change
    wanted = source_dtype if dtype is None else _DTYPES[dtype]
    (a, lost_a), (b, lost_b) = (
        _rounded(factor, wanted, target) for factor in (kept.A, kept.baked().B)
    )
    factors = LowRank(a, b)
    if kept.scale and _n_terms(kept) and not _n_terms(factors):
        what = f"all of the update is lost in {dtype_name(wanted)}"
        raise NumericalError(what, where=str(target), hint=_SPLIT)
    module = WrittenModule(
        component=target.component,
        module=target.module,
        shape=exact.weight_shape,
        rank_before=exact.rank,
        rank=factors.rank,
        retained_energy=retained_energy(exact.factors, factors),
        n_underflow=lost_a + lost_b,
    )
    return Update(factors, exact.kernel), module


def _n_terms(factors: LowRank) -> int:
    """How many columns of B meet a row of A where neither is zero."""
    return int(np.count_nonzero(factors.A.any(axis=1) & factors.B.any(axis=0)))


def _rounded(
    factor: NDArray[Any], dtype: np.dtype[Any], target: Target
) -> tuple[NDArray[Any], int]:
    """The factor in a dtype, and how many entries became zero."""
    if factor.dtype == dtype:
        return factor, 0
    with np.errstate(over="ignore", under="ignore"):
        cast = factor.astype(dtype)
    if not np.isfinite(cast).all():
        what = f"a factor exceeds the range of {dtype_name(dtype)}"
        raise NumericalError(what, where=str(target), hint=_SPLIT)
    return cast, int(np.count_nonzero(factor) - np.count_nonzero(cast))
