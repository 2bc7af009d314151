"""Fine-tunes are judged by clean pictures, in pairs, and leave the pipeline alone."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch

from loricate.core.balls import L2, Linf
from loricate.core.family import EditSettings
from loricate.core.surrogate import FineTuneSettings
from loricate.evaluation.fine_tuning import METRICS, Concept, Trial, fine_tune, harm, noised
from loricate.families._judge import LatentJudge
from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest

_TRIAL = Trial(
    settings=FineTuneSettings(rank=2, steps=12, learning_rate=2e-2, batch_size=4),
    sampling=EditSettings(num_inference_steps=2, guidance=1.0),
    n_generated=2,
    n_draws=3,
)


def _pictures(n: int, seed: int = 0):
    x = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return (x * 255).round() / 255


def test_learning_lowers_the_loss_on_what_was_held_out_and_the_base_stays() -> None:
    family, x = SD15.tiny(), _pictures(2)
    before = digest(family.pipe.unet.state_dict())
    concept, judge = Concept("a", x, x.flip(-1)), LatentJudge(family.vae_encoder())
    rows = [fine_tune(family, concept, x, _TRIAL, judge, seed=s) for s in (0, 0, 1)]
    still = Trial(
        settings=FineTuneSettings(rank=2, steps=1, learning_rate=1e-12),
        sampling=_TRIAL.sampling,
        n_generated=2,
        n_draws=3,
    )
    untuned = fine_tune(family, concept, x, still, judge, seed=0)
    assert rows[0].loss < untuned.loss
    assert rows[0].loss == rows[1].loss != rows[2].loss
    assert digest(family.pipe.unet.state_dict()) == before
    assert -1 <= rows[0].identity <= 1
    assert rows[0].similarity <= 1
    assert {*rows[0].as_dict()} == {*METRICS}


@pytest.mark.parametrize("ball", [Linf(epsilon="8/255"), L2(epsilon=1.0)])
def test_noise_fills_the_ball_and_is_saved_in_8_bits(ball) -> None:
    x = 0.2 + 0.6 * _pictures(2)
    z = noised(x, ball, seed=0)
    assert torch.equal((z * 255).round() / 255, z)
    assert ball.size(z - x) == pytest.approx(float(ball.epsilon), rel=0.35)
    assert torch.equal(noised(x, ball, seed=0), z)
    assert not torch.equal(noised(x, ball, seed=1), z)


def test_harm_is_positive_where_the_second_is_worse() -> None:
    good = [
        {"loss": 0.1 + k, "identity": 0.9, "similarity": 0.5, "alignment": 0.3} for k in range(4)
    ]
    bad = [
        {"loss": 0.3 + k, "identity": 0.6, "similarity": 0.5, "alignment": 0.4} for k in range(4)
    ]
    found = harm(good, bad, seed=0)
    assert found["loss"].value == pytest.approx(0.2)
    assert found["identity"].value == pytest.approx(0.3)
    assert found["similarity"].value == 0.0
    assert found["alignment"].value == pytest.approx(-0.1)
    # Paired: what differs between the fine-tunes of one side does not widen the interval.
    assert found["loss"].high - found["loss"].low < 1e-9
