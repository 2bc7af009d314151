"""What ``loricate scan`` and its peers say of the hostile and benign corpora.

    python benchmarks/scanners.py [--json FILE] [--offline]

Each peer is installed in an environment of its own under build/scanners, where it is not there yet,
and is run through its command line with its strictest verdict: picklescan with its defaults and
with ``--strict``, modelscan with its defaults, adaptersentry with ``--fail-on review``, ours with
``--fail-on medium``. A cell says how many files of a kind a tool flags, of how many; of those it
does not flag it may have said that it cannot judge them, which is counted behind it. The corpora
were built by this project, so they hold what it looks for: the peers' misses are what they do not
claim to find, mostly. Ours has the embedded model as its base where a case is about a base, which
no peer could be given.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loricate import models
from loricate.cli.main import run
from loricate.testing.corpora import (
    _archives,
    _configs,
    _headers,
    _names,
    _protocols,
    _weights,
    pickles,
)
from loricate.testing.corpora._case import Case
from loricate.testing.corpora.benign import BENIGN

ROOT = Path("build/scanners")

KINDS: Mapping[str, Sequence[Case]] = {
    "pickles of the table": pickles.TABLE,
    "disguised pickles": pickles.DISGUISED,
    "old pickles": _protocols.PROTOCOLS,
    "packed pickles": _archives.ARCHIVES,
    "files of two kinds": _archives.POLYGLOTS,
    "headers": _headers.HEADERS,
    "metadata": _headers.METADATA,
    "false names": _headers.CONTENTS,
    "configs": _configs.CONFIGS,
    "tensor names": _names.NAMES,
    "weights": _weights.WEIGHTS,
    "benign": BENIGN,
}

# Runs a command line again and again in one process, as most of its time is importing.
DRIVER = """
import contextlib, io, json, sys
from importlib.metadata import entry_points
name, lines = json.load(sys.stdin)
(point,) = entry_points(group="console_scripts", name=name)
main, codes = point.load(), []
for line in lines:
    sys.argv = [name, *line]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = main() or 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except Exception:
            code = -1
    codes.append(code)
print("\\n" + json.dumps(codes))
"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A scanner of somebody else.

    Args:
        package: Its name on PyPI, and that of its command.
        arguments: Its command line for a path.
        flagged: Exit codes that mean a finding.
        clean: Exit codes that mean none; any other says that it could not judge.
    """

    package: str
    arguments: Callable[[Path], list[str]]
    flagged: frozenset[int]
    clean: frozenset[int] = frozenset({0})


def _weights_in(path: Path) -> str:
    """The file in a folder, for a tool that takes files only."""
    return str(next(iter(sorted(path.glob("*.safetensors"))), path) if path.is_dir() else path)


PEERS = {
    "picklescan": Peer(
        package="picklescan", arguments=lambda path: ["-p", str(path)], flagged=frozenset({1})
    ),
    "picklescan --strict": Peer(
        package="picklescan",
        arguments=lambda path: ["--strict", "-p", str(path)],
        flagged=frozenset({1}),
    ),
    "modelscan": Peer(
        package="modelscan", arguments=lambda path: ["-p", str(path)], flagged=frozenset({1})
    ),
    "adaptersentry": Peer(
        package="adaptersentry",
        arguments=lambda path: ["scan", _weights_in(path), "--fail-on", "review"],
        flagged=frozenset({2}),
    ),
}


def installed(package: str, offline: bool) -> tuple[Path | None, str]:
    """Python of the environment of a peer, and its version or why there is none."""
    folder = ROOT / package
    python = folder / "bin" / "python"
    code = f"from importlib.metadata import version; print(version({package!r}))"
    if not python.exists() and not offline:
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", package]
        subprocess.run(pip, check=False, capture_output=True)
    if not python.exists():
        return None, "not installed"
    found = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True)
    version = found.stdout.strip()
    return (python, version) if found.returncode == 0 else (None, "cannot be installed")


def verdicts(peer: Peer, python: Path, paths: Sequence[Path]) -> list[str]:
    """What a peer says of each path: ``flagged``, ``clean`` or ``unjudged``."""
    lines = [peer.arguments(path) for path in paths]
    done = subprocess.run(
        [str(python), "-c", DRIVER],
        input=json.dumps([peer.package, lines]),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{peer.package} stopped: {done.stderr[-500:]}")
    return [_verdict(peer, code) for code in json.loads(done.stdout.splitlines()[-1])]


def _verdict(peer: Peer, code: int) -> str:
    if code in peer.flagged:
        return "flagged"
    return "clean" if code in peer.clean else "unjudged"


def ours(case: Case, path: Path) -> str:
    """What ``loricate scan`` says of a case."""
    base = ["--base", str(models.path())] if case.needs_base else []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run(["scan", str(path), "--fail-on", "medium", *base])
    return {0: "clean", 1: "flagged"}.get(int(code), "unjudged")


def built(folder: Path) -> dict[str, list[tuple[Case, Path]]]:
    """Every case on disk, by kind."""
    made: dict[str, list[tuple[Case, Path]]] = {}
    for kind, cases in KINDS.items():
        for case in cases:
            place = folder / kind.replace(" ", "_") / case.name
            place.mkdir(parents=True)
            made.setdefault(kind, []).append((case, case.build(place)))
    return made


def table(results: Mapping[str, Mapping[str, Sequence[str]]], sizes: Mapping[str, int]) -> None:
    """Flagged of all by kind and tool; in parentheses, how many a tool says it cannot judge."""
    print(f"{'kind':<22}{'files':>6}" + "".join(f"{tool:>22}" for tool in results))
    for kind, size in sizes.items():
        cells = []
        for found in results.values():
            counts = Counter(found[kind]) if kind in found else Counter()
            unjudged = f" ({counts['unjudged']})" if counts["unjudged"] else ""
            cells.append(f"{counts['flagged']}{unjudged}" if counts else "-")
        print(f"{kind:<22}{size:>6}" + "".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--offline", action="store_true", help="install nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = built(Path(folder))
        results = {"loricate": {k: [ours(*each) for each in cases] for k, cases in made.items()}}
        versions = {}
        for name, peer in PEERS.items():
            python, versions[name] = installed(peer.package, options.offline)
            results[name] = {}
            if python is not None:
                paths = [path for cases in made.values() for _, path in cases]
                said = iter(verdicts(peer, python, paths))
                results[name] = {k: [next(said) for _ in cases] for k, cases in made.items()}
    for name, version in versions.items():
        print(f"{name}: {version}", file=sys.stderr)
    table(results, {kind: len(cases) for kind, cases in made.items()})
    if options.json:
        names = {kind: [case.name for case, _ in cases] for kind, cases in made.items()}
        record = {"versions": versions, "cases": names, "verdicts": results}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
