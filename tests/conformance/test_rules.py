"""Every registered rule can be made, is listed, and lets a clean file pass."""

import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.basics import registry
from loricate.cli.main import run
from loricate.integrity.rule import Rule
from loricate.integrity.scan import scan
from loricate.integrity.subject import Content

NAMES = registry.names("rules")


@pytest.fixture
def clean(tmp_path, rng):
    """An adapter, a config, a pickle of nothing and a text."""
    target = Target("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    a, b = rng.standard_normal((4, 16)), 0.01 * rng.standard_normal((16, 4))
    update = Update.from_factors(a.astype(np.float32), b.astype(np.float32))
    save_adapter(Adapter({target: update}), tmp_path / "lora.safetensors", form="kohya")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "empty.pkl").write_bytes(b"\x80\x02}.")
    (tmp_path / "readme.md").write_text("# A model\n")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_it_is_made_of_defaults_and_says_what_it_applies_to(name) -> None:
    rule = registry.get("rules", name)()
    assert isinstance(rule, Rule)
    assert registry.key_of(type(rule)) == name
    assert rule.applies_to
    assert rule.applies_to <= set(Content)


@pytest.mark.parametrize("name", NAMES)
def test_clean_files_give_nothing(name, clean) -> None:
    report = scan([clean], rules=[registry.get("rules", name)()])
    assert report.findings == ()


def test_all_are_listed(capsys) -> None:
    assert run(["ls", "rules", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(NAMES)
