import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.errors import (
    BudgetViolation,
    ConfigError,
    HostileFileError,
    IntegrityError,
    NumericalError,
    PrerequisiteError,
    ShapeError,
    UnsupportedError,
)
from loricate.cli.exits import ExitCode, for_error, for_outcome, over_items

_HOSTILE = HostileFileError("x.pt", reason="pickle")


@pytest.mark.parametrize(
    ("error", "command", "code"),
    [
        (ConfigError([]), None, 2),
        (click.UsageError("no such option"), None, 2),
        (ShapeError("a matrix", (3,)), "harden", 3),
        (NumericalError("the loss is NaN"), "harden", 3),
        (BudgetViolation("linf ball", allowed=0.1, got=0.2), "harden", 3),
        (UnsupportedError("a gate", by="format 'kohya'"), "convert", 3),
        (PrerequisiteError("torch", remedy="install it"), "harden", 3),
        (IntegrityError("base digest"), "harden", 1),
        (_HOSTILE, "scan", 1),
        (_HOSTILE, "verify", 1),
        (_HOSTILE, "harden", 3),
        (click.FileError("x"), "ls", 3),
        (RuntimeError("out of memory"), "harden", 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_code(error: Exception, command: str | None, code: int) -> None:
    assert for_error(error, command) == code


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 4)])
def test_each_outcome_has_its_code(outcome: str, code: int) -> None:
    assert for_outcome(outcome) == code


@given(st.lists(st.sampled_from([0, 1, 3, 4]).map(ExitCode), min_size=1))
def test_the_gravest_item_decides(codes: list[ExitCode]) -> None:
    assert over_items(codes) == min(codes, key=[1, 3, 4, 0].index)


def test_no_item_shows_nothing() -> None:
    assert over_items([]) is ExitCode.INCONCLUSIVE
