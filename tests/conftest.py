"""Seeds from test ids, one thread per worker, and no test may move a global generator."""

import os
import random
import sys
from collections.abc import Iterator
from typing import Any

# Read by torch and BLAS when they are first imported: workers must not fight for cores.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest

# Draws from the global generator when it is first imported.
import rich.console  # noqa: F401
from hypothesis import settings

from loricate.basics.seeds import derive_seed

# A deadline measures the neighbors of a shared machine, not the code. Examples come from the test
# itself, so that a failure is the same failure tomorrow.
settings.register_profile("loricate", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("loricate")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed that belongs to this test, whatever ran before it."""
    return derive_seed(0, request.node.nodeid)


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A numpy generator that belongs to this test."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _global_generators_stay_put() -> Iterator[None]:
    before = _global_states()
    yield
    after = _global_states()
    moved = [library for library, state in before.items() if state != after[library]]
    assert not moved, f"the test moved the global generator of {', '.join(moved)}"


def _global_states() -> dict[str, Any]:
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - what must not move
    states = {"random": random.getstate(), "numpy": (legacy["key"].tobytes(), legacy["pos"])}
    # Watched from the first test after its import: most tests never pay for torch.
    if (torch := sys.modules.get("torch")) is not None:
        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states
