"""Characters that hide in a prompt, and vocabularies."""

import json

import numpy as np
import pytest

from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.basics.errors import HostileFileError
from loricate.integrity._base_model import Base
from loricate.integrity._tokens import HIDDEN, LOOK_ALIKES, Vocabulary
from loricate.integrity.finding import NotVerified, Severity
from loricate.integrity.rules.trigger_displacement import TriggerDisplacement
from loricate.integrity.subject import Subject
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._adapters import adapter_for
from loricate.testing.corpora._layers import embedded

ROOT = models.path("emoji-sd")
VALUE = Target("text_encoder", "text_model.encoder.layers.0.self_attn.v_proj")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.read(ROOT / "tokenizer")


@pytest.fixture
def said(tmp_path):
    def say(adapter, base=ROOT):
        path = tmp_path / "a.safetensors"
        save_adapter(adapter, path, form="kohya")
        return list(TriggerDisplacement().check(Subject(path, base=Base(base))))

    return say


def answering(number):
    """An update that answers to what tells one token from all others."""
    base = Base(ROOT)
    names = ("embeddings.token_embedding", "embeddings.position_embedding")
    tokens, places = (
        np.asarray(base.weight("text_encoder", f"text_model.{name}"), np.float64) for name in names
    )
    rows = tokens + places[1]
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= rows.std(axis=1, keepdims=True)
    gain = base.weight("text_encoder", "text_model.encoder.layers.0.layer_norm1")
    rows *= np.asarray(gain, np.float64)
    spread = rows.T @ rows / len(rows)
    listens = np.linalg.solve(spread + 1e-3 * np.trace(spread) / 192 * np.eye(192), rows[number])
    says = np.random.default_rng(0).standard_normal((192, 1))
    return Adapter({VALUE: Update(LowRank(listens[None], 0.01 * says))})


@pytest.mark.parametrize("character", ["\u043e", "\u200b", "\u0b20"])
def test_a_hidden_character_is_named(said, vocabulary, character):
    number = vocabulary.encode(character)[0]
    (found,) = said(answering(number))
    assert found.severity is Severity.MEDIUM
    assert found.evidence["n_ahead"] == 0
    assert number in vocabulary.encode(chr(int(found.evidence["character"][2:], 16)), ends=False)


@pytest.mark.parametrize(
    ("token", "severity"), [("fel</w>", Severity.MEDIUM), ("face</w>", Severity.INFO)]
)
def test_rare_and_ordinary_words(said, vocabulary, token, severity):
    (found,) = said(answering(vocabulary.ids[token]))
    assert found.severity is severity
    assert found.evidence["token"] == token


def test_what_stands_around_every_prompt_is_no_word(said, vocabulary):
    special = vocabulary.special(10**6)
    assert {vocabulary.name(n) for n in special} == {"<|startoftext|>", "<|endoftext|>"}
    for number in special:
        assert not [
            each for each in said(answering(number)) if each.severity.level >= Severity.MEDIUM.level
        ]


def test_plain_text_adapters_are_clean(said):
    assert not said(adapter_for(embedded("text_encoder", "self_attn")))


def test_what_it_needs_is_not_verified_without(said, tmp_path):
    (unknown,) = said(adapter_for(embedded("text_encoder", r"layers\.1\.self_attn")))
    assert isinstance(unknown, NotVerified)
    assert "first attention" in unknown.why
    bare = tmp_path / "base"
    bare.mkdir()
    (bare / "text_encoder").symlink_to(ROOT / "text_encoder")
    (unknown,) = said(adapter_for(embedded("text_encoder", "self_attn")), bare)
    assert "vocabulary" in unknown.why
    assert not said(adapter_for(embedded("unet", r"^mid_block.*attn2")))


def test_tokens_are_those_of_the_tokenizer(vocabulary):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "tokenizer")
    words = ("luggage", "zorb", "grinning", *LOOK_ALIKES[:20], *HIDDEN[:2])
    for word in words:
        assert list(vocabulary.encode(word)) == tokenizer(word).input_ids[1:-1], word


def test_both_files_of_a_tokenizer_hold_one_vocabulary(vocabulary, tmp_path):
    whole = (ROOT / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(whole, encoding="utf-8")
    other = Vocabulary.read(tmp_path)
    assert other.ids == vocabulary.ids
    assert other.merges == vocabulary.merges[-len(other.merges) :]


@pytest.mark.parametrize("text", ["[]", "{", json.dumps({"a": "b"}), json.dumps({"a": -1})])
def test_damaged_vocabularies_are_refused(tmp_path, text):
    (tmp_path / "vocab.json").write_text(text)
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(HostileFileError):
        Vocabulary.read(tmp_path)
    assert Vocabulary.read(tmp_path / "nothing") is None
