"""What is claimed of a folder, where evidence is missing or says something else."""

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.tensors import save_tensors
from loricate.integrity.digest import adapter_digest, digest
from loricate.integrity.merge_claims import merge_claims
from loricate.integrity.verification import (
    Claim,
    Verification,
    base_claims,
    evidence_claims,
)
from loricate.recipes.manifest import survey
from loricate.records.io import write_record
from loricate.records.schema import Integrity
from loricate.testing.records import made_up_record

SHAPES = {f"down_blocks.0.resnets.{n}.conv1": (4, 2, 3, 3) for n in range(2)}


def adapter(rng, scale=0.5):
    updates = {}
    for module, shape in SHAPES.items():
        a, b = rng.standard_normal((1, *shape[1:])), rng.standard_normal((shape[0], 1, 1, 1))
        update = Update.from_factors(a.astype(np.float32), b.astype(np.float32), scale)
        updates[Target("unet", module)] = update
    return Adapter(updates)


def proof(**changes):
    same = {"base_digest_before": "a" * 64, "base_digest_after": "a" * 64}
    sound = {"gain_zero_identical": True, "merged_max_difference": 0.0, "adapter_digest": "b" * 64}
    return Integrity(**(same | sound | changes))


def evidence(folder, integrity, *, kind="harden"):
    """Status of the claims on a record, with what was found."""
    record = made_up_record(kind=kind).model_copy(update={"integrity": integrity})
    write_record(folder, record)
    found = survey(folder)
    return [(each.passed, each.message) for each in evidence_claims(found.contents, found.files)]


@pytest.mark.parametrize(
    ("integrity", "kind", "expected"),
    [
        (None, "harden", [(None, "states no digest of weights")]),
        (proof(adapter_digest=None), "harden", [(None, "no digest of the adapter")]),
        (proof(), "harden", [(False, "another adapter")]),
        (proof(), "evaluate", [(None, "is not in the folder")]),
        (
            proof(base_digest_after="c" * 64),
            "harden",
            [(False, "the base was changed"), (False, "another adapter")],
        ),
    ],
)
def test_what_a_record_does_not_state_is_open(tmp_path, integrity, kind, expected):
    found = evidence(tmp_path, integrity, kind=kind)
    assert [passed for passed, _ in found] == [passed for passed, _ in expected]
    assert all(words in message for (_, message), (_, words) in zip(found, expected, strict=True))


def test_an_adapter_in_another_form_is_still_the_one_of_the_record(tmp_path, rng):
    made = adapter(rng, scale=1.0)
    Kohya().write(made, tmp_path / "lora.safetensors")
    [(passed, message)] = evidence(tmp_path, proof(adapter_digest=adapter_digest(made)))
    assert (passed, message) == (True, "the record is about the adapter 'lora.safetensors'")


def test_a_record_that_cannot_be_read_is_open(tmp_path):
    (tmp_path / "record.json").write_text("{}")
    found = survey(tmp_path)
    [claim] = evidence_claims(found.contents, found.files)
    assert (claim.passed, claim.path) == (None, "record.json")


@pytest.fixture
def pair(tmp_path, rng):
    """A base, and a folder with an adapter for it beside merged weights that are none."""
    weights = {f"{m}.weight": rng.standard_normal(s, np.float32) for m, s in SHAPES.items()}
    weights |= {f"norm{n}.weight": np.ones(3, np.float32) for n in range(30)}
    save_tensors(tmp_path / "base" / "unet" / "model.safetensors", weights)
    folder = tmp_path / "folder"
    Kohya().write(adapter(rng), folder / "lora.safetensors")
    save_tensors(
        folder / "unet" / "model.safetensors", {name: each + 1 for name, each in weights.items()}
    )
    return tmp_path / "base", folder


def test_of_many_wrong_tensors_some_are_listed_and_all_are_counted(pair):
    base, folder = pair
    found = survey(folder)
    claims = list(merge_claims(found.contents, found.files, base))
    assert len(claims) == 21
    assert {claim.passed for claim in claims} == {False}
    assert claims[-1].message == "and 12 more tensors"


def test_of_several_adapters_none_is_taken_for_the_merged_one(pair, rng):
    base, folder = pair
    Kohya().write(adapter(rng), folder / "other.safetensors")
    found = survey(folder)
    [claim] = merge_claims(found.contents, found.files, base)
    assert claim.passed is None
    assert "2 adapters" in claim.message


def test_a_base_beside_its_adapter_is_not_taken_for_a_bad_merge(pair):
    base, folder = pair
    merged = folder / "unet" / "model.safetensors"
    merged.write_bytes((base / "unet" / "model.safetensors").read_bytes())
    found = survey(folder)
    [claim] = merge_claims(found.contents, found.files, base)
    assert (claim.passed, claim.message) == (True, "it is the base, without the update")


