import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from prompt_defense.subjects import LONGER, WINDOW

from loricate.attacks.char_search import CharSearch
from loricate.attacks.random_characters import RandomCharacters
from loricate.defenses._prompt_target import PromptTarget
from loricate.defenses._training import Schedule
from loricate.defenses.leaf_lora import LeafLora
from loricate.recipes._models import load_family, model_path

PROMPTS = ("smirking face", "umbrella", "flat shoe", "water wave")


def passes(inner) -> tuple[float, float]:
    """Passes there, and passes back, of each text of a training step."""
    family, counted = load_family(model_path("emoji-sd"), "cpu"), {False: 0, True: 0}
    encoder = family.module("text_encoder")
    encoder.register_forward_hook(
        lambda _module, args, _output: counted.__setitem__(
            torch.is_grad_enabled(), counted[torch.is_grad_enabled()] + len(args[0])
        )
    )
    target = PromptTarget(encoder, family.text_encoder(window=WINDOW))

    def rows(steps: int) -> tuple[int, int]:
        counted.update({False: 0, True: 0})
        schedule = Schedule(steps=steps, batch_size=len(PROMPTS))
        spec = LeafLora(inner=inner, rank_budget=0.35, word_salads=0.0, schedule=schedule)
        spec.train(target, PROMPTS, seed=0, observe=lambda *_: None).attached.detach()
        return counted[False], counted[True]

    (quiet, deep), (quiet_twice, deep_twice) = rows(1), rows(2)
    return (quiet_twice - quiet) / len(PROMPTS), (deep_twice - deep) / len(PROMPTS)


def test_the_control_has_at_least_the_compute_of_leaf_however_a_backward_pass_counts():
    leaf, control = passes(CharSearch(n_samples=2)), passes(RandomCharacters())
    assert leaf == pytest.approx((6, 2), abs=0.75)  # inadmissible edits are not tried
    assert leaf[0] <= 6
    assert control == pytest.approx((3, 2), abs=0.25)
    for back in (1, 2):
        cost = [quiet + deep * (1 + back) for quiet, deep in (leaf, control)]
        assert LONGER * cost[1] >= cost[0]
