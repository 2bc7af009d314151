"""What a plan accepts, and what its trials are called in the record."""

import pytest

pytest.importorskip("torch")

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ConfigError
from loricate.evaluation.plan import Plan, Trial
from loricate.objectives.edit_shift import EditShift
from loricate.objectives.latent_shift import LatentShift
from loricate.recipes._defaults import default_plan
from loricate.records.condition import Condition
from loricate.records.names import replicate
from loricate.testing._spec_laws import survives_toml

_PGD = Trial(attack=PGD(), objective=LatentShift(), epsilons=(8 / 255,))


def test_conditions_are_named_by_registry_keys() -> None:
    assert _PGD.condition(8 / 255) == Condition(
        "vae_encoder", "pgd", "latent_shift", "linf", 8 / 255
    )
    noise = Trial(attack=RandomNoise(), objective=EditShift(), epsilons=(1 / 255,), norm="l2")
    assert noise.condition(1 / 255) == Condition("pipeline", "random_noise", "none", "l2", 1 / 255)


@pytest.mark.parametrize(
    "changes",
    [
        {"attack": PGD(steps=7)},
        {"epsilons": (2 / 255, 8 / 255)},
        {"subjects": ("base",)},
        {"n_images": 3},
    ],
)
def test_rows_that_could_not_be_told_apart_are_refused(changes) -> None:
    fields = {"attack": PGD(), "objective": LatentShift(), "epsilons": (8 / 255,)}
    with pytest.raises(ConfigError) as caught:
        Plan(trials=(_PGD, Trial(**(fields | changes))))
    assert caught.value.problems[0].key == "trials.1"


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilons": (4 / 255,)},
        {"norm": "l2"},
        {"objective": EditShift()},
        {"variant": "5 draws", "eot_samples": 5},
    ],
)
def test_other_conditions_are_welcome(changes) -> None:
    fields = {"attack": PGD(), "objective": LatentShift(), "epsilons": (8 / 255,)}
    assert len(Plan(trials=(_PGD, Trial(**(fields | changes)))).trials) == 2


def test_disjoint_subjects_may_share_a_condition() -> None:
    trials = [
        Trial(attack=PGD(), objective=LatentShift(), epsilons=(0.1,), subjects=(name,))
        for name in ("base", "hardened")
    ]
    assert Plan(trials=tuple(trials)).trials[1].includes("hardened")
    assert not trials[0].includes("hardened")


@pytest.mark.parametrize("variant", ["../up", "a/b", "x" * 41, "tab\t"])
def test_a_variant_has_to_be_fit_for_the_name_of_a_file(variant: str) -> None:
    with pytest.raises(ConfigError, match="variant"):
        Trial(attack=PGD(), objective=LatentShift(), epsilons=(0.1,), variant=variant)


def test_a_trial_for_a_defense_is_for_each_of_its_trainings() -> None:
    trial = Trial(attack=PGD(), objective=LatentShift(), epsilons=(0.1,), subjects=("encoder",))
    assert trial.includes(replicate("encoder", 3))
    assert not trial.includes(replicate("denoiser", 3))


@pytest.mark.parametrize("size", ["quick", "standard", "full"])
@pytest.mark.parametrize("epsilon", [16 / 255, 8 / 255, 5 / 255])
def test_the_default_plans_can_decide_at_their_radius(size, epsilon: float) -> None:
    plan = default_plan(epsilon, size)
    survives_toml(plan)
    at_radius = {
        condition.attack
        for trial in plan.trials
        for condition in map(trial.condition, trial.epsilons)
        if condition.epsilon == epsilon and trial.includes("base") and trial.includes("hardened")
    }
    assert {"random_noise", "pgd"} <= at_radius


def test_l2_radii_may_exceed_one_and_linf_radii_may_not() -> None:
    wide = Trial(attack=PGD(), objective=LatentShift(), epsilons=(5.2,), norm="l2")
    assert wide.threat(5.2).ball.epsilon == 5.2
    survives_toml(wide)
    with pytest.raises(ConfigError, match=r"epsilons\.1.*did you mean '16/255'"):
        Trial(attack=PGD(), objective=LatentShift(), epsilons=("8/255", 16))
