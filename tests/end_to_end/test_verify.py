"""``loricate manifest``, ``sign`` and ``verify`` on runs, adapters and models, by exit code."""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.baked_files import PROVENANCE
from loricate.adapters.formats.merged import Merged
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.keys import BASE_DIGEST
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.weights import open_weights
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.integrity.digest import adapter_digest, digest
from loricate.integrity.manifest import MANIFEST
from loricate.integrity.signing import SIGNATURE
from loricate.records.io import write_record
from loricate.records.schema import Integrity
from loricate.report.build import build_report
from loricate.testing.records import write_made_up_run

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")

SHAPES = {"encoder.conv_in": (4, 3, 3, 3), "encoder.mid_block.attentions.0.to_q": (6, 6)}
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
PEM = serialization.Encoding.PEM


def write_key(root, name, key, lock=None):
    lock = lock or serialization.NoEncryption()
    private, public = root / f"{name}.pem", root / f"{name}.pub"
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, lock))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(PEM, spki))
    return str(private), str(public)


def random_adapter(rng, metadata=None):
    updates = {}
    for module, shape in SHAPES.items():
        a = rng.standard_normal((2, *shape[1:]), np.float32)
        b = rng.standard_normal((shape[0], 2, *(1,) * (len(shape) - 2)), np.float32)
        updates[Target("vae", module)] = Update.from_factors(a, b, 0.3)
    return Adapter(updates, metadata or {})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, keys, and a signed folder as ``harden`` writes it, on made-up numbers."""
    root, rng = tmp_path_factory.mktemp("verify"), np.random.default_rng(3)
    tensors = {f"{name}.weight": rng.standard_normal(s, np.float32) for name, s in SHAPES.items()}
    tensors["encoder.conv_in.bias"] = np.ones(4, np.float32)
    save_tensors(root / "base" / WEIGHTS, tensors)
    (root / "base" / "vae" / "config.json").write_text("{}")
    (root / "base" / "model_index.json").write_text("{}")
    folder, adapter = root / "run", random_adapter(rng)
    PEFT(component="vae").write(adapter, folder / "adapter")
    adapter = PEFT().read(folder / "adapter")  # the scale folded in, as training leaves it
    Merged(base=root / "base", component="vae", dtype="float32").write(adapter, folder / "vae")
    own = digest(open_weights(root / "base" / "vae"))
    proof = Integrity(
        base_digest_before=own,
        base_digest_after=own,
        gain_zero_identical=True,
        merged_max_difference=0.0,
        adapter_digest=adapter_digest(adapter),
    )
    record = write_made_up_run(folder, pictures=1)
    outputs = {"adapter": "adapter", "vae": "vae"}
    write_record(folder, record.model_copy(update={"integrity": proof, "outputs": outputs}))
    build_report(folder)
    write_key(root, "key", ec.generate_private_key(ec.SECP256R1()))
    write_key(root, "rsa", rsa.generate_private_key(65537, 1024))
    lock = serialization.BestAvailableEncryption(b"sesame")
    write_key(root, "locked", ec.generate_private_key(ec.SECP256R1()), lock)
    assert run(["sign", str(folder), "--key", str(root / "key.pem")]) == ExitCode.PASS
    return root


@pytest.fixture
def root(made, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "copy")


def verify(root, *flags, folder="run"):
    return run(["verify", str(root / folder), "--key", str(root / "key.pub"), *map(str, flags)])


def claims(capsys):
    """Status of each check, by its name."""
    found = json.loads(capsys.readouterr().out)
    status = {}
    for each in found["checks"]:
        status.setdefault(each["rule"], set()).add(each["passed"])
    return status, found


def failed(found):
    """Names of what is wrong, by check."""
    names = {}
    for each in found["checks"]:
        if each["passed"] is False:
            place = "" if each["where"] is None else f":{each['where']}"
            names.setdefault(each["rule"], set()).add(f"{each['path']}{place}")
    return names


def test_everything_of_a_run_is_proven(root, capsys):
    shutil.move(root / "run", root / "moved")
    flags = ("--base", root / "base", "--json")
    assert verify(root, *flags, folder="moved") == ExitCode.PASS
    status, found = claims(capsys)
    assert found["verdict"] == "pass"
    assert status == {name: {True} for name in ("signature", "files", "evidence", "base", "merge")}
    (merge,) = [each["message"] for each in found["checks"] if each["rule"] == "merge"]
    assert merge == "2 tensors are base plus update bit for bit, 1 are as in the base"


def test_without_a_key_nothing_is_proven_but_everything_else_is_checked(root, capsys):
    arguments = ["verify", str(root / "run"), "--base", str(root / "base"), "--json"]
    assert run(arguments) == ExitCode.INCONCLUSIVE
    status, _ = claims(capsys)
    assert status.pop("signature") == {None}
    assert set().union(*status.values()) == {True}
    (root / "run" / "README.md").write_text("new")
    assert run(arguments) == ExitCode.NEGATIVE


def test_without_a_base_what_it_takes_is_listed_and_decides_nothing(root, capsys):
    assert verify(root, "--json") == ExitCode.PASS
    status, _ = claims(capsys)
    assert status["base"] == status["merge"] == {None}


def resign(root):
    """What somebody with the key does, in good faith or not."""
    assert run(["manifest", str(root / "run")]) == ExitCode.PASS
    assert run(["sign", str(root / "run"), "--key", str(root / "key.pem")]) == ExitCode.PASS


def test_another_base_is_told(root, capsys):
    path = root / "base" / WEIGHTS
    tensors = {name: np.array(each) for name, each in TensorFile(path).items()}
    tensors["encoder.conv_in.bias"][0] = 2
    save_tensors(path, tensors)
    assert verify(root, "--base", root / "base", "--json") == ExitCode.NEGATIVE
    names = failed(claims(capsys)[1])
    assert names["base"] == {f"{root / 'base'}:vae"}
    assert names["merge"] == {"vae:encoder.conv_in.bias"}
    assert "files" not in names


def test_a_base_in_half_precision_is_the_one_a_run_loaded(made, root, capsys):
    """A run hashes float32, whatever its base is stored in."""
    half = {n: t.astype(np.float16) for n, t in TensorFile(root / "base" / WEIGHTS).items()}
    save_tensors(root / "base" / WEIGHTS, half)
    loaded = digest({name: each.astype(np.float32) for name, each in half.items()})
    path = root / "run" / "record.json"
    stored = json.loads(path.read_text())["integrity"]["base_digest_before"]
    for file in (path, root / "run" / "report.html"):
        file.write_text(file.read_text().replace(stored, loaded))
    shutil.rmtree(root / "run" / "vae")
    adapter = PEFT().read(root / "run" / "adapter")
    Merged(base=root / "base", component="vae", dtype="float32").write(adapter, root / "run/vae")
    resign(root)
    assert verify(root, "--base", root / "base") == ExitCode.PASS


def test_a_base_in_a_single_file_is_the_one_a_run_loaded(root, capsys):
    tensors = {name: np.array(each) for name, each in TensorFile(root / "base" / WEIGHTS).items()}
    query = tensors.pop("encoder.mid_block.attentions.0.to_q.weight")
    tensors["encoder.mid.attn_1.q.weight"] = query[..., None, None]
    named = {f"first_stage_model.{name}": each for name, each in tensors.items()}
    save_tensors(root / "base.safetensors", named | {"model.diffusion_model.x": np.ones(3)})
    assert verify(root, "--base", root / "base.safetensors", "--json") == ExitCode.PASS
    status, _ = claims(capsys)
    assert status["base"] == status["merge"] == {True}


def test_evidence_of_other_weights_is_told_although_it_was_signed(root, rng, capsys):
    shutil.rmtree(root / "run" / "adapter")
    PEFT(component="vae").write(random_adapter(rng), root / "run" / "adapter")
    resign(root)
    capsys.readouterr()
    assert verify(root, "--base", root / "base", "--json") == ExitCode.NEGATIVE
    names = failed(claims(capsys)[1])
    assert names.keys() == {"evidence", "merge"}
    assert names["evidence"] == {"record.json"}
    assert names["merge"] == {f"vae:{module}.weight" for module in SHAPES}


def test_the_base_in_place_of_the_merged_model_is_told(root, capsys):
    shutil.copyfile(root / "base" / WEIGHTS, root / "run" / WEIGHTS)
    resign(root)
    capsys.readouterr()
    assert verify(root, "--base", root / "base", "--json") == ExitCode.NEGATIVE
    _, found = claims(capsys)
    assert failed(found) == {"merge": {"vae"}}
    assert "without the update" in found["checks"][-1]["message"]


def test_a_page_and_pictures_of_another_run_are_told(root, capsys):
    page = root / "run" / "report.html"
    own = json.loads((root / "run" / "record.json").read_text())["integrity"]["adapter_digest"]
    page.write_text(page.read_text().replace(own, "0" * 64))
    picture = next((root / "run" / "blobs").rglob("*.png"))
    picture.write_bytes(picture.read_bytes() + b"x")
    resign(root)
    capsys.readouterr()
    assert verify(root, "--json") == ExitCode.NEGATIVE
    name = picture.relative_to(root / "run").as_posix()
    assert failed(claims(capsys)[1]) == {"evidence": {"report.html", name}}


def test_an_adapter_alone_names_its_base_itself(root, rng, capsys):
    stated = {BASE_DIGEST: digest(open_weights(root / "base" / "vae"))}
    lone = root / "lone"
    PEFT(component="vae").write(random_adapter(rng, stated), lone)
    assert run(["sign", str(lone), "--key", str(root / "key.pem")]) == ExitCode.PASS
    assert verify(root, "--base", root / "base", folder="lone") == ExitCode.PASS
    manifest = json.loads((lone / MANIFEST).read_text())
    assert manifest["bases"] == {"vae": {".": stated[BASE_DIGEST]}}
    capsys.readouterr()
    other = root / "run" / "vae"
    assert verify(root, "--base", other, "--json", folder="lone") == ExitCode.NEGATIVE
    assert failed(claims(capsys)[1]) == {"base": {f"{other}:vae"}}


def test_an_adapter_that_names_no_base_leaves_it_open(root, rng):
    PEFT(component="vae").write(random_adapter(rng), root / "lone")
    assert run(["sign", str(root / "lone"), "--key", str(root / "key.pem")]) == ExitCode.PASS
    assert verify(root, folder="lone") == ExitCode.PASS
    assert verify(root, "--base", root / "base", folder="lone") == ExitCode.INCONCLUSIVE


def test_a_baked_file_beside_its_adapter_is_held_to_its_gain(root, rng, capsys):
    folder = root / "pair"
    stated = {BASE_DIGEST: digest(open_weights(root / "base" / "vae"))}
    PEFT(component="vae").write(random_adapter(rng, stated), folder / "lora")
    arguments = [
        "bake",
        str(folder / "lora"),
        "--base",
        str(root / "base" / "vae"),
        "--gain",
        "0.5",
    ]
    assert run([*arguments, "--out", str(root / "baked")]) == ExitCode.PASS
    (baked,) = (root / "baked").glob("*.safetensors")
    shutil.copyfile(baked, folder / "hardened.safetensors")
    assert run(["sign", str(folder), "--key", str(root / "key.pem")]) == ExitCode.PASS
    capsys.readouterr()
    assert verify(root, "--base", root / "base" / "vae", "--json", folder="pair") == ExitCode.PASS
    status, _ = claims(capsys)
    assert status["merge"] == {True}


def merge_words(root, capsys, code):
    """What verifying a signed-anew run against its base says of merged weights, by path."""
    resign(root)
    capsys.readouterr()
    assert verify(root, "--base", root / "base", "--json") == code
    _, found = claims(capsys)
    rows = [each for each in found["checks"] if each["rule"] == "merge"]
    return {each["path"]: (each["passed"], each["message"]) for each in rows}


@pytest.mark.parametrize(
    "path",
    [
        "other/model.safetensors",
        "unet/model.safetensors",
        "vae/model.fp16.safetensors",
        "x.safetensors",
    ],
)
def test_weights_that_were_held_to_nothing_are_open(root, capsys, path):
    save_tensors(root / "run" / path, {"a.weight": np.ones((2, 2), np.float32)})
    words = merge_words(root, capsys, ExitCode.INCONCLUSIVE)
    assert words["vae"][0] is True
    assert words[path][0] is None
    assert "held to nothing" in words[path][1]


def test_a_component_that_is_the_bases_is_proven(root, capsys):
    tensors = {"a.weight": np.ones((2, 2), np.float32)}
    for place in ("base", "run"):
        save_tensors(root / place / "unet" / "model.safetensors", tensors)
    words = merge_words(root, capsys, ExitCode.PASS)
    assert words["unet/model.safetensors"] == (True, "it is the unet of the base")


def with_header(root, **said):
    """The merged weights of a run, with a header."""
    path = root / "run" / WEIGHTS
    tensors = {name: np.array(each) for name, each in TensorFile(path).items()}
    save_tensors(path, tensors, {f"loricate.{key}": text for key, text in said.items()})


def test_a_gain_that_the_record_does_not_state_is_open(root, capsys):
    shutil.rmtree(root / "run" / "vae")
    adapter = PEFT().read(root / "run" / "adapter").scaled(5.0)
    Merged(base=root / "base", component="vae", dtype="float32").write(adapter, root / "run/vae")
    with_header(root, **{"baked.gain": "5.0"})
    words = merge_words(root, capsys, ExitCode.INCONCLUSIVE)
    assert "gain 5" in words["vae"][1]


@pytest.mark.parametrize("key", ["baked.components", "baked.adapter", "note"])
def test_a_header_of_ours_that_says_more_is_told(root, capsys, key):
    with_header(root, **{key: "0" * 64})
    resign(root)
    capsys.readouterr()
    assert verify(root, "--base", root / "base", "--json") == ExitCode.INCONCLUSIVE
    said = [each["message"] for each in claims(capsys)[1]["checks"] if each["rule"] == "merge"]
    assert any("its header" in each for each in said)


def test_what_bake_wrote_is_held_to_every_bit(root, rng, capsys):
    adapter = PEFT().read(root / "run" / "adapter")
    shutil.rmtree(root / "run" / "vae")
    Merged(base=root / "base", component="vae", dtype="float16").write(adapter, root / "run/vae")
    path = root / "run" / WEIGHTS
    tensors = {name: np.array(each) for name, each in TensorFile(path).items()}
    tensors["encoder.conv_in.weight"].reshape(-1).view("u2")[0] ^= 1
    save_tensors(path, tensors)
    assert merge_words(root, capsys, ExitCode.PASS)["vae"][0] is True
    with_header(root, **{"baked.gain": "1.0"})
    assert "to the bit" in merge_words(root, capsys, ExitCode.NEGATIVE)["vae"][1]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (".git/unet/model.safetensors", ExitCode.NEGATIVE),
        (".cache/huggingface/payload.ckpt", ExitCode.NEGATIVE),
        (".github/scripts/run.py", ExitCode.INCONCLUSIVE),
        (".git/hooks/post-checkout", ExitCode.INCONCLUSIVE),
        (".git/hooks/post-checkout.sample", ExitCode.PASS),
        (".git/objects/ab/cdef", ExitCode.PASS),
        (".cache/huggingface/download/model.safetensors.metadata", ExitCode.PASS),
        ("vae/__pycache__/model.pyc", ExitCode.NEGATIVE),
        (".cache/model.bin", ExitCode.NEGATIVE),
    ],
)
def test_what_lies_where_nobody_looks_is_told(root, path, code, capsys):
    place = root / "run" / path
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    assert verify(root, "--json") == code
    told = {each["path"] for each in claims(capsys)[1]["checks"] if each["passed"] is not True}
    assert (path in told) is (code != ExitCode.PASS)


def test_evidence_in_the_manifest_is_that_of_the_files(root, capsys):
    path = root / "run" / MANIFEST
    table = json.loads(path.read_text())
    table["evidence"]["report"] = "0" * 64
    path.write_text(json.dumps(table))
    assert verify(root, "--json") == ExitCode.NEGATIVE
    assert MANIFEST in failed(claims(capsys)[1])["files"]


def test_an_empty_folder_is_nothing(root):
    (root / "run" / "empty").mkdir()
    assert verify(root) == ExitCode.PASS


@pytest.mark.parametrize("form", ["--sarif", "--junit", "--json"])
def test_machines_read_what_failed(root, form, capsys):
    (root / "run" / "extra").write_text("x")
    out = root / "result"
    assert verify(root, form, "--out", out) == ExitCode.NEGATIVE
    assert capsys.readouterr().out == ""
    if form == "--junit":
        suite = ElementTree.parse(out).getroot()
        assert (suite.get("failures"), suite.get("skipped")) == ("2", "2")
    elif form == "--sarif":
        results = json.loads(out.read_text())["runs"][0]["results"]
        assert {each["ruleId"] for each in results} == {"signature", "files"}
    else:
        assert failed(json.loads(out.read_text())) == {"signature": {"extra"}, "files": {"extra"}}


def test_a_signature_that_was_taken_away_is_no_pass(root):
    (root / "run" / SIGNATURE).unlink()
    assert verify(root) == ExitCode.NEGATIVE
    (root / "run" / SIGNATURE).write_bytes(b"")
    assert verify(root) == ExitCode.NEGATIVE


def test_a_folder_without_manifest_or_signature_is_inconclusive(root):
    for name in (MANIFEST, SIGNATURE):
        (root / "run" / name).unlink()
    assert run(["verify", str(root / "run")]) == ExitCode.INCONCLUSIVE


@pytest.mark.parametrize(
    ("content", "verified", "words"),
    [
        ("", ExitCode.NEGATIVE, "not a manifest"),
        ("no JSON", ExitCode.NEGATIVE, "not a manifest"),
        (
            '{"format": "loricate-manifest", "version": 2}',
            ExitCode.INCONCLUSIVE,
            "upgrade loricate",
        ),
    ],
)
def test_what_is_no_manifest_is_neither_believed_nor_replaced(
    root, content, verified, words, capsys
):
    path = root / "run" / MANIFEST
    path.write_text(content)
    assert run(["verify", str(root / "run")]) == verified
    assert words in capsys.readouterr().out
    assert verify(root) == ExitCode.NEGATIVE  # as it was signed otherwise
    capsys.readouterr()
    arguments = ["sign", str(root / "run"), "--key", str(root / "key.pem")]
    assert run(arguments) == ExitCode.COULD_NOT_RUN
    assert words in capsys.readouterr().err
    assert path.read_text() == content


def test_a_stale_manifest_is_neither_signed_nor_replaced(root, capsys):
    (root / "run" / "README.md").write_text("new")
    before = {each.name: each.read_bytes() for each in (root / "run").iterdir() if each.is_file()}
    arguments = ["sign", str(root / "run"), "--key", str(root / "key.pem")]
    assert run(arguments) == ExitCode.NEGATIVE
    assert "'README.md'" in capsys.readouterr().err
    now = {each.name: each.read_bytes() for each in (root / "run").iterdir() if each.is_file()}
    assert now == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sign", "RUN", "--key", "none.pem"], 3, "name the file of the key"),
        (["sign", "RUN", "--key", "rsa.pem"], 2, "elliptic curve"),
        (["sign", "RUN", "--key", "key.pub"], 2, "BEGIN PUBLIC KEY"),
        (["sign", "RUN", "--key", "locked.pem"], 2, "password"),
        (["sign", "RUN", "--key", "locked.pem", "--password", "no"], 2, "password"),
        (["sign", "RUN"], 2, "--key"),
        (["verify", "RUN", "--key", "none.pub"], 3, "name the file of the key"),
        (["verify", "RUN", "--key", "rsa.pub"], 2, "elliptic curve"),
        (["verify", "RUN", "--key", "key.pem"], 2, "elliptic curve"),
        (["verify", "RUN", "--base", "nothing"], 2, "no embedded model"),
        (["verify", "RUN", "--base", "rsa.pub"], 3, "refused"),
        (["verify", "nowhere"], 2, "does not exist"),
        (["manifest", "key.pub"], 2, "is a file"),
    ],
)
def test_mistakes_are_named_and_change_nothing(made, arguments, code, words, capsys, monkeypatch):
    monkeypatch.chdir(made)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert run(["run" if each == "RUN" else each for each in arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize("command", ["sign", "verify"])
def test_a_key_inside_the_folder_is_refused(root, command, capsys):
    name = "key.pem" if command == "sign" else "key.pub"
    for path in (root / "run" / name, root / "run" / "link"):
        if path.name == "link":
            path.symlink_to(root / name)
        else:
            shutil.copyfile(root / name, path)
        assert run([command, str(root / "run"), "--key", str(path)]) == ExitCode.USAGE
        assert "a key outside the folder" in capsys.readouterr().err


@pytest.mark.parametrize("gain", ["abc", "nan", "1e999"])
def test_a_gain_that_is_no_number_is_open(root, gain, capsys):
    file = TensorFile(root / "run" / WEIGHTS)
    tensors = {name: np.array(each) for name, each in file.items()}
    save_tensors(root / "run" / WEIGHTS, tensors, {f"{PROVENANCE}gain": gain})
    resign(root)
    capsys.readouterr()
    assert verify(root, "--base", root / "base", "--json") == ExitCode.INCONCLUSIVE
    assert claims(capsys)[0]["merge"] == {None}


def test_malformed_weights_are_not_passed_over(root, capsys):
    shutil.rmtree(root / "run" / "vae")
    (root / "run" / "vae").mkdir()
    (root / "run" / WEIGHTS).write_bytes(b"")
    assert verify(root, "--json") == ExitCode.NEGATIVE
    assert WEIGHTS in failed(claims(capsys)[1])["signature"]
    assert run(["manifest", str(root / "run")]) == ExitCode.COULD_NOT_RUN
    capsys.readouterr()
    assert run(["verify", str(root / "run"), "--json"]) == ExitCode.NEGATIVE
    _, found = claims(capsys)
    known = [each["passed"] for each in found["checks"] if each["path"] == WEIGHTS]
    assert known == [None, False, False, False]  # the file, and its three tensors that are gone


def test_a_password_comes_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("LORICATE_KEY_PASSWORD", "sesame")
    assert run(["sign", str(root / "run"), "--key", str(root / "locked.pem")]) == ExitCode.PASS
    arguments = ["verify", str(root / "run"), "--key", str(root / "locked.pub")]
    assert run(arguments) == ExitCode.PASS


def test_without_torch_and_without_the_extra(made, root):
    base, folder, key = (str(root / name) for name in ("base", "run", "key.pub"))
    code = f"""
