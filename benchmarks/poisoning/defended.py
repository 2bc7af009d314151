"""Models that should stand poisoned pictures: a gated adapter, and a plain one of equal steps."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loricate.basics.seeds import derive_seed
from loricate.core.generators import sample_seeds
from loricate.core.training import silent
from loricate.defenses._gated import GatedTarget
from loricate.defenses._training import Schedule
from loricate.families._fine_tuning import attention_layers
from loricate.families.sd15 import SD15
from loricate.surfaces.attach import attach
from loricate.surfaces.gated import load_gated
from poisoning.attacker import Attacker
from poisoning.cache import Cache
from poisoning.pictures import calibration
from poisoning.plan import Plan


@dataclass(frozen=True)
class Defended:
    """Trains models on the latents that an attacker made beforehand.

    Args:
        plan: How they are trained.
        base: What they start from; it is left as it is.
        attacker: Whose pictures they are trained against.
        cache: Where they are kept.
    """

    plan: Plan
    base: SD15
    attacker: Attacker
    cache: Cache

    def gated(self, seed: int) -> SD15:
        """The model with a frozen gated adapter, trained unless its file is there."""
        unet = copy.deepcopy(self.base.module("unet"))
        family = self.base.with_module("unet", unet)
        path = self.cache.folder / f"gate-{seed}.safetensors"
        if path.exists():
            load_gated(unet, path)
            return family
        self.cache.require_run()
        target = GatedTarget(unet, attention_layers(unet), family.denoising_error(self._prompts))
        own = derive_seed(seed, "gate")
        pairs = self.attacker.latent_pairs()
        trained = self.plan.gate.train_gated(target, *pairs, seed=own, observe=silent)
        trained.attached.save(path)
        print("  gate", seed, {k: round(v, 3) for k, v in trained.log.curves[-1].items()})
        return family

    def plain(self, seed: int) -> SD15:
        """The model with a merged plain LoRA, trained on the same pictures for the same steps."""
        unet = copy.deepcopy(self.base.module("unet"))
        error = self.base.with_module("unet", unet).denoising_error(self._prompts)
        ranks = dict.fromkeys(attention_layers(unet), self.plan.rank_plain)
        attached = attach(unet, ranks, seed=derive_seed(seed, "gate"))

        def trained() -> Tensor:
            pairs = self.attacker.latent_pairs()
            descend(attached.parameters(), error, pairs, self.plan.gate.schedule)
            return nn.utils.parameters_to_vector(attached.parameters()).detach()

        flat = self.cache.tensor(f"plain-{seed}.pt", trained)
        nn.utils.vector_to_parameters(flat, attached.parameters())
        return self.base.with_module("unet", attached.merge())

    @property
    def _prompts(self) -> list[str]:
        return calibration(self.plan.calibration)[1]


def descend(
    parameters: list[nn.Parameter],
    error: Callable[[Tensor, Tensor, list[int]], Tensor],
    pair: tuple[Tensor, Tensor],
    schedule: Schedule,
) -> None:
    """The training of the gate, without a gate."""
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        generator = torch.Generator().manual_seed(derive_seed(0, "plain", step))
        rows = torch.randperm(len(pair[0]), generator=generator)[: schedule.batch_size]
        seeds = sample_seeds(0, rows.tolist(), "plain", step)
        latents = torch.cat([each[rows] for each in pair])
        loss = 2 * error(latents, torch.cat([rows, rows]), [*seeds, *seeds]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()
