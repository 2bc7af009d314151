"""Hashes that a file states."""

import hashlib

import numpy as np
import pytest

from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.keys import BASE_DIGEST, HASH_KEY
from loricate.adapters.weights import open_model
from loricate.integrity._base_model import Base
from loricate.integrity.digest import digest
from loricate.integrity.finding import NotVerified, Severity
from loricate.integrity.rules.hash_mismatch import HashMismatch
from loricate.integrity.scan import scan
from loricate.integrity.subject import Subject
from loricate.lowrank.factors import LowRank

BASE = models.path("emoji-sd")


def data_hash(path):
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


@pytest.mark.parametrize("key", [HASH_KEY, "modelspec.hash_sha256"])
def test_a_stated_hash_is_recomputed(judged, pair, tmp_path, key):
    tensors = pair("unet.mid_block.attentions.0.proj_in")
    judged(HashMismatch(), tensors)
    right = data_hash(tmp_path / "adapter.safetensors")
    assert not judged(HashMismatch(), tensors, {key: right})
    assert not judged(HashMismatch(), tensors, {key: f"0x{right.upper()}"})
    (found,) = judged(HashMismatch(), tensors, {key: "0" * 64})
    assert (found.severity, found.where) == (Severity.HIGH, key)
    assert found.evidence == {"stated": "0" * 64, "actual": right}


def test_kohyas_writer_states_the_right_one(tmp_path, rng):
    target = Target("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")
    factors = LowRank(rng.standard_normal((2, 192)), rng.standard_normal((192, 2)))
    path = tmp_path / "a.safetensors"
    save_adapter(Adapter({target: Update(factors)}), path, form="kohya")
    assert HASH_KEY in Subject(path).tensors.metadata
    assert not list(HashMismatch().check(Subject(path)))


def verdicts(tensors_file):
    (judged,) = scan([tensors_file], rules=[HashMismatch()]).subjects
    return judged.passed, judged.not_applicable, len(judged.findings), len(judged.not_verified)


def test_a_file_without_a_hash_neither_passes_nor_fails(judged, pair, tmp_path):
    tensors, path = pair("unet.mid_block.attentions.0.proj_in"), tmp_path / "adapter.safetensors"
    for nothing in ({}, {"modelspec.title": "a"}, {HASH_KEY: ""}):
        judged(HashMismatch(), tensors, nothing)
        assert verdicts(path) == ((), ("hash_mismatch",), 0, 1)  # what no rule judges is said once
    judged(HashMismatch(), tensors, {HASH_KEY: data_hash(path)})
    assert verdicts(path) == (("hash_mismatch",), (), 0, 0)


def test_a_base_that_a_merged_model_names_is_not_held_to_be_right(judged):
    tensors = {"conv_in.weight": np.ones((4, 4), np.float32)}
    (unknown,) = judged(HashMismatch(), tensors, {f"{BASE_DIGEST}.unet": "0" * 64}, BASE)
    assert isinstance(unknown, NotVerified)


def test_the_base_has_to_be_the_one_that_is_named(judged, pair):
    tensors = pair("unet.mid_block.attentions.0.proj_in")
    right = digest(open_model(BASE)["unet"])
    assert not judged(HashMismatch(), tensors, {BASE_DIGEST: right}, BASE)
    (found,) = judged(HashMismatch(), tensors, {f"{BASE_DIGEST}.unet": "0" * 64}, BASE)
    assert found.severity is Severity.HIGH
    assert found.evidence["actual"] == right
    (unknown,) = judged(HashMismatch(), tensors, {BASE_DIGEST: right})
    assert isinstance(unknown, NotVerified)
    assert isinstance(Base(BASE).digest("unet"), str)
