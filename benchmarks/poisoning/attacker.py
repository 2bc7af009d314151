"""Who poisons pictures, and what they know."""

from dataclasses import dataclass

from torch import Tensor

from loricate.basics.seeds import derive_seed
from loricate.core.balls import Linf
from loricate.core.generators import sample_seeds
from loricate.core.threat import ThreatModel
from loricate.evaluation.fine_tuning import Concept
from loricate.families.sd15 import SD15
from poisoning.cache import Cache
from poisoning.pictures import calibration
from poisoning.plan import AIMS, Aim, Plan


@dataclass(frozen=True)
class Attacker:
    """Poisons a set of pictures through a surrogate that learns from them.

    Args:
        plan: How hard it tries.
        base: The undefended model.
        cache: Where poisoned pictures are kept.
    """

    plan: Plan
    base: SD15
    cache: Cache

    @property
    def threat(self) -> ThreatModel:
        """The budget, the same for everyone."""
        return ThreatModel(ball=Linf(epsilon=self.plan.epsilon / 255), eot_samples=self.plan.draws)

    def poisoned(self, family: SD15, concept: Concept, seed: int, aim: Aim) -> Tensor:
        """Pictures of a concept poisoned through a family."""
        # The attacker does not know the victim's seed.
        own = derive_seed(seed, "attacker")
        return self._poisoned(
            family, concept.train, [concept.prompt] * len(concept.train), aim, own, seed
        )

    def latent_pairs(self) -> tuple[Tensor, Tensor]:
        """Latents of calibration pictures, clean and poisoned by ACE."""
        x, prompts = calibration(self.plan.calibration)
        attacked = self.cache.tensor(
            "calibration", lambda: self._poisoned(self.base, x, prompts, AIMS["ace"], 17, 17)
        )
        encode = self.base.vae_encoder()
        return encode(x, [0] * len(x)).detach(), encode(attacked, [0] * len(x)).detach()

    def _poisoned(
        self, family: SD15, x: Tensor, prompts: list[str], aim: Aim, own: int, seed: int
    ) -> Tensor:
        surrogate = family.fine_tuning(prompts, self.plan.surrogate, readout=aim.readout, seed=own)
        seeds = sample_seeds(seed, range(len(x)), "poison")
        return self.plan.poison(surrogate, aim.objective, self.threat, x, seeds=seeds).adversarial
