"""Numbers people write as fractions: ``"8/255"`` is kept as text and used as a float."""

import math
import re
from typing import Self

from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["Quantity", "evaluate", "parse_pixel_length", "parse_quantity", "text_of"]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FRACTION = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER}))?\s*")


class Quantity(float):
    """A float that remembers how it was written.

    Arithmetic returns plain floats; only the value as given keeps its text.

    Args:
        value: The number.
        text: How the user wrote it.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, value: float, text: str) -> Self:
        """A number with its text."""
        self = super().__new__(cls, value)
        self.text = text
        return self

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        return float(self), self.text


def parse_quantity(value: str | float, *, key: str = "") -> float:
    """The number a user wrote, as ``8/255``, ``0.03`` or a float.

    Args:
        value: Text or number.
        key: Name of the field or flag, for the error.

    Returns:
        A ``Quantity`` where the text was a fraction, a plain float otherwise.

    Raises:
        ConfigError: The text is neither a number nor a fraction, or not finite.
    """
    number = evaluate(value) if isinstance(value, str) else value
    if number is None or not math.isfinite(number):
        expected = "a number or a fraction such as '8/255'"
        raise ConfigError(ConfigProblem(key=key, expected=expected, got=value))
    return number if isinstance(number, Quantity) else float(number)


def parse_pixel_length(value: str | float, *, key: str = "epsilon") -> float:
    """A length in pixel units, where the whole range of a pixel is [0, 1].

    Args:
        value: Text or number.
        key: Name of the field or flag, for the error.

    Returns:
        The length, as ``parse_quantity`` gives it.

    Raises:
        ConfigError: Not a number, negative, or above 1, which is nearly always a budget that
            lost its ``/255``.
    """
    number = parse_quantity(value, key=key)
    if 0 <= number <= 1:
        return number
    problem = ConfigProblem(
        key=key,
        expected="a length in [0, 1], where 1 is the whole range of a pixel",
        got=value,
        nearest=f"{text_of(number)}/255" if 1 < number <= 255 else None,
    )
    raise ConfigError(problem)


def text_of(number: float) -> str:
    """How a number was written by its user, or its shortest exact spelling."""
    if isinstance(number, Quantity):
        return number.text
    return repr(float(number)).removesuffix(".0")


def evaluate(text: str) -> float | None:
    """The number a text spells, or ``None`` if it spells none.

    Args:
        text: A number, or two with a slash between.

    Returns:
        A ``Quantity`` for a fraction, a plain float otherwise.
    """
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    numerator, denominator = match.groups()
    if denominator is None:
        return float(numerator)
    if float(denominator) == 0:
        return None
    return Quantity(float(numerator) / float(denominator), text.strip())
