"""What is declared, what is pinned and what is installed agree."""

import re
import tomllib
from pathlib import Path

import pytest

import loricate

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


def _pins() -> dict[str, str]:
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {_canonical(name): version for name, version in pairs}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared() -> list[str]:
    extras = _PROJECT["optional-dependencies"].values()
    listed = [*_PROJECT["dependencies"], *(each for extra in extras for each in extra)]
    names = {_canonical(re.match(r"[\w.-]+", each).group()) for each in listed}
    return sorted(names - {"loricate"})


def test_version_is_stated_once_and_the_same() -> None:
    assert _PROJECT["version"] == loricate.__version__


@pytest.mark.parametrize("name", _declared())
def test_every_dependency_is_pinned(name: str) -> None:
    assert name in _pins()


def test_torch_is_pinned_and_torchvision_is_nowhere() -> None:
    assert _pins()["torch"] == "2.13.0"
    assert "torchvision" not in _pins()
    assert "torchvision" not in _declared()


def test_public_names_resolve_lazily() -> None:
    assert set(loricate.__all__) <= set(dir(loricate))
    with pytest.raises(AttributeError, match="no attribute 'hardn'"):
        _ = loricate.hardn
