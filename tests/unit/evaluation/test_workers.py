"""Jobs side by side: results in order, errors in their place, torch's threads given back."""

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

import torch

from loricate.evaluation.workers import Workers


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_items(two_threads) -> None:
    second_is_done = threading.Event()

    def job(item: int) -> tuple[int, int]:
        if item == 0:
            assert second_is_done.wait(30)  # only if they run side by side
        if item == 1:
            second_is_done.set()
        return item, torch.get_num_threads()

    assert list(Workers(2).map(job, range(5))) == [(item, 1) for item in range(5)]
    assert torch.get_num_threads() == 2


def test_an_error_comes_in_the_place_of_its_result(two_threads) -> None:
    def job(item: int) -> float:
        return 1 / (item - 1)

    results = Workers(2).map(job, range(3))
    assert next(results) == -1.0
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("workers", [Workers(1), Workers(3)])
def test_what_is_alone_runs_in_the_calling_thread(two_threads, workers: Workers) -> None:
    items = range(3) if workers.count == 1 else [0]
    found = list(workers.map(lambda item: (item, threading.current_thread()), items))
    assert found == [(item, threading.main_thread()) for item in items]


def test_small_pictures_are_shared_out_and_large_ones_are_not(two_threads) -> None:
    assert Workers.suited_to(torch.zeros(1, 3, 48, 48)) == Workers(2)
    assert Workers.suited_to(torch.zeros(1, 3, 512, 512)) == Workers(1)
    assert Workers.suited_to(torch.zeros(1, 3, 48, 48, device="meta")) == Workers(1)
