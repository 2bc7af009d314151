"""One attack on one picture or prompt, through everything deployed, with pictures of it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from loricate.attacks.charmer import Charmer
from loricate.attacks.pgd import PGD
from loricate.basics.errors import ConfigProblem
from loricate.basics.files import write_atomically
from loricate.basics.registry import key_of
from loricate.basics.spec import Count, Natural, PixelLength, Spec, to_table, to_toml
from loricate.core.attack import Attack, AttackResult
from loricate.core.balls import ball
from loricate.core.defense import InputDefense
from loricate.core.family import Component, EditSettings
from loricate.core.generators import sample_seeds
from loricate.core.objective import Objective
from loricate.core.prompt_attack import PromptAttack, PromptResult
from loricate.core.shapes import Images
from loricate.core.text_budgets import CharBudget, Lexicon, TextBudget, TokenBudget
from loricate.core.threat import ThreatModel
from loricate.evaluation.subjects import Pictures, Subject
from loricate.metrics.latent_drift import LatentDrift
from loricate.metrics.psnr import PSNR
from loricate.metrics.ssim import SSIM
from loricate.objectives.embedding_shift import EmbeddingShift
from loricate.objectives.latent_shift import LatentShift
from loricate.recipes._deployment import Deployment, deploy
from loricate.recipes._folder import claim, require_free
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.recipes._picture import read_picture, write_picture
from loricate.records.names import epsilon_text
from loricate.report.picture_sheet import Tile, save_picture_sheet

__all__ = ["ImageAttackSpec", "PromptAttackSpec", "attack_image", "attack_prompt"]

RESULT: Final = "result.json"


@final
@dataclass(frozen=True, kw_only=True)
class ImageAttackSpec(Spec):
    """What is attacked, and how.

    Args:
        model: An embedded model's name, a diffusers folder, a ``.safetensors`` file or a hub id.
        adapter: Adapter of the autoencoder, in any form; ``None`` attacks the base.
        defenses: Preprocessing in front of the encoder.
        attack: How the budget is searched.
        objective: What is maximized.
        epsilon: Radius in pixel units.
        norm: Norm of the ball.
        eot_samples: Draws averaged on random surfaces.
        prompt: What the edit asks for.
        edit: Sampler of the edits shown, which end-to-end objectives attack.
        seed: Root of every draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    model: str = "emoji-sd"
    adapter: Path | None = None
    defenses: tuple[InputDefense, ...] = ()
    attack: Attack = field(default_factory=lambda: PGD(steps=100))
    objective: Objective = field(default_factory=LatentShift)
    epsilon: PixelLength = 8 / 255
    norm: Literal["linf", "l2"] = "linf"
    eot_samples: Count = 1
    prompt: str = ""
    edit: EditSettings = field(default_factory=EditSettings)
    seed: Natural = 0
    device: str = "auto"


@final
@dataclass(frozen=True, kw_only=True)
class PromptAttackSpec(Spec):
    """What is attacked through its prompt, and how.

    Args:
        model: As for pictures.
        adapter: Adapter of the text encoder, in any form; ``None`` attacks the base.
        attack: How the budget is searched.
        objective: What is maximized; one that reads the text encoder.
        budget: Allowed changes.
        picture: Sampler of the pictures shown.
        seed: Root of every draw.
        device: As for pictures.
    """

    model: str = "emoji-sd"
    adapter: Path | None = None
    attack: PromptAttack = field(default_factory=Charmer)
    objective: Objective = field(default_factory=EmbeddingShift)
    budget: CharBudget | TokenBudget = field(default_factory=CharBudget)
    picture: EditSettings = field(
        default_factory=lambda: EditSettings(num_inference_steps=25, guidance=4.0)
    )
    seed: Natural = 0
    device: str = "auto"

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """An objective that reads something else."""
        if self.objective.surface_kind != "text_encoder":
            expected = "one that reads the text encoder, such as embedding_shift"
            got = key_of(type(self.objective))
            yield ConfigProblem(key="objective", expected=expected, got=got)


