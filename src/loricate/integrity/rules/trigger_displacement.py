"""Characters that hide in a prompt and that an update moves most."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.adapters.adapter import Update
from loricate.integrity._base_model import Base
from loricate.integrity._keys import place_of
from loricate.integrity._reading import adapter_of, owner_of
from loricate.integrity._tokens import HIDDEN, LOOK_ALIKES, Vocabulary
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["TriggerDisplacement"]

_TOWER = "text_model."
_FIRST = re.compile(r"text_model\.encoder\.layers\.0\.self_attn\.[qkv]_proj")
_NORM = "text_model.encoder.layers.0.layer_norm1"
_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_EPSILON = 1e-5


@final
@dataclass(frozen=True, kw_only=True)
class TriggerDisplacement(Rule):
    """Look-alike letters, characters without width and rare tokens that are read anew.

    A backdoor in a text encoder answers to a character that nobody sees, such as a Cyrillic o or a
    zero-width space. For every token of the vocabulary this takes its embedding at the first
    position, normalizes it as the first layer does, and takes how far the update moves its query,
    key and value. It fires where a token of such a character is
    moved ``ratio`` times as far as all but a hundredth of the vocabulary, and hardly any token
    further (medium); the same for the tokens that were learned last, which are rare words, from
    ``rare_ratio`` on. An ordinary token that stands out is told as information, as it is the
    trigger word of an honest adapter.

    This is a linear proxy at the first layer. It cannot see triggers that are phrases, triggers
    that only later layers or the denoiser answer to, characters that its list lacks, nor an attack
    that was trained to move other tokens as much. An honest adapter that learned a rare word, as
    is usual for new concepts, looks like a backdoor of that word.

    Args:
        ratio: Displacement over the 99th percentile of all tokens.
        rare_ratio: The same for rare and for ordinary tokens.
        ahead: Share of the vocabulary that may be moved further.
        rare: Share of the vocabulary, learned last, that is rare.

    Source: The attack is Rickrolling, arXiv 2211.02408. On the embedded model 9 text encoders
    trained that way and 4 trained together with the denoiser reach 2.5 to 4.6, with no token ahead;
    of 13 clean ones, 9 of which learned a new word, such characters reach at most 1.1, with ten
    tokens ahead or more.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True
    needs_base: ClassVar = True

    ratio: float = 1.8
    rare_ratio: float = 2.5
    ahead: float = 0.001
    rare: float = 0.05

    def concerns(self, subject: Subject) -> bool:
        """Whether it updates a text encoder, or a part that its names do not tell."""
        places = map(place_of, subject.tensors or ())
        components = {"" if place is None else place.component for place in places}
        return super().concerns(subject) and not components.isdisjoint({"", *_TOKENIZERS})

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each text encoder, and one for its own trigger word."""
        adapter, base = adapter_of(subject), subject.base
        if adapter is None or base is None:
            return
        for component in adapter.components:
            modules = adapter.modules(component)
            owner = owner_of(component, modules, base)
            if owner in _TOKENIZERS:
                yield from self._encoder(subject, modules, base, owner)

    def _encoder(
        self, subject: Subject, modules: Mapping[str, Update], base: Base, component: str
    ) -> Iterator[Finding | NotVerified]:
        updates = {name: each for name, each in modules.items() if _FIRST.fullmatch(name)}
        vocabulary = Vocabulary.read(base.folder / _TOKENIZERS[component])
        inputs = _inputs(base, component) if vocabulary and updates else None
        if vocabulary is None or inputs is None:
            missing = "its vocabulary" if updates else "an update of its first attention"
            yield self.not_verified(subject, f"needs {missing}", where=component)
            return
        moved = _displacement(inputs, updates.values())
        usual = float(np.quantile(moved, 0.99))
        if usual == 0:
            return
        hidden = vocabulary.tokens_of(HIDDEN + LOOK_ALIKES, len(moved))
        ratios = moved / usual
        yield from self._hidden(subject, ratios, hidden, component)
        # Of a word of the prompt it may be a trigger, of what stands around every prompt never.
        ratios[vocabulary.special(len(ratios))] = 0
        farthest = int(np.argmax(ratios))
        if farthest not in hidden and ratios[farthest] >= self.rare_ratio:
            is_rare = farthest >= (1 - self.rare) * len(ratios)
            token = vocabulary.name(farthest)
            yield self.finding(
                subject,
                Severity.MEDIUM if is_rare else Severity.INFO,
                f"the token {token!r} is moved farthest, as a trigger word is",
                advice="make sure that the author names this word",
                where=component,
                token=token,
                ratio=float(ratios[farthest]),
            )

    def _hidden(
        self,
        subject: Subject,
        ratios: Float[np.ndarray, " n_tokens"],
        hidden: Mapping[int, str],
        component: str,
    ) -> Iterator[Finding]:
        if not hidden:
            return
        worst = max(hidden, key=lambda number: ratios[number])
        n_ahead = int(np.sum(ratios > ratios[worst]))
        if ratios[worst] < self.ratio or n_ahead > self.ahead * len(ratios):
            return
        code = f"U+{ord(hidden[worst]):04X}"
        yield self.finding(
            subject,
            Severity.MEDIUM,
            f"hardly a token is moved as far as a part of {code}, which hides in a prompt",
            advice="compare pictures of prompts with and without this character",
            where=component,
            character=code,
            ratio=float(ratios[worst]),
            n_ahead=n_ahead,
        )


def _inputs(base: Base, component: str) -> NDArray[np.float32] | None:
    """What the first attention reads of each token, up to the bias of the norm."""
    names = (f"{_TOWER}embeddings.token_embedding", f"{_TOWER}embeddings.position_embedding", _NORM)
    tokens, positions, gain = (base.weight(component, name) for name in names)
    if tokens is None or positions is None or gain is None or len(positions) < 2:
        return None
    rows = tokens.astype(np.float32) + positions[1].astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + _EPSILON)
    return np.asarray(rows * gain.astype(np.float32))


def _displacement(
    inputs: Float[np.ndarray, "n_tokens d"], updates: Iterable[Update]
) -> Float[np.ndarray, " n_tokens"]:
    """How far queries, keys and values of each token move together."""
    squares = np.zeros(len(inputs))
    for update in updates:
        a, b = (np.asarray(each, np.float32) for each in (update.factors.A, update.factors.B))
        coordinates = inputs @ a.T
        moved = np.einsum("ij,ij->i", coordinates @ (b.T @ b), coordinates)
        squares += update.factors.scale**2 * np.maximum(moved, 0.0)
    return np.sqrt(squares)
