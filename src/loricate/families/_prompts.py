"""Prompts as surfaces: to hidden states, to pictures, to the loss of denoising a picture."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.core.family import EditSettings
from loricate.core.generators import Seeds, generators
from loricate.core.prompt_surface import PromptSurface, Tokens
from loricate.core.shapes import Batch, Images
from loricate.families._noising import Denoising, Draws
from loricate.families._tokenizing import TOKENIZING

if TYPE_CHECKING:
    from loricate.families.sd15 import SD15

__all__ = ["DenoisingSurface", "GenerationSurface", "TextEncoderSurface", "denoising_surface"]

_WORD_END: Final = "</w>"
_SHORTEST_WORD: Final = 3  # shorter ones are mostly scraps of byte pairs


class _ClipPrompts(PromptSurface):
    """What all surfaces of one pipeline share: its tokenizer and its text encoder."""

    family: "SD15"

    @property
    def _tokenizer(self) -> Any:
        return self.family.pipe.tokenizer

    @property
    def length(self) -> int:
        """Tokens read, start and end included."""
        return int(self._tokenizer.model_max_length)

    @property
    def max_tokens(self) -> int:
        """What is left between start and end."""
        return self.length - 2

    @property
    def vocabulary(self) -> Float[Tensor, "entries width"]:
        """Rows of the token embedding."""
        weight: Tensor = self.family.pipe.text_encoder.get_input_embeddings().weight
        return weight

    @cached_property
    def words(self) -> frozenset[str]:
        """Tokens that end a word and hold three letters or more."""
        whole = (t.removesuffix(_WORD_END) for t in self._tokenizer.get_vocab() if _ends(t))
        return frozenset(t for t in whole if t.isalpha() and len(t) >= _SHORTEST_WORD)

    @cached_property
    def writable(self) -> Tensor:
        """Plain words that are one token each."""
        table = self._tokenizer.get_vocab()
        plain = {t.removesuffix(_WORD_END): i for t, i in table.items() if _ends(t) and t.isascii()}
        read = self._ids([*plain]) if plain else []
        kept = [i for i, ids in zip(plain.values(), read, strict=True) if ids[1:-1] == [i]]
        return torch.tensor(sorted(kept), device=self.family.device)

    def n_tokens(self, text: str) -> int:
        """Byte pairs of the text."""
        return len(self._ids([text])[0]) - 2

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """Ids, padded to the window."""
        rows, length = self._ids(prompts), self.length
        for index, ids in enumerate(rows):
            if len(ids) > length:
                expected = f"a prompt of at most {self.max_tokens} tokens, not {len(ids) - 2}"
                problem = ConfigProblem(
                    key=f"prompts.{index}", expected=expected, got=prompts[index]
                )
                raise ConfigError(problem)
        pad = self._tokenizer.pad_token_id
        padded = [ids + [pad] * (length - len(ids)) for ids in rows]
        return torch.tensor(padded, device=self.family.device)

    def text(self, tokens: Tokens) -> list[str]:
        """Decoded ids."""
        texts = self._tokenizer.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [str(text).strip() for text in texts]

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        # Not verbose: a text that is too long is measured here and refused elsewhere.
        with TOKENIZING:
            rows: list[list[int]] = self._tokenizer(list(prompts), verbose=False).input_ids
        return rows

    def _hidden(self, embeddings: Batch) -> Batch:
        """Final hidden states, as the denoiser gets them."""
        encoder = self.family.pipe.text_encoder
        ids = torch.full(embeddings.shape[:2], self._tokenizer.eos_token_id)
        # The encoder takes ids alone; its own embedding of them gives way to ours. In a twin, as
        # a hook on the encoder itself would reach other threads that use it.
        table = encoder.get_input_embeddings()
        path = next(path for path, part in encoder.named_modules() if part is table)
        hidden: Tensor = _twin(encoder, path, _Given(embeddings))(ids.to(embeddings.device))[0]
        return hidden


class _Given(nn.Module):
    """An embedding that is known already, whatever the ids."""

    def __init__(self, embeddings: Batch) -> None:
        super().__init__()
        self._embeddings = embeddings

    def forward(self, ids: Tokens) -> Batch:
        return self._embeddings


def _twin(module: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """The module with another part at a path; all other parts are the very same objects."""
    name, _, rest = path.partition(".")
    twin = copy.copy(module)
    inner = _twin(module.get_submodule(name), rest, part) if rest else part
    twin._modules = {**module._modules, name: inner}
    return twin


@final
@dataclass(frozen=True)
class TextEncoderSurface(_ClipPrompts):
    """Prompts to final hidden states, (n, length, width).

    Args:
        family: The pipeline.
        window: Tokens read, start and end included; ``None`` reads as many as the denoiser does.
            Places see only those before them, so a short window gives the same states, sooner.
    """

    family: "SD15"
    window: int | None = None

    @property
    def length(self) -> int:
        """Tokens read, start and end included."""
        return self.window or super().length

    def from_embeddings(self, embeddings: Batch, seeds: Seeds) -> Tensor:
        """Hidden states."""
        return self._hidden(embeddings)


@final
@dataclass(frozen=True)
class GenerationSurface(_ClipPrompts):
    """Prompts to pictures in [0, 1], by DDIM without added noise.

    Args:
        family: The pipeline.
        settings: Sampler and guidance.
    """

    family: "SD15"
    settings: EditSettings

    @property
    def is_random(self) -> bool:
        """Always: the sampler starts from noise."""
        return True

    def from_embeddings(self, embeddings: Batch, seeds: Seeds) -> Tensor:
        """Pictures; saturated pixels keep a gradient."""
        hidden = self._hidden(embeddings)
        if self.settings.guidance != 1.0:
            hidden = torch.cat([self._hidden(self.embed([""])).expand_as(hidden), hidden])
        picture = self.family.sampled(hidden, seeds, self.settings)
        return picture + (picture.clamp(0, 1) - picture).detach()


@final
@dataclass(frozen=True)
class DenoisingSurface(_ClipPrompts):
    """Prompts to what the denoiser gets wrong about given pictures.

    One row of errors a prompt, over a few noise levels evenly spread and noises from the seeds,
    in the unit the denoiser was trained to predict.

    Args:
        family: The pipeline.
        latents: Encoding of the picture of each prompt.
        n_levels: Noise levels, one noise each.
    """

    family: "SD15"
    latents: Tensor
    n_levels: int

    @property
    def is_random(self) -> bool:
        """Always: the pictures are noised."""
        return True

    def rows(self, indices: Sequence[int]) -> "DenoisingSurface":
        """The pictures of some prompts."""
        return replace(self, latents=self.latents[list(indices)])

    def from_embeddings(self, embeddings: Batch, seeds: Seeds) -> Tensor:
        """Errors, (n, levels, channels, height, width)."""
        hidden = self._hidden(embeddings)
        errors = [self._error(hidden, level, seeds) for level in range(self.n_levels)]
        return torch.stack(errors, dim=1)

    def _error(self, hidden: Batch, level: int, seeds: Seeds) -> Tensor:
        denoising = Denoising(self.family.pipe.scheduler)
        total = denoising.scheduler.config.num_train_timesteps
        time = torch.tensor([int((level + 0.5) * total / self.n_levels)], device=hidden.device)
        draws = generators(seeds, "noise", level)
        shape = self.latents.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=g) for g in draws]).to(self.latents)
        drawn = Draws(noise, time)
        noisy = denoising.noisy(self.latents, drawn)
        output: Tensor = self.family.pipe.unet(noisy, time, encoder_hidden_states=hidden).sample
        return output - denoising.target(self.latents, drawn)


def denoising_surface(family: "SD15", images: Images, n_levels: int) -> DenoisingSurface:
    """The surface that asks how well prompts describe pictures.

    Args:
        family: The pipeline.
        images: One picture a prompt.
        n_levels: Noise levels.

    Returns:
        The surface.
    """
    with torch.no_grad():
        latents = family.vae_encoder()(images.to(family.device), [0] * len(images))
    return DenoisingSurface(family, latents, n_levels)


def _ends(token: str) -> bool:
    return token.endswith(_WORD_END) and token != _WORD_END
