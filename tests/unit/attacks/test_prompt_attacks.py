"""Each search against its simplest relative, against brute force, and against a planted optimum."""

from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("torch")

import torch

from loricate.attacks._edits import ASCII, DELETION, edited, n_places
from loricate.attacks.char_search import CharSearch
from loricate.attacks.charmer import Charmer
from loricate.attacks.homoglyph import _LOOK_ALIKES, Homoglyph
from loricate.attacks.pgd import PGD
from loricate.attacks.random_characters import RandomCharacters
from loricate.attacks.random_tokens import RandomTokens
from loricate.attacks.soft_prompt import SoftPrompt
from loricate.attacks.token_search import TokenSearch
from loricate.basics.errors import ConfigError, UnsupportedError
from loricate.core.balls import Linf
from loricate.core.generators import sample_seeds
from loricate.core.text_budgets import CharBudget, TokenBudget
from loricate.core.threat import ThreatModel
from loricate.objectives.embedding_shift import EmbeddingShift
from loricate.objectives.latent_shift import LatentShift
from loricate.recipes._models import load_family, model_path
from loricate.testing.prompts import LetterSurface

_PROMPTS = ("a cat", "dog", "red house", "old tree", "sun", "two birds")
_SEEDS = sample_seeds(0, range(len(_PROMPTS)))
_SURFACE = LetterSurface()
_CHARMER = Charmer(n_places=20, beyond_ascii=False)


def _run(attack, budget, *, surface=_SURFACE, prompts=_PROMPTS):
    return attack(surface, EmbeddingShift(), budget, prompts, seeds=_SEEDS[: len(prompts)])


def _value(surface, clean: str, texts: list[str]) -> torch.Tensor:
    seeds = [0] * len(texts)
    return EmbeddingShift().value(surface(texts, seeds), surface([clean], [0]))


@pytest.fixture(scope="module")
def emoji():
    return load_family(model_path("emoji-sd"), "cpu").text_encoder()


# With one edit and few places the best place may be missed, which random draws find by chance.
@pytest.mark.parametrize(("edits", "n_places"), [(1, 20), (2, 2)])
def test_charmer_beats_random_characters_at_equal_queries(emoji, edits, n_places) -> None:
    prompts, budget = ("smirking face", "umbrella"), CharBudget(edits=edits)
    found = _run(Charmer(n_places=n_places), budget, surface=emoji, prompts=prompts)
    chances = RandomCharacters(n_restarts=max(found.queries))
    control = _run(chances, budget, surface=emoji, prompts=prompts)
    assert sum(found.queries) <= sum(control.queries)
    assert found.value.mean() >= control.value.mean()


def test_token_search_beats_random_tokens_on_a_real_vocabulary(emoji) -> None:
    prompts, budget = ("smirking face", "umbrella"), TokenBudget(tokens=2)
    found = _run(TokenSearch(steps=5, batch_size=16), budget, surface=emoji, prompts=prompts)
    control = _run(RandomTokens(n_restarts=90), budget, surface=emoji, prompts=prompts)
    assert sum(found.queries) <= sum(control.queries)
    assert found.value.mean() > control.value.mean()


def test_char_search_beats_random_characters_at_equal_queries() -> None:
    found = _run(CharSearch(n_samples=12), CharBudget(edits=2))
    control = _run(RandomCharacters(n_restarts=max(found.queries)), CharBudget(edits=2))
    assert found.value.mean() > control.value.mean()


@pytest.mark.parametrize("attack", [Charmer(n_places=2), CharSearch(n_samples=8), Homoglyph()])
def test_more_edits_are_never_worse(attack) -> None:
    values = [_run(attack, CharBudget(edits=edits)).value for edits in (1, 2, 4)]
    for less, more in pairwise(values):
        assert (more >= less).all()
    assert values[1].mean() > values[0].mean()


def test_with_all_places_one_edit_is_brute_force() -> None:
    found = _run(_CHARMER, CharBudget(edits=1), prompts=("dog",))
    texts = [edited("dog", p, c) for p in range(n_places("dog")) for c in [DELETION, *ASCII]]
    texts = [t for t in texts if _SURFACE.n_tokens(t) <= _SURFACE.max_tokens]
    assert float(found.value) == pytest.approx(float(_value(_SURFACE, "dog", texts).max()))


