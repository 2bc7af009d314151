"""Rules on files and configs: the hostile corpus of each is flagged, clean files are not."""

import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.basics import registry
from loricate.integrity.finding import Finding
from loricate.integrity.rules.base_mutating_init import BaseMutatingInit
from loricate.integrity.rules.content_mismatch import ContentMismatch
from loricate.integrity.rules.header import Header
from loricate.integrity.rules.import_mapping import ImportMapping
from loricate.integrity.rules.metadata import Metadata
from loricate.integrity.rules.modules_to_save import ModulesToSave
from loricate.integrity.rules.pickle import Pickle
from loricate.integrity.rules.regex_pattern import RegexPattern
from loricate.integrity.rules.unjudged_updates import UnjudgedUpdates
from loricate.integrity.scan import scan
from loricate.integrity.subject import Subject
from loricate.testing.corpora import pickles
from loricate.testing.corpora._archives import POLYGLOTS
from loricate.testing.corpora.hostile import HOSTILE

OURS = (
    "base_mutating_init",
    "content_mismatch",
    "header",
    "import_mapping",
    "metadata",
    "modules_to_save",
    "pickle",
    "regex_pattern",
)
CASES = [(case, rule) for case in HOSTILE for rule in case.rules if rule in OURS]


@pytest.mark.parametrize(("case", "rule"), CASES, ids=[f"{c.name}-{r}" for c, r in CASES])
def test_hostile_files_are_flagged(case, rule, tmp_path) -> None:
    report = scan([case.build(tmp_path)], rules=[registry.get("rules", rule)()])
    (gravest, *_) = report.findings
    assert gravest.severity == case.expects[rule]
    assert {each.rule for each in report.findings} == {rule}


def found(path, rule):
    return [str(each.severity) for each in scan([path], rules=[rule]).findings]


def config(folder, name="adapter_config.json", **table):
    (folder / name).write_text(json.dumps(table))
    return folder / name


@pytest.mark.parametrize("case", pickles.BENIGN, ids=lambda case: case.name)
def test_benign_pickles_pass(case, tmp_path) -> None:
    report = scan([case.build(tmp_path)], rules=[Pickle()])
    assert (report.findings, report.not_verified, report.outcome()) == ((), (), "pass")


@pytest.mark.parametrize(
    "text", ["color\nred\nblue\n", "cats\nare\nfine.", "(c) 2024 Foo\nBar\n", "."]
)
def test_text_that_begins_like_a_pickle_is_text(text, tmp_path) -> None:
    (tmp_path / "readme.md").write_text(text)
    assert found(tmp_path, Pickle()) == []


def test_object_arrays_of_numpy_are_pickles(tmp_path) -> None:
    np.save(tmp_path / "plain.npy", np.arange(3.0))
    np.save(tmp_path / "objects.npy", np.array([len], object), allow_pickle=True)
    assert found(tmp_path / "plain.npy", Pickle()) == []
    assert found(tmp_path / "objects.npy", Pickle()) == ["high"]


def open_of(folder) -> bool:
    report = scan([folder], rules=[Pickle(), UnjudgedUpdates()])
    return report.outcome() == "inconclusive"


def test_arrays_of_plain_numbers_are_no_pickle(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3.0))
    assert not open_of(tmp_path)
    np.savez_compressed(tmp_path / "a.npz", np.ones(2, ml_dtypes.bfloat16), x=np.array(["a"]))
    assert not open_of(tmp_path)


@pytest.mark.parametrize(
    "arrays", [{"x": np.array([None], object)}, {"x": np.zeros(1, [("a", "O")])}]
)
def test_arrays_of_objects_stay_pickles(arrays, tmp_path) -> None:
    np.savez(tmp_path / "a.npz", plain=np.arange(3.0), **arrays)
    assert open_of(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.array([len], object))
    assert found(tmp_path, Pickle()) == ["high"]


