"""The examples run, and their numbers are what they say they are."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

import torch

_EXAMPLES = Path(__file__).parents[2] / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", _EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_ten_conv_layers(capsys: pytest.CaptureFixture) -> None:
    sizes = {"features": 8, "side": 8, "images": 3, "top-k": 6, "rank": 2, "steps": 2}
    flags = [f"--{name}={value}" for name, value in (sizes | {"attack-steps": 2}).items()]
    _load("ten_conv_layers").main(flags)
    text = capsys.readouterr().out
    assert "10 convolutions of 8 features, images (3, 3, 8, 8)" in text
    rows = {
        name: [float(number) for number in re.findall(r"\d+\.\d+", numbers)]
        for name, numbers in re.findall(
            r"^(base|top 6|low-rank)[^.\n]*?((?: +\d+\.\d+){3})$", text, re.M
        )
    }
    assert rows["base"][0] == 0.0
    assert rows["top 6"][0] > 0
    assert all(row[2] > row[1] > 0 for row in rows.values()), "an attack that is not one"
    difference = float(text.rsplit(maxsplit=1)[1])
    assert difference < 1e-4


def test_the_full_size_is_the_articles() -> None:
    example = _load("ten_conv_layers")
    assert (example.FULL.features, example.FULL.side, example.FULL.images) == (256, 256, 32)
    net = example.chain(256)
    shapes = [tuple(layer.weight.shape) for layer in net if isinstance(layer, torch.nn.Conv2d)]
    assert shapes == [(256, 3, 3, 3), *[(256, 256, 3, 3)] * 9]


def test_top_components_are_the_best_approximation() -> None:
    example = _load("ten_conv_layers")
    net = example.chain(6)
    truncated, kept = example.keep_top_components(net, 4)
    for layer, low, share in zip(net[::2], truncated[::2], kept, strict=True):
        values = torch.linalg.svdvals(layer.weight.flatten(1)).square()
        error = (layer.weight - low.weight).square().sum()
        assert float(error) == pytest.approx(float(values[4:].sum()), rel=1e-4)
        assert share == pytest.approx(float(values[:4].sum() / values.sum()), rel=1e-4)


def test_any_encoder(capsys: pytest.CaptureFixture) -> None:
    _load("any_encoder").main(["--steps", "12", "--images", "12"])
    text = capsys.readouterr().out
    before, after = (float(number) for number in re.findall(r"(?:before|after): +(\d+\.\d+)", text))
    assert before == pytest.approx(0.9, abs=0.1)
    assert after > 0
    assert after != before
    assert "136224 weights, ranks: {'0': 16, '2': 16, '5': 16}" in text