def attack_image(spec: ImageAttackSpec, path: Path, out: Path) -> Mapping[str, object]:
    """Attack a picture and write what it became, beside what the model makes of both.

    Args:
        spec: Model, attack and budget.
        path: The picture, 8-bit RGB.
        out: A new folder: ``clean.png``, ``attacked.png``, ``perturbation.png``, the edits of
            both, ``sheet.png`` with all of them, ``result.json`` and ``config.toml``.

    Returns:
        The contents of ``result.json``.

    Raises:
        ConfigError: ``out`` holds something, or the file is no picture.
        UnsupportedError: The picture is not 8-bit RGB.
        PrerequisiteError: The model cannot be loaded.
    """
    require_free(out)
    family = load_family(model_path(spec.model), spec.device)
    clean = read_picture(path, family.image_size).to(family.device)
    subject = deploy(family, _deployment("vae", spec.adapter, spec.defenses))
    pictures = Pictures(clean, (spec.prompt,))
    result = _attacked(spec, subject, pictures)
    claim(out, to_toml(spec), resume=False)
    write_picture(out / "attacked.png", result.adversarial)
    # What counts is the file: it is read back, and everything below is measured on that.
    saved = read_picture(out / "attacked.png", family.image_size).to(family.device)
    shown = _shown(spec, subject, pictures, saved)
    for name, images in shown.items():
        write_picture(out / f"{name}.png", images)
    found = _found(spec, subject, pictures, saved) | _value(result)
    write_atomically(out / RESULT, json.dumps(found, indent=2).encode() + b"\n")
    tiles = [Tile(caption=_CAPTIONS[name], pixels=_array(shown[name])) for name in _CAPTIONS]
    title = f"{spec.prompt or 'no prompt'}, {epsilon_text(spec.epsilon)} {spec.norm}"
    save_picture_sheet([tiles], out / "sheet.png", title=title)
    return found


def attack_prompt(spec: PromptAttackSpec, prompt: str, out: Path) -> Mapping[str, object]:
    """Attack a prompt and write what it became, beside the pictures of both.

    Args:
        spec: Model, attack and budget.
        prompt: The prompt.
        out: A new folder: ``clean.png`` and ``attacked.png``, from the same sampler noise,
            ``sheet.png`` with both, ``result.json`` and ``config.toml``.

    Returns:
        The contents of ``result.json``.

    Raises:
        ConfigError: ``out`` holds something, or the prompt is empty or too long.
        PrerequisiteError: The model cannot be loaded.
    """
    require_free(out)
    path = model_path(spec.model)
    base = load_family(path, spec.device)
    family = deploy(base, _deployment("text_encoder", spec.adapter)).family
    seeds = sample_seeds(spec.seed, [0], "attack")
    surface = family.text_encoder()
    result = spec.attack(surface, spec.objective, spec.budget, [prompt], seeds=seeds)
    claim(out, to_toml(spec), resume=False)
    changed = result.prompts[0]
    # Noise the attack has not seen, the same for both pictures.
    noise = sample_seeds(spec.seed, [0], "scored-generation")
    shown = [family.generate([text], noise, spec.picture) for text in (prompt, changed)]
    for name, images in zip(("clean", "attacked"), shown, strict=True):
        write_picture(out / f"{name}.png", images)
    judge = judge_of(path, None, family)
    found = _texts(prompt, changed, spec.budget, surface) | _query_counts(result)
    found["hidden_state_cosine"] = _cosine(surface([prompt, changed], seeds * 2))
    for name, images in zip(("clean", "attacked"), shown, strict=True):
        found[f"prompt_alignment_{name}"] = float(judge.alignment(images, [prompt]))
    write_atomically(out / RESULT, json.dumps(found, indent=2).encode() + b"\n")
    captions = (f"clean: {prompt}", f"attacked: {changed}")
    tiles = [Tile(caption=c, pixels=_array(x)) for c, x in zip(captions, shown, strict=True)]
    save_picture_sheet([tiles], out / "sheet.png")
    return found


