"""Independent jobs side by side, each on its share of the processor."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self, TypeVar

import torch

from loricate.core.shapes import Images

__all__ = ["Workers"]

_SMALL: Final = 128 * 128  # pixels of a picture
_MOST: Final = 4  # each keeps the graph of its own batch in memory

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Runs jobs in threads that share torch's own threads among them.

    Operations on small pictures are too short to be split: two threads on one operation wait for
    each other, on two jobs they do not. Results stay the same up to the order of float sums.

    Args:
        count: Jobs at a time; 1 runs them in the calling thread, with all of torch's threads.
    """

    count: int = 1

    @classmethod
    def suited_to(cls, images: Images) -> Self:
        """Several for small pictures on a processor; one where operations fill the machine."""
        is_small = images.shape[-2] * images.shape[-1] <= _SMALL
        is_split = is_small and images.device.type == "cpu"
        return cls(min(torch.get_num_threads(), _MOST) if is_split else 1)

    def map(self, job: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of the items, whatever finishes first.

        Args:
            job: Touches nothing that another job writes.
            items: One a job.

        Yields:
            What the job returned; its error is raised in its place, and jobs that have not begun
            are dropped.
        """
        count = min(self.count, len(items))
        if count <= 1:
            yield from map(job, items)
            return
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(
            count, initializer=torch.set_num_threads, initargs=(max(1, threads // count),)
        )
        try:
            yield from pool.map(job, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            # The number of threads of the linear algebra library is everybody's.
            torch.set_num_threads(threads)
