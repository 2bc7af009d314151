import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.errors import ConfigError
from loricate.basics.quantities import Quantity, parse_pixel_length, parse_quantity, text_of


def test_a_fraction_is_a_float_that_keeps_its_text() -> None:
    epsilon = parse_quantity(" 8/255 ")
    assert epsilon == 8 / 255
    assert isinstance(epsilon, float)
    assert text_of(epsilon) == "8/255"
    assert type(2 * epsilon) is float


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))]
)
def test_copies_keep_the_text(duplicate) -> None:
    twin = duplicate(parse_quantity("8/255"))
    assert (twin, twin.text) == (8 / 255, "8/255")


@pytest.mark.parametrize(
    ("text", "value"), [("0.03", 0.03), ("1e-3", 1e-3), (".5", 0.5), ("3", 3.0), ("2 / 4", 0.5)]
)
def test_spellings(text: str, value: float) -> None:
    assert parse_quantity(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_float_is_exact(number: float) -> None:
    assert float(text_of(number)) == number


@pytest.mark.parametrize("text", ["", "8/", "/255", "8/0", "nan", "1e999", "8//255", "eight"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_quantity(text, key="epsilon")
    (problem,) = caught.value.problems
    assert (problem.key, problem.got) == ("epsilon", text)


@pytest.mark.parametrize(("given_", "suggested"), [("8", "8/255"), (16.0, "16/255"), (300, None)])
def test_a_budget_that_lost_its_denominator_is_found(given_: str | float, suggested) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pixel_length(given_)
    (problem,) = caught.value.problems
    assert (problem.got, problem.nearest) == (given_, suggested)


def test_the_ends_of_the_pixel_range_are_lengths() -> None:
    assert (parse_pixel_length(0), parse_pixel_length("255/255")) == (0, 1)
    with pytest.raises(ConfigError):
        parse_pixel_length(-1e-9)


def test_quantities_are_equal_by_value() -> None:
    assert Quantity(0.5, "1/2") == 0.5
    assert hash(Quantity(0.5, "1/2")) == hash(0.5)
