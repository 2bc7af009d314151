"""The rules of conftest have to bite: each is broken once, in a session of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = Path(__file__).parents[1] / "conftest.py"
_TESTS = """
import random
import numpy
import pytest

try:
    import torch
except ModuleNotFoundError:
    torch = None

def test_random():
    random.random()

def test_numpy():
    numpy.random.rand()

def test_torch():
    torch is None or torch.rand(1)

def test_own(seed, rng):
    assert seed >= 0 and rng.random() < 1
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("session")
    (folder / "conftest.py").write_text(_CONFTEST.read_text())
    (folder / "test_it.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.stdout


@pytest.mark.parametrize("library", ["random", "numpy", "torch"])
def test_moving_a_global_generator_is_an_error(output: str, library: str) -> None:
    if library == "torch":
        pytest.importorskip("torch")
    assert f"the test moved the global generator of {library}" in output
    assert f"ERROR test_it.py::test_{library}" in output


def test_own_generators_are_fine(output: str) -> None:
    assert "PASSED test_it.py::test_own" in output
    assert "ERROR test_it.py::test_own" not in output
