"""The errors loricate raises on purpose.

A message says expected, got, where and what to do, in lower case, with values by ``repr``. The
same facts are attributes, and tests read those first.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

__all__ = [
    "BudgetViolation",
    "ConfigError",
    "ConfigProblem",
    "HostileFileError",
    "IntegrityError",
    "LoricateError",
    "NumericalError",
    "PrerequisiteError",
    "ShapeError",
    "UnsupportedError",
    "nearest",
]

_ALIKE = 0.6
"""Least ratio of two words that are close, as in ``difflib.get_close_matches``."""

_EXTRA_OF = {
    "accelerate": "sd",
    "diffusers": "sd",
    "peft": "sd",
    "torch": "sd",
    "transformers": "sd",
    "model_signing": "sign",
    "OpenSSL": "sign",
}


class LoricateError(Exception):
    """Anything loricate refuses to do, with the reason."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes send errors by pickle, which would call __init__ with the message alone.
        return _revive, (type(self), self.args, self.__dict__)


def _revive(cls: type[LoricateError], args: tuple[object, ...], state: dict[str, object]) -> Any:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


@dataclass(frozen=True, kw_only=True)
class ConfigProblem:
    """One reason why a spec, a flag or a name does not fit.

    Args:
        key: Dotted path of the field, such as ``attack.steps``.
        expected: What would have fitted, in words.
        got: The offending value.
        nearest: Closest valid spelling, if one is close.
    """

    key: str
    expected: str
    got: object
    nearest: str | None = None

    def under(self, prefix: str) -> Self:
        """The same problem, seen from the table that holds ``prefix``."""
        return replace(self, key=f"{prefix}.{self.key}" if self.key else prefix)

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        where = f"{self.key}: " if self.key else ""
        return f"{where}expected {self.expected}, got {self.got!r}{hint}"


class ConfigError(LoricateError):
    """A spec does not fit; every problem is listed, not only the first.

    Args:
        problems: One problem or several.
        file: The file they were read from.
    """

    def __init__(
        self, problems: ConfigProblem | Iterable[ConfigProblem], *, file: str | Path | None = None
    ) -> None:
        listed = [problems] if isinstance(problems, ConfigProblem) else problems
        self.problems = tuple(listed)
        self.file = None if file is None else str(file)
        head = [f"in {self.file}:"] if self.file else []
        super().__init__("\n".join([*head, *map(str, self.problems)]))


class ShapeError(LoricateError):
    """A tensor has the wrong shape or dtype.

    Args:
        expected: What would have fitted, in words.
        got: The shape or dtype found.
        where: Module path, key or argument name.
        hint: The likely cause, such as ``it looks transposed``.
    """

    def __init__(
        self, expected: str, got: object, *, where: str | None = None, hint: str | None = None
    ) -> None:
        self.expected = expected
        self.got = got
        self.where = where
        self.hint = hint
        place = f" for {where!r}" if where else ""
        super().__init__(f"expected {expected}{place}, got {got!r}{_tail(hint)}")


class NumericalError(LoricateError):
    """NaN, infinity or no convergence.

    Args:
        what: What went wrong, such as ``the loss is NaN``.
        where: Module path or argument name.
        step: Training or attack step at which it was seen.
        hint: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        step: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.step = step
        self.hint = hint
        place = f" in {where!r}" if where else ""
        moment = f" at step {step}" if step is not None else ""
        super().__init__(f"{what}{place}{moment}{_tail(hint)}")


class BudgetViolation(LoricateError):
    """An attack left its ball or domain by more than rounding: a bug in the attack.

    Args:
        budget: What bounds the attack, such as ``linf ball``.
        allowed: Largest value the budget permits, in domain units.
        got: Value found, in domain units.
        sample: Index of the offending sample in its batch.
    """

    def __init__(
        self, budget: str, *, allowed: float, got: float, sample: int | None = None
    ) -> None:
        self.budget = budget
        self.allowed = allowed
        self.got = got
        self.sample = sample
        place = f" for sample {sample}" if sample is not None else ""
        super().__init__(f"expected at most {allowed!r} ({budget}){place}, got {got!r}")


class UnsupportedError(LoricateError):
    """Valid, but not for this family, format or dtype.

    Args:
        what: What was asked for, such as ``a gated adapter``.
        by: What cannot do it, such as ``format 'kohya'``.
        hint: What can.
    """

    def __init__(self, what: str, *, by: str, hint: str | None = None) -> None:
        self.what = what
        self.by = by
        self.hint = hint
        super().__init__(f"{what} is not supported by {by}{_tail(hint)}")


class PrerequisiteError(LoricateError):
    """An extra, weights or a device is missing.

    Args:
        missing: What is not there.
        remedy: The line to run, or the flag to give, that mends it.
    """

    def __init__(self, missing: str, *, remedy: str) -> None:
        self.missing = missing
        self.remedy = remedy
        super().__init__(f"{missing} is missing; {remedy}")

    @classmethod
    def from_import(cls, error: ModuleNotFoundError) -> Self | None:
        """The install line behind a failed import, or ``None`` if no extra would mend it."""
        package = (error.name or "").partition(".")[0]
        extra = _EXTRA_OF.get(package)
        if extra is None:
            return None
        return cls(f"package {package!r}", remedy=f"run: pip install 'loricate[{extra}]'")


class IntegrityError(LoricateError):
    """A digest, manifest or signature does not match.

    Args:
        what: What was compared, such as ``base digest``.
        entries: Names of the entries that differ.
    """

    def __init__(self, what: str, *, entries: Sequence[str] = ()) -> None:
        self.what = what
        self.entries = tuple(entries)
        listed = f": {', '.join(map(repr, self.entries))}" if self.entries else ""
        super().__init__(f"{what} does not match{listed}")


class HostileFileError(LoricateError):
    """A file was refused before it was parsed.

    Args:
        path: The file.
        reason: Why, such as ``header of 2 GB exceeds 100 MB``.
    """

    def __init__(self, path: str | Path, *, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"refused {self.path!r}: {reason}")


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most alike to a word, or ``None`` when none is close."""
    plain = {candidate.lower(): candidate for candidate in candidates}
    matcher = difflib.SequenceMatcher(b=word.lower().replace("-", "_"))
    bounds = []
    for each in plain:
        matcher.set_seq1(each)
        if matcher.real_quick_ratio() >= _ALIKE:
            bounds.append((matcher.quick_ratio(), each))
    best = (_ALIKE, "")
    # Most promising first: of thousands of candidates only a few are compared letter by letter.
    for bound, each in sorted(bounds, reverse=True):
        if bound < best[0]:
            break
        matcher.set_seq1(each)
        best = max(best, (matcher.ratio(), each))
    return plain.get(best[1])


def _tail(hint: str | None) -> str:
    return f"; {hint}" if hint else ""
