"""Characters that hide in a prompt and that an update moves most."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.adapters.adapter import Update
from loricate.integrity._base_model import Base
from loricate.integrity._reading import adapter_of, owner_of
from loricate.integrity._statistics import robust_z
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
    """Look-alike letters and characters without width that a text encoder reads anew.

    A backdoor in a text encoder answers to a character that nobody sees, such as a Cyrillic o or a
    zero-width space. For every token of the vocabulary this takes its embedding at the first
    position, normalizes it as the first layer does, and compares how far the update moves its
    query, key and value with how long they are. It fires where a token of a hidden or look-alike
    character is moved ``z`` robust standard deviations of the logarithm more than the median
    token, and no more than ``ahead`` tokens are moved further (medium). An ordinary token that
    stands out is told as information, as it is the trigger word of an honest adapter, and is
    medium where it stands out more than honest training leaves it (``extreme``).

    This is a linear proxy at the first layer. It cannot see triggers that are phrases, triggers
    that only later layers or the denoiser answer to, characters that its list lacks, nor an attack
    that was trained to move other tokens as much.

    Args:
        z: Robust standard deviations that have to be reached.
        ahead: Share of the vocabulary that may be moved further.
        ordinary: Robust standard deviations from which on an ordinary token is named.
        extreme: The same, from which on that is no honest word.

    Source: The attack is Rickrolling, arXiv 2211.02408. On the embedded model 9 text encoders
    trained that way and 3 trained with the denoiser reach 3.7 to 6.6, with no token ahead; 12
    clean ones, 9 of which learned a new word, at most 2.9, with four tokens ahead or more.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_base: ClassVar = True

    z: float = 3.5
    ahead: float = 0.001
    ordinary: float = 5.0
    extreme: float = 8.0

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
        inputs = _inputs(base, component)
        if vocabulary is None or inputs is None or not updates:
            missing = "an update of its first attention" if not updates else "its vocabulary"
            yield self.not_verified(subject, f"needs {missing}", where=component)
            return
        moved = _displacement(inputs, updates, base, component)
        scores = robust_z(np.log(np.maximum(moved, 1e-12)), 0.05)
        names = {number: token for token, number in vocabulary.ids.items()}
        hidden = {
            number: character
            for character in HIDDEN + LOOK_ALIKES
            for ends in (True, False)
            for number in vocabulary.encode(character, ends=ends)
            if number < len(scores)
        }
        worst = max(hidden, key=lambda number: scores[number])
        n_ahead = int(np.sum(scores > scores[worst]))
        if scores[worst] >= self.z and n_ahead <= self.ahead * len(scores):
            code = f"U+{ord(hidden[worst]):04X}"
            yield self.finding(
                subject,
                Severity.MEDIUM,
                f"no common word is moved as far as a part of {code}, which hides in a prompt",
                advice="compare pictures of prompts with and without this character",
                where=component,
                character=code,
                z=float(scores[worst]),
                n_ahead=n_ahead,
            )
        farthest = int(np.argmax(scores))
        if farthest not in hidden and scores[farthest] >= self.ordinary:
            token = names.get(farthest, str(farthest))
            yield self.finding(
                subject,
                Severity.MEDIUM if scores[farthest] >= self.extreme else Severity.INFO,
                f"the token {token!r} is moved farthest; it may be the trigger word",
                advice="make sure that the author names this word",
                where=component,
                token=token,
                z=float(scores[farthest]),
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
    inputs: Float[np.ndarray, "n_tokens d"],
    updates: Mapping[str, Update],
    base: Base,
    component: str,
) -> Float[np.ndarray, " n_tokens"]:
    """How far queries, keys and values move, over how long they are."""
    moved, length = (np.zeros(len(inputs), np.float64) for _ in range(2))
    for module, update in updates.items():
        weight = base.weight(component, module)
        if weight is None or weight.shape != update.weight_shape:
            continue
        a, b = (np.asarray(each, np.float32) for each in (update.factors.A, update.factors.B))
        coordinates = inputs @ a.T
        moved += update.factors.scale**2 * _squares(coordinates, b.T @ b)
        wide = weight.astype(np.float32)
        length += _squares(inputs, wide.T @ wide)
    return np.sqrt(moved / np.maximum(length, 1e-12))


def _squares(
    rows: Float[np.ndarray, "n d"], gram: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, " n"]:
    return np.asarray(np.maximum(np.einsum("ij,ij->i", rows @ gram, rows), 0.0), np.float64)