def _deployment(
    component: Component, adapter: Path | None, defenses: tuple[InputDefense, ...] = ()
) -> Deployment:
    adapters: dict[str, Path] = {} if adapter is None else {component: adapter}
    return Deployment(name="attacked", adapters=adapters, defenses=defenses)


def _texts(clean: str, changed: str, budget: TextBudget, lexicon: Lexicon) -> dict[str, object]:
    return {
        "prompt": clean,
        "attacked_prompt": changed,
        # Not every character of an attack can be seen.
        "attacked_code_points": [f"U+{ord(character):04X}" for character in changed],
        "changes": budget.size(clean, changed, lexicon),
        "unit": budget.unit,
    }


def _query_counts(result: PromptResult) -> dict[str, object]:
    return {
        "objective_clean": float(result.clean_value),
        "objective_attacked": float(result.value),
        "queries": result.queries[0],
    }


def _cosine(states: Tensor) -> float:
    clean, changed = states.flatten(1)
    return float(functional.cosine_similarity(clean, changed, dim=0))


def _attacked(spec: ImageAttackSpec, subject: Subject, pictures: Pictures) -> AttackResult:
    surface = subject.surface(spec.objective, pictures.prompts, spec.edit)
    threat = ThreatModel(ball=ball(spec.norm, spec.epsilon), eot_samples=spec.eot_samples)
    seeds = sample_seeds(spec.seed, [0], "attack")
    return spec.attack(surface, spec.objective, threat, pictures.images, seeds=seeds)


_CAPTIONS: Final = {
    "clean": "clean",
    "attacked": "attacked",
    "perturbation": "perturbation, magnified",
    "edit_clean": "edit of clean",
    "edit_attacked": "edit of attacked",
}


def _shown(
    spec: ImageAttackSpec, subject: Subject, pictures: Pictures, saved: Images
) -> dict[str, Images]:
    delta = saved - pictures.images
    largest = float(delta.abs().max())
    return {
        "clean": pictures.images,
        "attacked": saved,
        "perturbation": 0.5 + delta * (0.5 / largest if largest else 0.0),
        "edit_clean": subject.edits(pictures, pictures.images, spec.edit, spec.seed),
        "edit_attacked": subject.edits(pictures, saved, spec.edit, spec.seed),
    }


def _found(
    spec: ImageAttackSpec, subject: Subject, pictures: Pictures, saved: Images
) -> dict[str, object]:
    """Measured by noise the attack has not seen."""
    clean, seeds = pictures.images, pictures.indices
    edits = [subject.edits(pictures, each, spec.edit, spec.seed) for each in (clean, saved)]
    latents = [subject.latents(each, seeds) for each in (saved, clean)]
    return {
        "attack": to_table(spec.attack),
        "objective": to_table(spec.objective),
        "epsilon": float(spec.epsilon),
        "norm": spec.norm,
        "size_of_saved_file": float(ball(spec.norm, spec.epsilon).size(saved - clean)),
        "latent_drift": float(LatentDrift()(*latents)),
        "reconstruction_psnr": float(PSNR()(subject.reconstructions(saved, seeds), clean)),
        "edit_ssim": float(SSIM()(edits[1], edits[0])),
        "picture_psnr": float(PSNR()(saved, clean)),
    }


def _value(result: AttackResult) -> dict[str, object]:
    return {
        "objective_clean": float(result.clean_value),
        "objective_attacked": float(result.value),
        "model_calls": result.calls,
    }


def _array(images: Images) -> NDArray[np.float32]:
    pixels = images[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.asarray(pixels, dtype=np.float32)