def test_archives_that_may_be_weights_stay_open(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3.0))
    plain = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").rename(tmp_path / "a.pt")
    assert open_of(tmp_path)
    (tmp_path / "a.pt").unlink()
    (tmp_path / "a.npz").write_bytes(b"\x80\x02}." + plain)
    assert open_of(tmp_path)
    np.savez(tmp_path / "a.npz", **{"unet.conv_in.lora_A.weight": np.ones((2, 2))})
    assert open_of(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01")
    assert open_of(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02}.")
    assert open_of(tmp_path)


@pytest.mark.parametrize("begin", ["#! SD 1.5", "MZ: 1"])
def test_a_first_line_of_a_script_hides_nothing_in_yaml(begin, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(f"{begin}\n_target_: os.system\n")
    report = scan([tmp_path], rules=[ImportMapping()])
    assert [str(each.severity) for each in report.findings] == ["critical"]
    assert len(report.not_verified) == 1


def test_what_no_scanner_opens_is_not_verified(tmp_path) -> None:
    (tmp_path / "a.joblib").write_bytes(b"\x1f\x8b" + bytes(20))
    report = scan([tmp_path], rules=[Pickle(), ContentMismatch()])
    (why,) = [each.why for each in report.not_verified]
    assert why.startswith("a gzip file, of which")
    assert report.outcome() == "inconclusive"


def test_a_pickle_that_breaks_off_is_read_up_to_there(tmp_path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.float64, 2)[:-1])
    report = scan([tmp_path], rules=[Pickle()])
    assert [each.where for each in report.findings] == ["numpy.float64"]


def test_scanning_prints_nothing(tmp_path, capsys) -> None:
    pickles.TABLE[0].build(tmp_path)
    scan([tmp_path], rules=[Pickle()])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "orthogonal", "eva", "MiCA"])
def test_plain_initializations_pass(init, tmp_path) -> None:
    assert found(config(tmp_path, init_lora_weights=init), BaseMutatingInit()) == []


def test_an_unknown_initialization_does_not_pass(tmp_path) -> None:
    assert found(config(tmp_path, init_lora_weights="new"), BaseMutatingInit()) == ["high"]


@pytest.mark.parametrize(
    ("table", "severities"),
    [
        ({"target_modules": ["to_q", "(a+)+"]}, []),
        ({"target_modules": "all-linear"}, []),
        ({"target_modules": r"(?:a\.b|(?:text_model\.)?c\.d)"}, []),
        ({"rank_pattern": {r"^a\.b": 4, r"^(?:a\.b|c\.d)": 8}}, []),
        ({"target_modules": r".*\.to_[qk]"}, ["low"]),
        ({"alpha_pattern": {".*": 4}}, ["medium"]),
        ({"rank_pattern": {"(a|b)*": 4, "x": 2}}, ["high"]),
        ({"target_modules": r"[(]a+[)]+"}, ["low"]),
        ({"target_modules": r"((a)+){3,}"}, ["high"]),
        ({"rank_pattern": None, "target_modules": None}, []),
    ],
)
def test_patterns_are_weighed_without_being_run(table, severities, tmp_path) -> None:
    assert found(config(tmp_path, **table), RegexPattern()) == severities


@pytest.mark.parametrize(
    ("name", "table", "severities"),
    [
        ("adapter_config.json", {"megatron_core": "megatron.core"}, []),
        ("adapter_config.json", {"megatron_core": "os"}, ["high"]),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "transformers.x"}}, []),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "transformersx"}}, ["high"]),
        ("model_index.json", {"vae": ["diffusers", "X"], "x": ["stable_diffusion", "Y"]}, []),
        ("model_index.json", {"vae": ["os", "system"], "_ignored": ["a", "b"]}, ["high"]),
        ("config.json", {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, []),
        ("vocab.json", {"auto_map": 17, "auto_mapping": 18}, []),
    ],
)
def test_imports_are_held_to_the_list(name, table, severities, tmp_path) -> None:
    assert found(config(tmp_path, name, **table), ImportMapping()) == severities


@pytest.mark.parametrize("value", [None, [], ["conv_out"]])
def test_modules_to_save_are_named(value, tmp_path) -> None:
    severities = ["medium"] if value else []
    assert found(config(tmp_path, modules_to_save=value), ModulesToSave()) == severities


