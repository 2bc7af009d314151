"""What training reports while it runs and when it ends."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

__all__ = ["Observer", "RankChoice", "TrainingLog", "silent", "until_left"]

Observer = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with phase, steps done, steps in all, and what was measured last."""


@dataclass(frozen=True)
class RankChoice:
    """How the rank of one layer came out.

    Args:
        module: Dotted path of the layer.
        start: Rank before training, from the spectrum of the weight.
        end: Rank after re-allocation.
        maximum: Rank of a dense update.
        importance: Summed importance of the components kept.
        parameters: Entries of both factors at the end.
    """

    module: str
    start: int
    end: int
    maximum: int
    importance: float
    parameters: int


@dataclass(frozen=True)
class TrainingLog:
    """The course of one training.

    Args:
        curves: One row a logged step.
        ranks: One row a layer.
        seconds: Time spent in steps, over all resumed parts.
        parameters: Entries of all factors at the end.
        parameters_target: Entries of the weights they update.
    """

    curves: tuple[dict[str, float], ...]
    ranks: tuple[RankChoice, ...]
    seconds: float
    parameters: int
    parameters_target: int


def silent(phase: str, done: int, total: int, measured: Mapping[str, float]) -> None:
    """An observer that keeps quiet."""


@contextmanager
def until_left(observe: Observer) -> Iterator[Observer]:
    """An observer that stops trainings in other threads once the block is left.

    Args:
        observe: Who is told until then.
    """
    left = Event()

    def watch(phase: str, done: int, total: int, measured: Mapping[str, float]) -> None:
        if left.is_set():
            raise KeyboardInterrupt
        observe(phase, done, total, measured)

    try:
        yield watch
    finally:
        left.set()
