import math
import re
from pathlib import Path

import pytest

from loricate.records.names import epsilon_text
from loricate.records.schema import Aggregate, Criterion
from loricate.report import words

_CHECKS_PAGE = Path(__file__).parents[3] / "docs" / "checks.md"


def _aggregate(metric: str, value: float, low: float, high: float) -> Aggregate:
    return Aggregate(
        subject="base",
        surface="edit",
        attack="pgd",
        objective="edit_shift",
        epsilon=0.1,
        metric=metric,
        n=10,
        value=value,
        low=low,
        high=high,
        method="bootstrap",
    )


@pytest.mark.parametrize(
    ("aggregate", "text"),
    [
        (_aggregate("edit_attack_success_rate", 0.714, 0.62, 0.79), "71 % [62, 79]"),
        (_aggregate("edit_attack_success_rate", 0.0, 0.0, 0.037), "0.0 % [0.0, 3.7]"),
        (_aggregate("reconstruction_psnr", 28.412, 28.131, 28.69), "28.41 dB [28.13, 28.69]"),
        (_aggregate("latent_drift", 0.3799, 0.361, 0.3992), "0.380 [0.361, 0.399]"),
        (_aggregate("latent_drift", -1e-9, -0.01, 0.01), "0.000 [~0.010, 0.010]"),
        (_aggregate("latent_drift", 1.0, -math.inf, math.inf), "1.00 [~∞, ∞]"),
        (_aggregate("latent_drift", math.nan, 0.0, 1.0), "undefined [0.0, 1.0]"),
    ],
)
def test_an_interval_prints_the_digits_it_supports(aggregate: Aggregate, text: str) -> None:
    assert words.interval(aggregate).replace("\N{MINUS SIGN}", "~") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.5, "1.23e+03"), (0.25, "0.25"), (2.4e-6, "2.4e-06"), (math.inf, "∞")],
)
def test_numbers(value: float, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.714, "71 %"), (0.061, "6.1 %"), (0.05, "5 %"), (0.0, "0 %"), (1.0, "100 %")],
)
def test_percent(value: float, text: str) -> None:
    assert words.percent(value) == text


@pytest.mark.parametrize(
    ("epsilon", "text"), [(8 / 255, "8/255"), (0.5, "0.5"), (0.0, "0"), (1.5 / 255, "0.00588")]
)
def test_epsilon(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_a_missing_measurement_is_a_dash() -> None:
    criterion = Criterion(name="x", requirement="", unit="ratio")
    assert words.criterion_number(criterion, None) == "\N{EN DASH}"


def test_durations() -> None:
    assert words.duration(3.14) == "3.1 s"
    assert words.duration(262.0) == "4 min 22 s"


def test_every_check_has_a_section_in_the_docs() -> None:
    sections = re.findall(r"^## (\w+)$", _CHECKS_PAGE.read_text(), re.MULTILINE)
    assert sections == list(words.CHECKS)
