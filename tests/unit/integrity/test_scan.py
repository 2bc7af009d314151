"""The runner: what is walked, what a rule may do, and what the verdict is."""

import hashlib
import json
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.tensors import save_tensors
from loricate.basics import registry
from loricate.basics.errors import NumericalError, PrerequisiteError
from loricate.integrity._walk import files_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rules.content_mismatch import ContentMismatch
from loricate.integrity.rules.header import Header
from loricate.integrity.rules.pickle import Pickle
from loricate.integrity.scan import all_rules, scan
from loricate.integrity.subject import Content, Subject

DIGEST = "0123456789abcdef" * 4
TARGET = Target("unet", "down_blocks.0.attentions.0.proj_in")


@pytest.fixture
def tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": np.ones((2, 3), np.float32)})
    return path


def adapter() -> Adapter:
    update = Update.from_factors(np.ones((1, 4), np.float32), np.ones((3, 1), np.float32))
    return Adapter({TARGET: update})


@dataclass(frozen=True, kw_only=True)
class _Says(Header):
    """Stands in for a rule: says what it is told to."""

    severity: Severity | None = None
    error: Exception | None = None

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        if self.severity is not None:
            yield self.finding(subject, self.severity, "found", advice="", n=1)
        if self.error is not None:
            raise self.error


# Third parties' rules have an entry point; these borrow the key of one of ours.
_Says.__module__ = Header.__module__


@pytest.mark.parametrize(
    ("found", "fail_on", "verdict"),
    [
        (None, Severity.INFO, "pass"),
        (Severity.MEDIUM, Severity.HIGH, "pass"),
        (Severity.HIGH, Severity.HIGH, "fail"),
        (Severity.CRITICAL, Severity.HIGH, "fail"),
        (Severity.INFO, Severity.INFO, "fail"),
        (Severity.LOW, Severity.MEDIUM, "pass"),
    ],
)
def test_the_verdict_is_that_of_the_gravest_finding(tensors, found, fail_on, verdict) -> None:
    assert scan([tensors], rules=[_Says(severity=found)]).outcome(fail_on) == verdict


def test_findings_come_gravest_first(tensors) -> None:
    listed = [_Says(severity=each) for each in (Severity.LOW, Severity.CRITICAL, Severity.INFO)]
    (judged,) = scan([tensors], rules=listed).subjects
    assert [each.severity for each in judged.findings] == ["critical", "low", "info"]


def test_severities_are_ordered_by_harm_and_not_by_letters() -> None:
    assert sorted(Severity, key=lambda each: each.level) == list(Severity)
    assert Severity.LOW.level < Severity.HIGH.level < Severity.CRITICAL.level


@pytest.mark.parametrize("error", [NumericalError("the product overflows"), OSError("gone")])
def test_a_rule_that_fails_is_not_verified_and_keeps_what_it_found(tensors, error) -> None:
    (judged,) = scan([tensors], rules=[_Says(severity=Severity.LOW, error=error)]).subjects
    assert [each.severity for each in judged.findings] == ["low"]
    assert [each.why for each in judged.not_verified] == [str(error)]
    assert judged.passed == ()


def test_a_rule_that_breaks_down_leaves_the_verdict_open(tensors) -> None:
    broken = _Says(severity=Severity.LOW, error=KeyError("alpha"))
    report = scan([tensors], rules=[broken, ContentMismatch(), Pickle()])
    (why,) = [each.why for each in report.not_verified]
    assert "KeyError" in why
    assert [each.rule for each in report.not_verified] == ["header"]
    assert [each.severity for each in report.findings] == ["low"]
    assert report.subjects[0].passed == ("pickle",)
    assert (report.outcome(), report.outcome(Severity.LOW)) == ("inconclusive", "fail")


def test_the_digest_is_that_of_the_bytes(tensors) -> None:
    (judged,) = scan([tensors], rules=[Header()]).subjects
    assert judged.sha256 == hashlib.sha256(tensors.read_bytes()).hexdigest()
    assert (judged.content, judged.passed) == (Content.SAFETENSORS, ("header",))


