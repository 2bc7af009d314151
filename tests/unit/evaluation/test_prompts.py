import copy
import json

import pytest

pytest.importorskip("torch")

import torch

from loricate.attacks.random_characters import RandomCharacters
from loricate.attacks.token_search import TokenSearch
from loricate.core.family import EditSettings
from loricate.core.text_budgets import CharBudget, TokenBudget, edit_distance
from loricate.evaluation import prompts as module
from loricate.evaluation.prompts import PromptEvaluation, PromptTrial
from loricate.families.sd15 import SD15
from loricate.testing._spec_laws import survives_toml

_PROMPTS = ("a cat", "dog", "sun")
_TRIALS = [
    PromptTrial(attack=RandomCharacters(n_restarts=3), budget=CharBudget(), draws=True),
    PromptTrial(attack=RandomCharacters(), budget=CharBudget(edits=2)),
]


class _Judge:
    def features(self, images):
        return images.flatten(1)

    def alignment(self, images, prompts):
        return images.flatten(1).mean(1)


@pytest.fixture(scope="module")
def subjects():
    base = SD15.tiny()
    twin = copy.deepcopy(base.module("text_encoder"))
    with torch.no_grad():
        twin.encoder.layers[0].mlp.fc1.weight.mul_(1.5)
    return {"base": base, "other": base.with_module("text_encoder", twin)}


def _evaluation(subjects, path, **changes) -> PromptEvaluation:
    fields = {
        "base": subjects["base"],
        "prompts": _PROMPTS,
        "judges": {"mean": _Judge()},
        "settings": EditSettings(num_inference_steps=1),
        "seed": 0,
        "path": path,
    }
    return PromptEvaluation(**(fields | changes))


def test_a_trial_survives_toml() -> None:
    tokens = PromptTrial(attack=TokenSearch(), budget=TokenBudget(tokens=2, where="suffix"))
    for trial in (*_TRIALS, tokens):
        survives_toml(trial)


def test_rows_say_what_moved(subjects, tmp_path) -> None:
    rows = _evaluation(subjects, tmp_path / "rows.jsonl").run(subjects, _TRIALS)
    assert len(rows) == 2 * 3 * 3
    clean = [row for row in rows if (row.subject, row.trial) == ("base", "")]
    assert [row.shift for row in clean] == [row.own_shift for row in clean] == [0, 0, 0]
    assert all(row.clean_cosine == pytest.approx(1) for row in clean)
    other = [row for row in rows if (row.subject, row.trial) == ("other", "")]
    assert all(row.shift == row.clean_shift > 0 for row in other)
    assert all(row.own_shift == 0 for row in other)
    for row in rows:
        if "edits = 1" in row.trial:
            assert edit_distance(row.prompt, row.found) <= 1
            assert 1 <= row.queries <= 3
        assert bool(row.alignment) == ("edits = 2" not in row.trial)
    surface, spread = subjects["base"].text_encoder(), 0.0
    with torch.no_grad():
        states = surface(_PROMPTS, [0] * 3)
        spread = (states - states.mean(0)).square().sum() / 3
        attacked = next(row for row in rows if row.subject == "base" and row.trial)
        moved = surface([attacked.found], [0])[0] - states[attacked.sample]
    assert attacked.shift == pytest.approx(float(moved.norm() / spread.sqrt()), rel=1e-4)


def test_a_stopped_run_goes_on_and_a_finished_one_is_read(
    subjects, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    rows = _evaluation(subjects, path).run(subjects, _TRIALS)
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:40])
    assert _evaluation(subjects, path).run(subjects, _TRIALS) == rows
    assert path.read_text() == whole

    def never(self) -> None:
        raise AssertionError

    monkeypatch.setattr(module._Job, "rows", never)
    assert _evaluation(subjects, path).run(subjects, _TRIALS) == rows


def test_other_weights_or_draws_are_another_run(subjects, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    _evaluation(subjects, path).run({"base": subjects["base"]}, [])
    _evaluation(subjects, path).run({"base": subjects["other"]}, [])
    _evaluation(subjects, path, seed=1).run({"base": subjects["base"]}, [])
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len({*keys}) == 3