def test_a_config_that_cannot_be_read_is_not_verified(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": ')
    report = scan([tmp_path], rules=[ImportMapping()])
    assert (len(report.not_verified), report.outcome()) == (1, "inconclusive")


@pytest.mark.parametrize(
    ("key", "text", "severities"),
    [
        ("modelspec.implementation", "https://github.com/a/b", []),
        ("modelspec.description", "<lora:x:1> a < b & c", []),
        ("modelspec.thumbnail", "data:image/jpeg;base64,AAAA", []),
        ("ss_training_comment", "two\nlines\tand a tab", []),
        ("modelspec.title", "\U0001f469\u200d\U0001f4bb", []),
        ("ss_training_comment", "see https://x.test", ["low"]),
        ("modelspec.author", "https://x.test\x1b[2J", ["medium", "low"]),
        ("note", "x" * (1 << 21), ["low"]),
        ("ss_tag_frequency", "x" * (1 << 21), []),
    ],
)
def test_metadata_is_weighed(key, text, severities, tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": np.ones(2)}, {key: text})
    assert found(path, Metadata()) == severities


def test_a_file_that_is_an_archive_as_well_is_flagged(tmp_path) -> None:
    archive, path = tmp_path / "z.zip", tmp_path / "a.safetensors"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("data.pkl", "x")
    save_tensors(path, {"x": np.frombuffer(archive.read_bytes(), np.uint8)})
    assert found(path, ContentMismatch()) == ["high"]
    assert found(archive, ContentMismatch()) == []


def test_a_pickle_that_looks_like_an_archive_is_followed_all_the_same(tmp_path) -> None:
    text = b"a" * 250 + b"ustar"
    stream = b"\x80\x02X" + len(text).to_bytes(4, "little") + text + b"0cos\ngetcwd\n(tR."
    (tmp_path / "model.bin").write_bytes(stream)
    assert stream[257:262] == b"ustar"
    found = list(Pickle().check(Subject(tmp_path / "model.bin")))
    assert any(isinstance(each, Finding) and each.where == "os.getcwd" for each in found)


@pytest.mark.parametrize(
    ("name", "severities"),
    [
        ("<cat-toy>", []),
        ("<cat-toy>_1", []),
        ("<lora:style:0.8>", []),
        ("$schema", []),
        ("<script>", ["high"]),
        ("<IMG>", ["high"]),
        ("\uff1cscript\uff1e", ["high"]),
        ("<a href=x>", ["high"]),
        ("$HOME", ["high"]),
    ],
)
def test_tokens_are_plain_names_and_tags_are_not(name, severities, tmp_path) -> None:
    save_tensors(tmp_path / "a.safetensors", {name: np.ones(2)})
    assert found(tmp_path / "a.safetensors", Header()) == severities


def test_a_pickle_too_long_to_be_followed_leaves_safetensors_open(tmp_path) -> None:
    build = {case.name: case.build for case in POLYGLOTS}
    build["safetensors_and_pickle_longer_than_is_followed"](tmp_path)
    report = scan([tmp_path], rules=[Pickle(max_chance=10_000_000)])
    assert [each.severity for each in report.findings] == []
    assert report.outcome() == "inconclusive"
    assert "too long" in report.not_verified[0].why


def test_lengths_that_look_like_a_pickle_say_nothing(tmp_path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"x": np.ones(2)}, {"note": "x" * 544})
    content = (tmp_path / "a.safetensors").read_bytes()
    assert content[:2] == b"\x80\x02"
    report = scan([tmp_path], rules=[Pickle()])
    assert (report.findings, report.not_verified) == ((), ())


def test_a_config_that_is_no_pickle_is_not_judged_by_that(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{")
    report = scan([tmp_path], rules=[Pickle(), ImportMapping()])
    assert report.outcome() == "inconclusive"


@pytest.mark.parametrize(
    ("target", "severities"),
    [
        ("os.system", ["critical"]),
        ("subprocess.Popen", ["critical"]),
        ("builtins.eval", ["critical"]),
        ("importlib.import_module", ["critical"]),
        ("torch.hub.load", ["critical"]),
        ("ldm.util.os.system", ["high"]),
        ("torch.nn.functional.torch.hub.load", ["high"]),
        ("ldmx.models.Model", ["medium"]),
        ("my_project.Model", ["medium"]),
        ("ldm.models.diffusion.ddpm.LatentDiffusion", []),
        ("torch.nn.Identity", []),
        ("cat", []),
        ("a picture. of a cat", []),
    ],
)
@pytest.mark.parametrize("form", ["hydra", "compvis", "yaml"])
def test_targets_are_weighed_by_what_they_call(target, severities, form, tmp_path) -> None:
    name = "config.json"
    if form == "yaml":
        name, text = "a.yaml", f"model:\n  target: {target}\n  params: {{}}\n"
    elif form == "hydra":
        text = json.dumps({"model": {"_target_": target}})
    else:
        text = json.dumps({"model": {"target": target, "params": {}}})
    (tmp_path / name).write_text(text)
    assert found(tmp_path / name, ImportMapping()) == severities


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("pipeline.py", b"import os\n", "Python code"),
        ("list.py", b"[print(x) for x in ()]\n", "Python code"),
        ("run.sh", b"ls\n", "a script of a shell"),
        ("install", b"#!/bin/sh\nls\n", "a script"),
        ("x.exe", b"MZ" + bytes(99), "a program"),
        ("x.dat", b"\x7fELF" + bytes(99), "a program"),
        ("lib.so", b"\x7fELF" + bytes(99), "a program"),
        ("report.html", b"<p>x</p>", "a page or script"),
    ],
)
def test_code_beside_weights_is_not_verified_and_says_what_it_is(
    name, content, what, tmp_path
) -> None:
    (tmp_path / name).write_bytes(content)
    save_tensors(tmp_path / "a.safetensors", {"x": np.ones(2)})
    report = scan([tmp_path], rules=[ImportMapping(), Pickle()])
    (left,) = report.not_verified
    assert left.why.startswith(what)
    assert left.why.endswith("which no rule reads")
    assert (left.path, report.outcome()) == (str(tmp_path / name), "pass")


@pytest.mark.parametrize(
    ("file", "severities"),
    [
        ("model-00001-of-00002.safetensors", []),
        ("unet/model.v1..2.safetensors", []),
        ("../model.bin", ["high"]),
        ("unet/../../model.bin", ["high"]),
        ("/etc/x.bin", ["high"]),
        ("C:\\x.bin", ["high"]),
        ("https://x.test/a.bin", ["high"]),
    ],
)
def test_weights_are_looked_for_beside_their_index(file, severities, tmp_path) -> None:
    table = {"weight_map": {"a": "a.safetensors", "b": file}}
    assert found(config(tmp_path, "x.index.json", **table), ImportMapping()) == severities


@pytest.mark.parametrize(
    "text",
    [
        "a: {target: os.getcwd}",
        "target: !!str os.getcwd",
        "target: &name os.getcwd",
        "target: >-\n  os.getcwd",
        "target: # a comment\n  os.getcwd",
        "? target\n: os.getcwd",
        '"target": "\\x6fs.getcwd"',
        '"t\\u0061rget": os.getcwd',
        "x: &name os.getcwd\ntarget: *name",
        "x: os.getcwd\ntarget: ${x}",
        "_target_: 'os.getcwd'",
    ],
)
def test_targets_are_found_in_whatever_way_yaml_spells_them(text, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert found(tmp_path / "a.yaml", ImportMapping()) == ["critical"]


@pytest.mark.parametrize(
    "text",
    [
        "target: es5\n",
        "targets: os.getcwd\n",
        "note: os.getcwd is what it calls\n",
        "target: docs/os.md\n",
        "my_target: os.getcwd\n",
        "target: prompt.txt\nother: 1\n",
    ],
)
def test_other_words_in_yaml_are_no_targets(text, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert found(tmp_path / "a.yaml", ImportMapping()) == []


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.getcwd",
        "!<tag:yaml.org,2002:python/name:os.getcwd>",
        "!p!python/module:os",
    ],
)
def test_tags_of_yaml_that_call_python_are_found(tag, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(f"x: {tag} []\n")
    assert found(tmp_path / "a.yaml", ImportMapping()) == ["high"]


@pytest.mark.parametrize("text", ["x: usr/lib/python/site\n", "image: python/slim\n"])
def test_paths_of_python_are_no_tags(text, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert found(tmp_path / "a.yaml", ImportMapping()) == []


def test_no_file_has_findings_without_end(tmp_path) -> None:
    text = "".join(f"- _target_: os.f{i}\n" for i in range(500))
    (tmp_path / "a.yaml").write_text(text)
    assert len(found(tmp_path / "a.yaml", ImportMapping(max_shown=7))) == 7
    table = {f"k{i}": {"auto_map": {"A": "m.M"}} for i in range(500)}
    assert len(found(config(tmp_path, **table), ImportMapping(max_shown=7))) == 7


def test_a_program_that_is_an_archive_as_well_leaves_the_verdict_open(tmp_path) -> None:
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.txt", "words")
    (tmp_path / "x.exe").write_bytes(b"MZ" + bytes(99) + zipped.read_bytes())
    report = scan([tmp_path], rules=[Pickle(), ImportMapping()])
    what = "a program or library with a pickle or zip archive in it"
    assert what in [each.why for each in report.not_verified]
    assert report.outcome() == "inconclusive"