def test_the_digest_of_the_data_is_taken_where_one_is_stated(tmp_path) -> None:
    path, arrays = tmp_path / "a.safetensors", {"x": np.arange(6.0)}
    save_tensors(path, arrays, {"sshs_model_hash": "0" * 64})
    assert Subject(path).data_sha256 == hashlib.sha256(arrays["x"].tobytes()).hexdigest()
    save_tensors(path, arrays)
    assert Subject(path).data_sha256 is None


def test_nothing_that_a_rule_judges_is_inconclusive(tmp_path) -> None:
    (tmp_path / "readme.md").write_text("cats are fine\n")
    (tmp_path / "empty.safetensors").touch()
    report = scan([tmp_path])
    assert report.outcome() == "inconclusive"
    assert [each.why for each in report.not_verified] == ["an empty file"]


def test_a_base_that_cannot_be_read_is_an_error(tensors, tmp_path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(PrerequisiteError):
        scan([tensors], base=tmp_path / "base")
    for form in ("kohya", "diffusers"):
        path = tmp_path / f"{form}.safetensors"
        save_adapter(adapter(), path, form=form)
        with pytest.raises(PrerequisiteError, match="only updates"):
            scan([tensors], base=path)


def test_a_folder_of_peft_is_read_with_its_config(tmp_path) -> None:
    save_adapter(adapter(), tmp_path / "lora", form="peft")
    subject = Subject(tmp_path / "lora" / "adapter_model.safetensors")
    assert subject.config["peft_type"] == "LORA"
    assert subject.adapter.form == "peft"
    (update,) = subject.adapter.adapter.values()
    np.testing.assert_allclose(update.dense(), adapter()[TARGET].dense())


def test_a_config_that_would_fill_the_memory_is_not_parsed(tmp_path) -> None:
    small, large = tmp_path / "config.json", tmp_path / "model_index.json"
    small.write_text('{"x": [' + "[]," * 1000 + "[]]}")
    large.write_text('{"x": [' + "[]," * 1_000_000 + "[]]}")
    assert Subject(small).config.keys() == {"x"}
    assert (Subject(large).config, Subject(large).is_config_refused) == (None, True)


@pytest.mark.parametrize(("name", "grave"), [("config.json", [Severity.HIGH]), ("vocab.json", [])])
def test_a_config_is_not_that_long_and_a_vocabulary_may_be(name, grave, tmp_path) -> None:
    (tmp_path / name).write_text('{"auto_map": "x", "x": [' + "0," * 1_100_000 + "0]}")
    report = scan([tmp_path], rules=all_rules())
    assert [each.severity for each in report.findings if each.rule == "import_mapping"] == grave


def test_weights_beside_a_config_that_is_not_read_are_open(tmp_path) -> None:
    save_adapter(adapter(), tmp_path, form="peft")
    config = tmp_path / "adapter_config.json"
    table = json.loads(config.read_text())
    assert scan([tmp_path], rules=all_rules()).outcome() == "pass"
    config.write_text(json.dumps(table | {"lora_alpha": 40_000, "x": [0] * 1_050_000}))
    report = scan([tmp_path], rules=all_rules())
    assert report.outcome() != "pass"
    reasons = [each.why for each in report.not_verified if each.rule == "unjudged_updates"]
    assert any("may state any scale" in reason for reason in reasons)


def test_a_file_that_is_no_adapter_says_why(tensors) -> None:
    subject = Subject(tensors)
    assert subject.adapter is None
    assert subject.adapter_refusal is not None
    assert (subject.refusal, subject.config) == (None, None)


def test_what_the_strict_reader_refuses_has_no_tensors(tensors) -> None:
    tensors.write_bytes(tensors.read_bytes()[:-4])
    subject = Subject(tensors)
    assert subject.content is Content.SAFETENSORS
    assert subject.tensors is None
    assert "bytes of file" in str(subject.refusal)
    assert subject.adapter_refusal is subject.refusal


def test_every_file_is_visited_once_and_loops_end(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "folder" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "folder")
    found = [each.path.name for each in files_of([tmp_path, tmp_path])]
    assert found == ["a.txt"]


def test_a_folder_deeper_than_the_stack_is_walked(tmp_path) -> None:
    folder = tmp_path
    try:
        for _ in range(sys.getrecursionlimit() + 200):
            folder /= "d"
            folder.mkdir()
        (folder / "a.txt").write_text("a")
        assert [each.path.name for each in files_of([tmp_path])] == ["a.txt"]
    finally:
        # What cleans up after tests does recur.
        (folder / "a.txt").unlink(missing_ok=True)
        while folder != tmp_path:
            folder.rmdir()
            folder = folder.parent


def test_files_of_a_hub_cache_have_the_names_of_their_links(tmp_path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / DIGEST).write_text("{}")
    (blobs / "d1").write_text("{}")
    (snapshot / "config.json").symlink_to(Path("..") / ".." / "blobs" / DIGEST)
    (snapshot / "index.json").symlink_to(Path("..") / ".." / "blobs" / DIGEST)
    links = [snapshot / "config.json", snapshot / "index.json"]
    assert [each.path for each in files_of([tmp_path])] == [blobs / "d1", *links]
    assert [each.path for each in files_of([snapshot])] == links
    assert [each.path for each in files_of([blobs])] == [blobs / DIGEST, blobs / "d1"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_is_judged_under_each_of_its_names(link, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.ckpt").write_bytes(b"\x80\x02}.")
    names = [tmp_path / "a" / "model.safetensors", tmp_path / "model.json"]
    for name in names:
        link(tmp_path / "a" / "model.ckpt", name)
    assert len(files_of([tmp_path])) == 3
    report = scan([tmp_path], rules=[ContentMismatch()])
    assert [each.path for each in report.findings] == list(map(str, names))


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = {each.path.name: each.trouble for each in files_of([tmp_path])}
    assert found == {
        "broken": "No such file or directory",
        "closed": "Permission denied",
        "empty": "an empty file",
        "pipe": "neither a file nor a folder",
    }
    report = scan([tmp_path])
    assert report.outcome() == "inconclusive"
    assert len(report.not_verified) == 4


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x02.", Content.PICKLE),
        (b" \n[1]", Content.JSON),
        (b"plain", Content.OTHER),
        (b"\n" * 5000 + b"{}", Content.JSON),
        (b"\xef\xbb\xbf {}", Content.JSON),
        ("\ufeff[1]".encode("utf-16-le"), Content.JSON),
        ((" " * 9999 + "{}").encode("utf-16-be"), Content.JSON),
        ("\ufeff{}".encode("utf-32-be"), Content.JSON),
        (b" " * 5000, Content.OTHER),
        (b" x {}", Content.OTHER),
        (b"PK\x03\x04", Content.PICKLE),
    ],
)
def test_content_is_found_by_bytes(tmp_path, content, kind) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert Subject(path).content is kind