def test_characters_beyond_ascii_are_tried_too() -> None:
    plain, wide = (_run(replace(_CHARMER, beyond_ascii=b), CharBudget()) for b in (False, True))
    assert sum(wide.queries) > sum(plain.queries)
    assert (wide.value >= plain.value).all()


def test_kept_words_leave_out_what_asks_for_something_else() -> None:
    free = _run(_CHARMER, CharBudget(edits=1), prompts=("cat",))
    kept = _run(_CHARMER, CharBudget(edits=1, keeps_words=True), prompts=("cat",))
    assert kept.queries[0] < free.queries[0]
    assert kept.prompts[0] not in _SURFACE.words


def test_token_search_beats_random_tokens_at_equal_queries() -> None:
    budget = TokenBudget(tokens=3)
    found = _run(TokenSearch(steps=8, batch_size=8, top_k=8), budget)
    control = _run(RandomTokens(n_restarts=max(found.queries)), budget)
    assert found.value.mean() > control.value.mean()


@pytest.mark.parametrize("where", ["prefix", "suffix"])
def test_token_search_finds_a_planted_optimum(where: str) -> None:
    surface = LetterSurface(planted=1e3)
    attack = TokenSearch(steps=12, batch_size=16, top_k=4)
    found = _run(attack, TokenBudget(tokens=3, where=where), surface=surface)
    assert (found.value >= 0.95 * surface.optimum(3)).all()


def test_free_tokens_are_as_many_as_the_window_has_room_for() -> None:
    found = _run(TokenSearch(steps=2), TokenBudget(tokens=5), prompts=("abcdefghij", "x" * 12))
    assert _SURFACE.n_tokens(found.prompts[0]) == _SURFACE.max_tokens
    assert found.prompts[1] == "x" * 12
    assert found.queries[1] == 0


def test_vectors_find_more_than_tokens_in_the_same_place() -> None:
    prompts = _PROMPTS[:3]
    budget = TokenBudget(tokens=1)
    tokens = _run(TokenSearch(steps=10), budget, prompts=prompts)
    soft = SoftPrompt(tokens=1, inner=PGD(steps=30))
    vectors = soft(_SURFACE, EmbeddingShift(), prompts, seeds=_SEEDS[:3])
    assert vectors.adversarial.shape == (3, 1, 4)
    assert (vectors.value > tokens.value).all()


def test_vectors_need_room() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.1"):
        SoftPrompt(tokens=2)(_SURFACE, EmbeddingShift(), ("a", "x" * 11), seeds=[0, 1])


def test_embeddings_are_attacked_as_any_surface_is() -> None:
    x = _SURFACE.embed(_PROMPTS).detach()
    threat = ThreatModel(ball=Linf(epsilon=0.1))
    result = PGD(steps=10)(_SURFACE.embeddings(), LatentShift(), threat, x, seeds=_SEEDS)
    assert (result.adversarial - x).abs().max() <= 0.1 + 1e-6
    assert (result.value > result.clean_value).all()


def test_a_dropped_character_is_no_attack() -> None:
    invisible = "".join(chr(c) for c in (0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD))
    deaf = LetterSurface(dropped=invisible)
    heard, unheard = (_run(Homoglyph(), CharBudget(), surface=s) for s in (_SURFACE, deaf))
    assert not any(set(text) & set(invisible) for text in unheard.prompts)
    assert sum(unheard.queries) < sum(heard.queries)


@pytest.mark.parametrize("name", ["a", "o", "-", " "])
def test_look_alikes_are_other_characters(name: str) -> None:
    assert all(twin != name and not twin.isascii() for twin in _LOOK_ALIKES[name])


@pytest.mark.parametrize(
    ("attack", "budget"),
    [(Charmer(), TokenBudget()), (TokenSearch(), CharBudget()), (RandomTokens(), CharBudget())],
)
def test_the_other_unit_is_refused(attack, budget) -> None:
    with pytest.raises(UnsupportedError, match=budget.unit):
        _run(attack, budget)
