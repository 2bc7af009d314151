"""Feature spaces in which edits are compared."""

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from loricate.basics.errors import PrerequisiteError
from loricate.core.shapes import Images, PerSample
from loricate.core.surface import Surface

__all__ = ["ClipJudge", "LatentJudge"]

_PREPROCESSOR = "preprocessor_config.json"


@final
class ClipJudge:
    """A contrastive image and text encoder that trains neither adapter nor attack.

    Args:
        folder: A CLIP-like model in transformers layout, its tokenizer beside it.
        device: Where it runs.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.name = folder.name
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._tokenizing = Lock()  # it refuses two threads at a time
        self._mean, self._std = (values.to(device) for values in _normalization(folder))

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """Unit vectors, (n, d)."""
        pixels = (images - self._mean) / self._std
        side = self._model.config.vision_config.image_size
        if pixels.shape[-1] != side or pixels.shape[-2] != side:
            pixels = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        return _unit(self._model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def alignment(self, images: Images, prompts: Sequence[str]) -> PerSample:
        """Cosine between each picture and its prompt."""
        with self._tokenizing:
            tokens = self._tokenizer(
                list(prompts), padding=True, truncation=True, return_tensors="pt"
            ).to(images.device)
        text = _unit(
            self._model.get_text_features(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            )
        )
        return (self.features(images) * text).sum(1)


@final
class LatentJudge:
    """The frozen base encoder, where no judge comes with the model; it knows no prompts.

    Args:
        encoder: Surface of the base.
    """

    name = "base_encoder"

    def __init__(self, encoder: Surface) -> None:
        self._encoder = encoder

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """Unit vectors of flattened latents, (n, d)."""
        latents = self._encoder(images.clamp(0, 1), [0] * len(images))
        return functional.normalize(latents.flatten(1), dim=1)

    def alignment(self, images: Images, prompts: Sequence[str]) -> PerSample:
        """NaN: not known."""
        return torch.full((len(images),), float("nan"))


def _normalization(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, as the model was trained with."""
    path = folder / _PREPROCESSOR
    if not path.is_file():
        raise PrerequisiteError(str(path), remedy="copy it from where the judge comes from")
    table = json.loads(path.read_text(encoding="utf-8"))
    mean, std = (torch.tensor(table[f"image_{name}"]) for name in ("mean", "std"))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def _unit(output: Any) -> Tensor:
    # transformers 5 returns an output object where 4 returned the tensor.
    tensor = output if isinstance(output, Tensor) else output.pooler_output
    return functional.normalize(tensor, dim=-1)
