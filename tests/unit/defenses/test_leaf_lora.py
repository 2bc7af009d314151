import copy
from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from loricate.attacks.char_search import CharSearch
from loricate.attacks.random_characters import RandomCharacters
from loricate.basics.errors import ConfigError
from loricate.core.training import silent
from loricate.defenses import _training
from loricate.defenses._prompt_target import PromptTarget
from loricate.defenses._training import Schedule
from loricate.defenses.leaf_lora import LeafLora
from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest
from loricate.surfaces.attach import matrix_shapes, target_layers
from loricate.testing._spec_laws import survives_toml

_PROMPTS = ("a cat", "red house", "old dog", "two birds", "sun")
_SPEC = LeafLora(
    inner=CharSearch(n_samples=2),
    rank_budget=0.5,
    schedule=Schedule(steps=6, batch_size=4, learning_rate=1e-2),
)


def _target() -> PromptTarget:
    base = SD15.tiny()
    family = base.with_module("text_encoder", copy.deepcopy(base.module("text_encoder")))
    return PromptTarget(family.module("text_encoder"), family.text_encoder())


def _train(spec=_SPEC, target=None, *, prompts=_PROMPTS, seed=0, observe=silent, checkpoint=None):
    target = target or _target()
    return spec.train(target, prompts, seed=seed, observe=observe, checkpoint=checkpoint)


def _same(first, second) -> bool:
    pairs = zip(first.attached.parameters(), second.attached.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_spec_survives_toml() -> None:
    survives_toml(_SPEC)


def test_the_base_is_never_written_to_and_token_embeddings_stay() -> None:
    target = _target()
    before = digest(target.module.state_dict())
    trained = _train(target=target)
    assert all(path.startswith("encoder.layers.") for path in trained.attached.updates)
    trained.attached.detach()
    assert digest(target.module.state_dict()) == before


def test_the_rank_budget_holds() -> None:
    trained = _train()
    shapes = matrix_shapes(target_layers(_target().module))
    total = sum(d_out * d_in for d_out, d_in in shapes.values())
    assert 0 < trained.attached.n_parameters <= 0.5 * total


def test_training_is_what_the_seed_says() -> None:
    assert _same(_train(), _train())
    assert not _same(_train(), _train(seed=1))


def test_resuming_equals_never_having_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_training, "_CHECKPOINT_EVERY_S", 0.0)
    checkpoint = tmp_path / "checkpoint.safetensors"

    class Stopped(BaseException):
        pass

    def stop(phase, done, total, measured) -> None:
        if done == 3:
            raise Stopped

    target = _target()
    with pytest.raises(Stopped):
        _train(target=target, observe=stop, checkpoint=checkpoint)
    assert _same(_train(target=target, checkpoint=checkpoint), _train())


def test_the_checkpoint_of_other_prompts_is_refused(tmp_path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    _train(checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="resume"):
        _train(prompts=(*_PROMPTS, "moon"), checkpoint=checkpoint)


@pytest.mark.parametrize("prompts", [(), ("a cat", ""), ("x" * 99, "a"), ("a cat", "a cat")])
def test_prompts_there_is_nothing_to_learn_from_are_refused(prompts) -> None:
    with pytest.raises(ConfigError, match="prompts"):
        _train(prompts=prompts)


def test_the_anchor_rises_while_clean_drift_is_too_large() -> None:
    schedule = replace(_SPEC.schedule, steps=12, learning_rate=5e-2)
    weights = [
        _train(replace(_SPEC, max_drift=aim, schedule=schedule)).log.curves[-1]["anchor"]
        for aim in (1e-3, 10.0)
    ]
    assert weights[0] > 1 > weights[1]


def test_typos_move_less_after_training_than_before() -> None:
    spec = LeafLora(
        inner=RandomCharacters(),
        rank_budget=1.0,
        max_drift=1.0,
        word_salads=0.0,
        schedule=Schedule(steps=60, batch_size=5, learning_rate=4e-2),
    )
    curve = [row["robust"] for row in _train(spec).log.curves]
    assert sum(curve[-3:]) < 0.9 * sum(curve[:3])