def test_rules_see_only_what_they_apply_to(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (judged,) = scan([tmp_path], rules=[Header()]).subjects
    assert [each.why for each in judged.not_verified] == ["no rule judges files of this kind"]


def test_rules_with_nothing_to_look_at_have_not_passed(tensors, tmp_path) -> None:
    (model,) = scan([tensors]).subjects
    numeric = {"absolute_norm", "rank_collapse", "alpha_conflict", "unjudged_updates"}
    assert numeric <= {*model.not_applicable}
    assert not numeric & {*model.passed}
    assert {"header", "non_finite"} <= {*model.passed}
    save_adapter(adapter(), tmp_path / "b.safetensors", form="kohya")
    (judged,) = scan([tmp_path / "b.safetensors"], base=models.path()).subjects
    said = {each.rule for each in (*judged.findings, *judged.not_verified)}
    assert numeric <= {*judged.passed} | said
    # It updates no text encoder.
    assert "trigger_displacement" in judged.not_applicable
    every = {*judged.passed, *judged.not_applicable, *said}
    assert {registry.key_of(type(rule)) for rule in all_rules() if rule.looks_inside} <= every


@pytest.mark.parametrize("name", ["adapter_model.bin", "lora.pt"])
def test_weights_in_a_pickle_are_not_verified(name, tensors) -> None:
    path = tensors.with_name(name)
    path.write_bytes(pickle.dumps({"x": [1.0]}))
    for paths in ([path], [path, tensors]):
        report = scan(paths)
        assert report.outcome() == "inconclusive"
        (left,) = (each for each in report.not_verified if each.rule == "unjudged_updates")
        assert left.path == str(path)
        assert "convert it" in left.why
