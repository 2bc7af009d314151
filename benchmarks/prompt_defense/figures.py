"""Figures as JSON."""

from loricate.evaluation.statistics import Interval
from loricate.records.schema import Aggregate


def numbers(found: Interval | Aggregate) -> list[float]:
    """Value, lower and upper end."""
    return [found.value, found.low, found.high]