import sys
sys.modules["torch"] = sys.modules["model_signing"] = None
from loricate.cli.main import run
codes = [
    run(["manifest", {folder!r}]),
    run(["verify", {folder!r}, "--base", {base!r}]),
    run(["gate", {folder!r}]),
    run(["verify", {folder!r}, "--key", {key!r}]),
    run(["sign", {folder!r}, "--key", {key!r}]),
]
print([int(code) for code in codes])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[0, 4, 4, 3, 3]", done.stderr
    assert done.stderr.count("pip install 'loricate[sign]'") == 2


def test_the_example_tells_what_was_tampered_with(capsys):
    path = Path(__file__).parents[2] / "examples" / "verify_download.py"
    spec = importlib.util.spec_from_file_location("example_verify_download", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([])
    honest, _, changed = capsys.readouterr().out.partition("with one number")
    assert "FAILS" not in honest
    assert "FAILS" in changed
    assert "adapter_model.safetensors" in changed


@pytest.mark.parametrize("kind", ["folder", "float32", "float16"])
def test_what_harden_leaves_is_proven_from_base_to_report(tmp_path, rng, capsys, kind):
    """Its own last steps on a tiny pipeline; only the numbers of the evaluation are made up."""
    pytest.importorskip("diffusers")
    import torch

    from loricate.recipes import _artifacts
    from loricate.recipes._models import load_family
    from loricate.surfaces.attach import load
    from loricate.testing.pipelines import write_tiny_model
    from loricate.testing.single_files import write_single_file

    model = write_tiny_model(tmp_path / "tiny-sd", n_calibration=1, n_test=1)
    if kind != "folder":
        pipe = write_single_file(tmp_path / "checkpoint", getattr(torch, kind))
        model = tmp_path / "checkpoint" / "one.safetensors"
        pipe.unet.save_pretrained(tmp_path / "run" / "unet")  # under the names of diffusers
    family, out = load_family(model, "cpu"), tmp_path / "run"
    before = digest(family.vae.state_dict())
    weights = {n: p for n, p in family.vae.named_parameters() if n.startswith("encoder.")}
    updates = {}
    for name, weight in weights.items():
        if name.endswith(".weight") and weight.ndim in (2, 4):
            shape = tuple(weight.shape)
            a = rng.standard_normal((2, *shape[1:]), np.float32)
            b = 0.01 * rng.standard_normal((shape[0], 2, *(1,) * (len(shape) - 2)), np.float32)
            updates[Target("vae", name.removesuffix(".weight"))] = Update.from_factors(a, b)
    attached = load(family.vae, Adapter(updates), "vae")
    merged = _artifacts.write_artifacts(out, model, family, attached)
    images = torch.zeros(1, 3, family.image_size, family.image_size)
    proof = _artifacts.verify(family, attached, merged, before, images)
    record = write_made_up_run(out, pictures=0)
    outputs = {"adapter": "adapter", "vae": "vae"}
    write_record(out, record.model_copy(update={"integrity": proof, "outputs": outputs}))
    build_report(out)
    private, public = write_key(tmp_path, "key", ec.generate_private_key(ec.SECP256R1()))
    assert run(["sign", str(out), "--key", private]) == ExitCode.PASS
    capsys.readouterr()
    arguments = ["verify", str(out), "--key", public, "--base", str(model), "--json"]
    assert run(arguments) == ExitCode.PASS
    status, found = claims(capsys)
    assert status == {name: {True} for name in ("signature", "files", "evidence", "base", "merge")}
    said = {each["path"]: each["message"] for each in found["checks"] if each["rule"] == "merge"}
    assert f"{len(updates)} tensors are base plus update bit for bit" in said.pop("vae")
    assert {*said.values()} == (set() if kind == "folder" else {"it is the unet of the base"})
