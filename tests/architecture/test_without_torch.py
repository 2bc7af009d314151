"""The promise of a base install: all help, all listings and the torch-free packages, sans torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_BLOCKED = ["accelerate", "diffusers", "model_signing", "peft", "torch", "transformers"]
_PACKAGES = ["adapters", "basics", "integrity", "lowrank", "models", "records", "report"]
_SOURCE = Path(__file__).parents[2] / "src" / "loricate"

_PRELUDE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PRELUDE + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _module_name(path: Path) -> str:
    parts = path.relative_to(_SOURCE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def test_blocking_works() -> None:
    done = _run("import torch")
    assert done.returncode == 1
    assert "No module named 'torch'" in done.stderr


def test_every_help_page_prints() -> None:
    done = _run("""
import json
from loricate.cli.main import _loricate, run

names = _loricate.list_commands(None)
codes = {name: int(run([name, "--help"])) for name in names}
print(json.dumps({"names": names, "codes": codes}), file=sys.stderr)
""")
    outcome = json.loads(done.stderr.splitlines()[-1])
    assert {"ls", "show"} <= set(outcome["names"])
    assert set(outcome["codes"].values()) == {0}
    assert all(f"Usage: loricate {name} " in done.stdout for name in outcome["names"])


def test_ls_prints_what_the_registry_holds() -> None:
    done = _run("""
from loricate.basics import registry
from loricate.cli.main import run

print(sum(len(registry.names(kind)) for kind in registry.KINDS), file=sys.stderr)
sys.exit(run(["ls", "--json"]))
""")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == int(done.stderr)


@pytest.mark.parametrize("package", [each for each in _PACKAGES if (_SOURCE / each).is_dir()])
def test_package_imports(package: str) -> None:
    modules = sorted(map(_module_name, (_SOURCE / package).rglob("*.py")))
    assert f"loricate.{package}" in modules
    done = _run(f"from importlib import import_module\nfor m in {modules}: import_module(m)")
    assert done.returncode == 0, done.stderr


def test_adapter_files_are_inspected_converted_resized_and_combined(tmp_path: Path) -> None:
    done = _run(f"""
from pathlib import Path
import numpy as np
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.tensors import save_tensors
from loricate.cli.main import run

folder = Path({str(tmp_path)!r})
target = Target("unet", "down_blocks.0.attentions.0.proj_in")
update = Update.from_factors(np.ones((1, 4), np.float32), np.ones((3, 1), np.float32))
save_adapter(Adapter({{target: update}}), folder / "lora.safetensors", form="kohya")
save_tensors(folder / "unet.safetensors", {{f"{{target.module}}.weight": np.ones((3, 4))}})
source, base, out = (str(folder / name) for name in ("lora.safetensors", "unet.safetensors", "out"))
lines = [
    ["inspect", source],
    ["convert", source, "--to", "peft", "--out", out + "1"],
    ["convert", source, "--to", "merged", "--base", base, "--out", out + "2.safetensors"],
    ["resize", source, "--rule", "rank:1", "--out", out + "3.safetensors"],
    ["combine", source, source, "--rule", "numerical", "--out", out + "4.safetensors"],
]
sys.exit(max(map(run, lines)))
""")
    assert done.returncode == 0, done.stderr


def test_files_are_scanned_verified_and_gated(tmp_path: Path) -> None:
    done = _run(f"""
from pathlib import Path
import numpy as np
from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.cli.main import run
from loricate.testing.records import write_made_up_run

folder = Path({str(tmp_path)!r})
target = Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
factors = (np.full((1, 192), 0.01, np.float32), np.full((192, 1), 0.01, np.float32))
adapter = Adapter({{target: Update.from_factors(*factors)}})
save_adapter(adapter, folder / "lora" / "lora.safetensors", form="kohya")
write_made_up_run(folder / "run", pictures=0)
lora, made, base = str(folder / "lora"), str(folder / "run"), str(models.path())
codes = [
    run(["scan", lora]),
    run(["scan", lora, "--base", base, "--json"]),
    run(["manifest", lora]),
    run(["verify", lora, "--base", base]),
    run(["gate", made]),
]
print([int(code) for code in codes])
""")
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 4, 4]", done.stderr


def test_a_command_that_needs_torch_names_the_install_line() -> None:
    done = _run("""
import click
from loricate.cli import main

class Command(click.Command):
    def invoke(self, ctx):
        import torch

main._Commands.list_commands = lambda self, ctx: ["needy"]
main._Commands.get_command = lambda self, ctx, name: Command("needy")
sys.exit(main.run(["needy"]))
""")
    assert done.returncode == 3
    assert "pip install 'loricate[sd]'" in done.stderr
    assert "Traceback" not in done.stderr