def test_an_adapter_that_cannot_be_read_is_listed(pair):
    base, folder = pair
    save_tensors(folder / "lora.safetensors", {"x.lora_A.weight": np.ones((1, 2, 3, 4, 5))})
    found = survey(folder)
    for given, is_asked in ((base, True), (None, False)):
        claim, *others = merge_claims(found.contents, found.files, given)
        assert (claim.path, claim.passed) == ("lora.safetensors", None)
        assert {each.passed for each in others} <= {None}
        assert claim.is_asked == is_asked


def test_a_base_without_the_component_is_another(tmp_path, rng):
    for component in ("unet", "text_encoder"):
        save_tensors(tmp_path / "base" / component / "model.safetensors", {"w": np.ones(2)})
    evidence(tmp_path, proof())
    found = survey(tmp_path)
    [claim] = base_claims(found.contents, None, tmp_path / "base")
    assert (claim.passed, claim.where, claim.message) == (False, "vae", "it has no vae")


def test_what_a_manifest_states_of_the_base_counts_too(tmp_path):
    save_tensors(tmp_path / "base" / "vae" / "model.safetensors", {"w": np.ones(2)})
    right = digest({"w": np.ones(2)})
    evidence(tmp_path, proof(base_digest_before=right, base_digest_after=right))
    found = survey(tmp_path)
    manifest = found.manifest
    manifest.bases["vae"]["by hand"] = "0" * 64
    status = {
        claim.message: claim.passed
        for claim in base_claims(found.contents, manifest, tmp_path / "base" / "vae")
    }
    assert status == {
        "it is the base that 'record.json' states": True,
        "it is another base than 'by hand' states": False,
    }


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("good.safetensors", [None]),
        ("model.fp16.safetensors", [None]),
        ("pytorch_model.BIN", [None]),
        ("config.json", []),
    ],
)
def test_other_weights_in_the_folder_of_a_base_are_open(tmp_path, name, states):
    vae = tmp_path / "base" / "vae"
    save_tensors(vae / "model.safetensors", {"w": np.ones(2)})
    (vae / name).write_bytes(b"{}")
    run, right = tmp_path / "run", digest({"w": np.ones(2)})
    run.mkdir()
    evidence(run, proof(base_digest_before=right, base_digest_after=right))
    first, *others = base_claims(survey(run).contents, None, tmp_path / "base")
    assert first.passed is True
    assert [each.passed for each in others] == states
    assert all(each.path.endswith(name) and each.is_asked for each in others)


def test_a_foreign_index_does_not_choose_what_is_compared(tmp_path):
    vae = tmp_path / "base" / "vae"
    save_tensors(vae / "diffusion_pytorch_model.safetensors", {"w": np.zeros(2)})
    save_tensors(vae / "good.safetensors", {"w": np.ones(2)})
    (vae / "z.safetensors.index.json").write_text('{"weight_map": {"w": "good.safetensors"}}')
    run, right = tmp_path / "run", digest({"w": np.ones(2)})
    run.mkdir()
    evidence(run, proof(base_digest_before=right, base_digest_after=right))
    states = [each.passed for each in base_claims(survey(run).contents, None, tmp_path / "base")]
    assert states == [False, None]


@pytest.mark.parametrize("is_last", [True, False])
def test_two_tensors_for_one_place_are_no_base(tmp_path, is_last):
    """Of one module under both its names, a loader takes either."""
    name = "encoder.mid_block.attentions.0.to_q.weight"
    twin = "encoder.mid.attn_1.q.weight"
    right, wrong = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)
    order = [(twin, wrong), (name, right)] if is_last else [(name, right), (twin, wrong)]
    base = tmp_path / "base.safetensors"
    save_tensors(base, {f"first_stage_model.{key}": each for key, each in order})
    run, stated = tmp_path / "run", digest({name: right})
    run.mkdir()
    evidence(run, proof(base_digest_before=stated, base_digest_after=stated))
    [claim] = base_claims(survey(run).contents, None, base)
    assert claim.passed is False
    assert f"two tensors for {name!r}" in claim.message
    save_tensors(base, {f"first_stage_model.{twin}": right})
    [claim] = base_claims(survey(run).contents, None, base)
    assert claim.passed is True


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ([], "inconclusive"),
        ([(True, True)], "pass"),
        ([(True, True), (None, False)], "pass"),
        ([(True, True), (None, True)], "inconclusive"),
        ([(None, True), (False, True)], "fail"),
        ([(None, False)], "inconclusive"),
    ],
)
def test_no_evidence_is_not_a_pass(tmp_path, states, outcome):
    claims = tuple(
        Claim(name="files", path="a", passed=passed, message="", is_asked=is_asked)
        for passed, is_asked in states
    )
    assert Verification(folder=tmp_path, claims=claims).outcome == outcome
