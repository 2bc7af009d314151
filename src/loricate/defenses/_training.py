"""The one training loop: schedule, rank re-allocation, averaging, checkpoints."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import ConfigError, ConfigProblem, NumericalError
from loricate.basics.spec import Count, Fraction01, Length, Spec, to_toml
from loricate.core.shapes import Images
from loricate.core.training import Observer, RankChoice, TrainingLog
from loricate.defenses._importance import Importance
from loricate.lowrank.budget import Budget
from loricate.surfaces.attach import Attached
from loricate.surfaces.gated import GatedAttached

__all__ = ["Losses", "LossesOfStep", "Schedule", "Training", "identity"]

Losses = Mapping[str, Tensor]
"""``total`` to descend, and whatever else the curves should show."""

LossesOfStep = Callable[[int, dict[str, float]], Losses]
"""Losses of a step, given its number and the state kept between steps."""

_LOG_EVERY = 10
_CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Schedule(Spec):
    """How long and how fast an adapter is trained.

    Args:
        steps: Optimizer steps.
        batch_size: Images a step.
        learning_rate: Peak of a cosine with warm-up over the first twentieth.
        ema: Decay of the running average of the factors, which is what training returns.
        clip: Largest gradient norm.
        reallocate_from: Share of the steps after which ranks start to shrink.
        reallocate_until: Share of the steps after which they are final.
    """

    steps: Count = 400
    batch_size: Count = 8
    learning_rate: Length = 3e-3
    ema: Fraction01 = 0.98
    clip: Length = 1.0
    reallocate_from: Fraction01 = 0.15
    reallocate_until: Fraction01 = 0.6

    @property
    def shrinking(self) -> tuple[int, int]:
        """First and last step of re-allocation; the last is always reached."""
        first = int(self.reallocate_from * self.steps)
        last = min(int(self.reallocate_until * self.steps), self.steps - 1)
        return first, max(first, last)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.steps // 20))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass
class Training:
    """A training under way; ``run`` finishes it, from the last checkpoint if there is one.

    Args:
        attached: The updates trained.
        schedule: Steps and rates.
        budgets: Parameter budget at the start and at the end of re-allocation; equal ones keep
            the ranks as they are.
        losses: Losses of a step, given the state it may keep between steps; every draw in it is
            addressed by the step.
        checkpoint: File that lets a killed run continue, or ``None``.
        identity: What a checkpoint must agree on to be continued.
        phase: Name given to the observer.
    """

    attached: Attached | GatedAttached
    schedule: Schedule
    budgets: tuple[Budget, Budget]
    losses: LossesOfStep
    checkpoint: Path | None = None
    identity: str = ""
    phase: str = "train"
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    curves: list[dict[str, float]] = field(default_factory=list, init=False)
    state: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        base = self.attached.base_weights()
        self.shapes = {path: (w.shape[0], w.shape[1]) for path, w in base.items()}
        self.importance = Importance(self.attached.updates)
        self._trained = [p for p in self.attached.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, betas=(0.9, 0.99), weight_decay=0.0)
        self._average = [p.detach().clone() for p in self._trained]

    def run(self, observe: Observer) -> None:
        """Train to the end and leave the averaged factors on the module.

        Args:
            observe: Told about every step.

        Raises:
            NumericalError: The loss became NaN or infinite.
            ConfigError: The checkpoint belongs to another run.
        """
        self._restore()
        saved, mark = time.monotonic(), time.monotonic()
        while self.step < self.schedule.steps:
            row = self._advance()
            self.seconds, mark = self.seconds + time.monotonic() - mark, time.monotonic()
            observe(self.phase, self.step, self.schedule.steps, row)
            if time.monotonic() - saved > _CHECKPOINT_EVERY_S:
                self._save()
                saved = time.monotonic()
        self._save()
        with torch.no_grad():
            for parameter, average in zip(self._trained, self._average, strict=True):
                parameter.copy_(average)

    def log(self, ranks: Mapping[str, int]) -> TrainingLog:
        """The course of the training, once it has run.

        Args:
            ranks: Ranks at the start.
        """
        rows = tuple(self._rank(path, start) for path, start in ranks.items() if start)
        return TrainingLog(
            curves=tuple(self.curves),
            ranks=rows,
            seconds=self.seconds,
            parameters=sum(row.parameters for row in rows),
            parameters_target=sum(d_out * d_in for d_out, d_in in self.shapes.values()),
        )

    def _rank(self, path: str, start: int) -> RankChoice:
        update, (d_out, d_in) = self.attached.updates[path], self.shapes[path]
        end = min(update.n_alive, d_out, d_in)
        worth = float(self.importance.scores()[path].sum())
        return RankChoice(path, start, end, min(d_out, d_in), worth, update.n_parameters)

    def _advance(self) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        losses = self.losses(self.step, self.state)
        total = losses["total"]
        if not bool(torch.isfinite(total)):
            raise NumericalError(
                "the training loss is not finite", step=self.step, hint="lower the learning rate"
            )
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.importance.observe()
        torch.nn.utils.clip_grad_norm_(self._trained, self.schedule.clip)
        self._optimizer.step()
        self._reallocate()
        self._track_average()
        row = {"step": float(self.step)} | {k: float(v.detach()) for k, v in losses.items()}
        if self.step % _LOG_EVERY == 0 or self.step + 1 == self.schedule.steps:
            self.curves.append(row)
        self.step += 1
        return row

    @torch.no_grad()
    def _track_average(self) -> None:
        # A short average at first, or the zero start would linger in it.
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        for average, parameter in zip(self._average, self._trained, strict=True):
            average.lerp_(parameter, 1 - decay)

    def _reallocate(self) -> None:
        """Shrink the budget on a cubic schedule and drop what matters least."""
        start, end = self.budgets
        first, last = self.schedule.shrinking
        is_due = self.step % _LOG_EVERY == 0 or self.step == last
        if start == end or not is_due or not first <= self.step <= last:
            return
        left = 1 - (self.step - first) / max(1, last - first) if self.step < last else 0.0
        fraction = end.fraction + (start.fraction - end.fraction) * left**3
        budget = Budget(fraction=fraction, min_rank=end.min_rank, max_rank=end.max_rank)
        self._drop(budget.from_scores(self.importance.scores(), self.shapes))

    @torch.no_grad()
    def _drop(self, ranks: Mapping[str, int]) -> None:
        """Zero both factors of dropped components: they then have no gradient either."""
        scores = self.importance.scores()
        for path, update in self.attached.updates.items():
            order = torch.as_tensor(scores[path]).argsort(descending=True)
            gone = order[ranks[path] :]
            for parameter, rows in ((update.a, True), (update.b, False)):
                for tensor in (parameter, *self._moments(parameter), self._averaged(parameter)):
                    (tensor if rows else tensor.T)[gone] = 0.0
            self.importance.level[path][gone] = 0.0
            self.importance.spread[path][gone] = 0.0

    def _moments(self, parameter: Tensor) -> list[Tensor]:
        state = self._optimizer.state[parameter]
        # A layer the forward pass never uses has no gradient, and so no moments.
        unused = torch.zeros_like(parameter)
        return [state.get("exp_avg", unused), state.get("exp_avg_sq", unused)]

    def _averaged(self, parameter: Tensor) -> Tensor:
        index = next(i for i, p in enumerate(self._trained) if p is parameter)
        return self._average[index]

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"importance.{k}": v for k, v in self.importance.state().items()}
        for index, parameter in enumerate(self._trained):
            tensors[f"value.{index}"] = parameter.detach()
            tensors[f"average.{index}"] = self._average[index]
            for moment, tensor in zip(("first", "second"), self._moments(parameter), strict=True):
                tensors[f"{moment}.{index}"] = tensor
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "curves": self.curves,
            "identity": self.identity,
            "state": self.state,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(self.checkpoint, tensors, {"training": json.dumps(facts)})

    @torch.no_grad()
    def _restore(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        file = TensorFile(self.checkpoint)
        facts = json.loads(file.metadata["training"])
        if facts["identity"] != self.identity:
            raise ConfigError(
                ConfigProblem(
                    key="resume",
                    expected=f"a checkpoint of this run ({self.identity[:12]})",
                    got=facts["identity"][:12],
                )
            )
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.curves, self.state = facts["curves"], facts["state"]
        tensors = {name: torch.from_numpy(file[name].copy()) for name in file}
        for index, parameter in enumerate(self._trained):
            parameter.copy_(tensors[f"value.{index}"])
            self._average[index].copy_(tensors[f"average.{index}"])
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": tensors[f"first.{index}"].to(parameter),
                "exp_avg_sq": tensors[f"second.{index}"].to(parameter),
            }
        prefix = "importance."
        self.importance.restore(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )


def identity(
    spec: Spec,
    seed: int,
    images: Images,
    ranks: Mapping[str, int],
    attached: Attached | GatedAttached,
) -> str:
    """Digest of all that decides a training; checkpoints of another are refused.

    Args:
        spec: The defense.
        seed: Seed of its draws.
        images: Calibration pictures.
        ranks: Ranks at the start.
        attached: Updates on the weights that are trained around.

    Returns:
        Hexadecimal digest.
    """
    words = json.dumps([to_toml(spec), seed, dict(ranks)], sort_keys=True)
    total = hashlib.sha256(words.encode())
    for tensor in (images, *attached.base_weights().values()):
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
