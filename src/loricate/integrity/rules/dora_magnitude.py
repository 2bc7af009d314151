"""Magnitudes of DoRA out of proportion to the weights whose size they set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np
from jaxtyping import Float

from loricate.adapters.weights import StoredArray
from loricate.integrity._base_spectrum import as_matrix
from loricate.integrity._keys import Part, kind_of_key, part_of
from loricate.integrity._reading import tensors_of, weights_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject
from loricate.lowrank.factors import LowRank

__all__ = ["DoraMagnitude"]

_KIND = "dora"
_OF_ROWS = "lora_magnitude_vector"
_VANISHING = 1e-6


class _Sized(NamedTuple):
    """Magnitudes of a module over the norms that they take the place of."""

    module: str
    whole: float
    length: float
    least: float
    most: float


@final
@dataclass(frozen=True, kw_only=True)
class DoraMagnitude(Rule):
    """Magnitudes of DoRA that are not the norms of base plus update, or near them.

    DoRA scales every row (PEFT, LyCORIS) or column (older LyCORIS) of base plus update to a
    magnitude, which training starts at the norm that is there. High where the magnitudes of a
    module, projected on those norms or by their length, are ``huge`` times them, or projected below
    ``share`` of them: nothing of the weight is left, or most of it is gone. Medium from ``large``
    times or half of them on, and where a single one is ``huge`` times its norm, a tenth of it, or
    negative.

    Cannot see what a few changed rows do within these limits. A module is not verified where the
    base has no weight of its shape.

    Args:
        share: Part of the norms below which most of the weight is gone.
        large: Magnitudes over norms from which on they are unusual.
        huge: The same, from which on nothing of the weight is left.

    Source: The limits are those of ``norm_outlier``; no adapter of this kind was trained here.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True
    needs_base: ClassVar = True
    is_essential: ClassVar = True

    share: float = 0.25
    large: float = 4.0
    huge: float = 10.0

    def concerns(self, subject: Subject) -> bool:
        """Whether a file has magnitudes.

        Args:
            subject: A safetensors file.
        """
        keys = subject.tensors
        return keys is None or any(kind_of_key(key) == _KIND for key in keys)

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for the file, and the modules that fit no weight."""
        parts = [part_of(key) for key in tensors_of(subject)]
        sized: list[_Sized] = []
        for part in parts:
            if part is None or part.kind != _KIND:
                continue
            found = _sized(subject, part)
            if isinstance(found, str):
                yield self.not_verified(subject, found, where=part.module)
            else:
                sized.append(found)
        graded = {each: grade for each in sized if (grade := self._grade(each)) is not None}
        if graded:
            worst = max(graded, key=lambda each: (graded[each].level, abs(np.log2(_size(each)))))
            yield self.finding(
                subject,
                graded[worst],
                f"magnitudes of DoRA are {worst.whole:.3g} times the norms of the weight, single "
                f"ones {worst.least:.3g} to {worst.most:.3g} times; {len(graded) - 1} more modules "
                "are out of proportion",
                advice="do not load it; trained magnitudes stay near the norms of the base",
                where=worst.module,
                whole=worst.whole,
                least=worst.least,
                most=worst.most,
                n_modules=len(graded),
            )

    def _grade(self, sized: _Sized) -> Severity | None:
        if not self.share < sized.whole < self.huge or sized.length >= self.huge:
            return Severity.HIGH
        is_whole = 0.5 < sized.whole < self.large
        is_each = 1 / self.huge < sized.least and sized.most < self.huge
        return None if is_whole and is_each else Severity.MEDIUM


def _size(sized: _Sized) -> float:
    return max(abs(sized.whole), np.finfo(np.float64).tiny)


def _sized(subject: Subject, part: Part) -> _Sized | str:
    """Magnitudes of a module beside the norms of its weight, or why they cannot be compared."""
    readable, base = subject.readable, subject.base
    target = None if readable is None else readable.placed.get(part.module)
    if readable is None or base is None or target is None:
        return "DoRA without a pair of factors"
    weight = weights_of(readable.adapter, base).get(target)
    if weight is None:
        return "the base has no weight that these magnitudes fit"
    stored = np.asarray(tensors_of(subject)[part.key], np.float64)
    is_rows = part.role.startswith(_OF_ROWS) or stored.shape[:1] == weight.shape[:1]
    norms = _norms(weight, readable.adapter[target].factors, is_rows)
    if stored.size != norms.size or not norms.any():
        return f"magnitudes of shape {stored.shape} fit no weight of shape {weight.shape}"
    magnitudes = stored.reshape(-1)
    if not np.isfinite(magnitudes).all():
        return "magnitudes that are no numbers"
    # Where base and update cancel, what is left has any direction, at the size of its magnitude.
    least = _VANISHING * norms.max()
    there = (norms > least) | (np.abs(magnitudes) > least)
    ratios = magnitudes[there] / np.maximum(norms[there], least)
    whole = float(magnitudes @ norms / (norms @ norms))
    length = float(np.linalg.norm(magnitudes) / np.linalg.norm(norms))
    return _Sized(part.module, whole, length, float(ratios.min()), float(ratios.max()))


def _norms(weight: StoredArray, update: LowRank, is_rows: bool) -> Float[np.ndarray, " n"]:
    """Norms of base plus update, over outputs or over inputs."""
    a, b = (np.asarray(each, np.float32) for each in (update.A, update.B))
    total = as_matrix(weight) + np.float32(update.scale) * (b @ a)
    if is_rows:
        return np.asarray(np.linalg.norm(total, axis=1), np.float64)
    kernels = total.reshape(len(weight), weight.shape[1], -1)
    return np.asarray(np.sqrt(np.sum(np.square(kernels, dtype=np.float64), axis=(0, 2))))
