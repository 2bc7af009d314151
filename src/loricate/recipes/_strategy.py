"""Several defenses as one: trained one after the other, deployed and attacked together."""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, final, get_args

from loricate.basics.errors import ConfigProblem
from loricate.basics.registry import key_of
from loricate.basics.spec import Natural, Spec, to_toml
from loricate.core.defense import InputDefense
from loricate.core.family import Component, Family
from loricate.core.shapes import Images
from loricate.core.surface import Surface
from loricate.core.training import Observer
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._prompt_target import PromptTarget
from loricate.defenses._target import Target, Trained
from loricate.defenses.denoiser_lora import DenoiserLora
from loricate.defenses.leaf_lora import LeafLora
from loricate.defenses.srl_vae import SrlVae
from loricate.evaluation.subjects import Subject
from loricate.integrity.digest import digest
from loricate.records.names import replicate
from loricate.surfaces.defended import defended
from loricate.surfaces.gated import whole_state

__all__ = ["Built", "Material", "Strategy", "build"]

_ROOM = 3  # tokens an attack may add to a caption in training


@final
@dataclass(frozen=True, kw_only=True)
class Strategy(Spec):
    """Defenses that are deployed together.

    Preprocessing stands in front of the encoder in the order given, adapters on their parts, which
    are trained in the order given: an adapter of the encoder behind the preprocessing, one of the
    denoiser behind the encoder as it is by then. Preprocessing that looks through the model sees
    what was trained before, so name the denoiser and the text encoder first where there is some.

    Args:
        defense: At most one adapter for each part of the pipeline.
        seeds: What its adapters are trained with, one model for each; by default the seed of the
            run. From three on, intervals say something of training.
    """

    defense: tuple[InputDefense | AdapterDefense | LeafLora, ...]
    seeds: tuple[Natural, ...] = ()

    def trainings(self, name: str, seed: int) -> list[tuple[str, int]]:
        """Name and seed of every model that comes of the strategy.

        Args:
            name: What the strategy is called.
            seed: That of the run.
        """
        if len(self.seeds) < 2:
            return [(name, self.seeds[0] if self.seeds else seed)]
        return [(replicate(name, each), each) for each in self.seeds]

    @property
    def preprocessing(self) -> tuple[InputDefense, ...]:
        """What stands in front."""
        return tuple(part for part in self.defense if isinstance(part, InputDefense))

    @property
    def adapters(self) -> tuple[AdapterDefense | LeafLora, ...]:
        """What is trained."""
        return tuple(part for part in self.defense if not isinstance(part, InputDefense))

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Two adapters for one part, or seeds that make no difference."""
        if len(set(self.seeds)) < len(self.seeds):
            yield ConfigProblem(key="seeds", expected="every seed once", got=self.seeds)
        if self.seeds and not self.adapters:
            expected = "none, as there is nothing to train"
            yield ConfigProblem(key="seeds", expected=expected, got=self.seeds)
        components = [_component(part) for part in self.adapters]
        for component in {each for each in components if components.count(each) > 1}:
            expected = f"one adapter for {component}"
            names = ", ".join(key_of(type(part)) for part in self.adapters)
            yield ConfigProblem(key="defense", expected=expected, got=names)


@final
@dataclass(frozen=True)
class Material:
    """What adapters are trained on; nothing of it is evaluated with.

    Args:
        images: Calibration pictures in [0, 1].
        captions: Calibration prompts, each once.
    """

    images: Images
    captions: tuple[str, ...]


@final
@dataclass(frozen=True)
class Built:
    """A strategy on its pipeline.

    Args:
        subject: The pipeline as deployed.
        trained: The updates of each part.
    """

    subject: Subject
    trained: Mapping[Component, Trained]


def build(
    name: str,
    strategy: Strategy,
    base: Family,
    material: Material,
    *,
    seed: int,
    observe: Observer,
    folder: Path,
) -> Built:
    """Train the adapters of a strategy on copies of their parts.

    Args:
        name: What the record calls the result.
        strategy: What is deployed.
        base: The undefended pipeline, which is not written to.
        material: What to train on.
        seed: Seed of every draw.
        observe: Told about every step.
        folder: Holds the checkpoints, from which a killed run continues.

    Returns:
        The pipeline, its adapters attached.
    """
    family, trained = base, dict[Component, Trained]()
    for at, part in enumerate(strategy.adapters):
        component = _component(part)
        family = family.with_module(component, copy.deepcopy(family.module(component)))
        before = strategy.adapters[:at] if isinstance(part, DenoiserLora) else ()
        job = _Job(part, family, strategy.preprocessing, before, material, seed, observe)
        trained[component] = job.run(f"{name}: {component}", folder)
    return Built(Subject(name, family, strategy.preprocessing), trained)


@dataclass(frozen=True)
class _Job:
    """One adapter, on a copy of its part, behind the preprocessing and adapters it will meet."""

    part: AdapterDefense | LeafLora
    family: Family
    inputs: tuple[InputDefense, ...]
    before: tuple[AdapterDefense | LeafLora, ...]
    material: Material
    seed: int
    observe: Observer

    def run(self, phase: str, folder: Path) -> Trained:
        path = folder / f"{self._name()}.safetensors"
        # Whoever comes second finds the training finished.
        with _lock(path):
            return self._trained(phase, path)

    def _trained(self, phase: str, path: Path) -> Trained:
        if isinstance(self.part, LeafLora):
            return self._on_prompts(self.part, phase, path)
        return self.part.train(
            self._target(),
            self.material.images,
            seed=self.seed,
            observe=self.observe,
            checkpoint=path,
            phase=phase,
        )

    def _name(self) -> str:
        """Strategies that share an adapter share its training: it is named by what decides it."""
        inputs = () if isinstance(self.part, LeafLora) else self.inputs
        parts = [to_toml(each) for each in (self.part, *self.before, *inputs)]
        # Preprocessing that looks through the model is another one behind other weights.
        is_bound = any(each.bind(self.family) is not each for each in inputs)
        weights = [self._digest(each) for each in get_args(Component)] if is_bound else []
        words = json.dumps([parts, self.seed, *weights])
        return f"{key_of(type(self.part))}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"

    def _digest(self, component: Component) -> str:
        return digest(whole_state(self.family.module(component)))

    def _target(self) -> Target:
        family, part = self.family, self.part
        if isinstance(part, DenoiserLora):
            surface = self._behind(family.denoising_residual())
            return Target(family.module("unet"), surface)
        if isinstance(part, SrlVae):
            surface = self._behind(family.autoencoder())
            return Target(family.vae, surface, encoder=self._behind(family.vae_encoder()))
        return Target(family.vae, self._behind(family.vae_posterior()), family.encoder_prefixes)

    def _behind(self, surface: Surface) -> Surface:
        return defended(surface, tuple(each.bind(self.family) for each in self.inputs))

    def _on_prompts(self, part: LeafLora, phase: str, path: Path) -> Trained:
        captions = self.material.captions
        whole = self.family.text_encoder()
        longest = max(map(whole.n_tokens, captions)) + _ROOM + part.edits
        # Places behind every caption are the same for all of them, and cost as much as the rest.
        window = min(longest, whole.max_tokens)
        surface = self.family.text_encoder(window=window + 2)
        return part.train(
            PromptTarget(self.family.module("text_encoder"), surface),
            captions,
            seed=self.seed,
            observe=self.observe,
            checkpoint=path,
            phase=phase,
        )


_LOCKS: Final[dict[Path, Lock]] = {}
_GUARD: Final = Lock()


def _lock(path: Path) -> Lock:
    """The lock of a checkpoint, as strategies are built side by side."""
    with _GUARD:
        return _LOCKS.setdefault(path.absolute(), Lock())


def _component(part: AdapterDefense | LeafLora) -> Component:
    if isinstance(part, LeafLora):
        return "text_encoder"
    return "unet" if isinstance(part, DenoiserLora) else "vae"
