"""Give every reader of untrusted files mutated inputs until there were as many as asked for.

    python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--out build/fuzz] [--readers NAME ...]

Allowed is to read an input or to refuse it with a ``LoricateError``, within a second of processor
time and 512 MiB.
Anything else is written to OUT/crashes, and the exit code is 1. Inputs that end in a new place of
the code are kept in OUT/seeds and mutated further. OUT/state.json counts all inputs; a later call
goes on where it ended, so that no input comes twice. Readers take turns of equal time.
"""

import argparse
import hashlib
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from loricate.basics.seeds import derive_seed
from loricate.testing.fuzzing import READERS, Reader, attempt, mutated, prepared

MAX_SECONDS = 1.0
MAX_BYTES = 512 << 20
_TURN_SECONDS = 0.25
_MAX_POOL = 400


class Hang(BaseException):
    """A reader took too long; no ``Exception``, so that no reader can swallow it."""


@dataclass
class Target:
    """A reader, the folder it reads and what it is given.

    Args:
        reader: Who reads.
        folder: Its folder.
        pool: Inputs that are mutated.
        places: Where in the code inputs have ended so far.
        outcomes: How often it read, refused and failed.
        slowest: Longest processor time of an input, in seconds.
    """

    reader: Reader
    folder: Path
    pool: list[bytes]
    places: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    # Processor time, as other processes may hold this one up; wall time for what only waits.
    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def place_of(error: BaseException) -> str:
    """Where in the code an input ended."""
    places: deque[str] = deque(maxlen=3)
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.appendleft(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(places)


def tried(target: Target, content: bytes) -> tuple[str, str]:
    """Outcome of an input, and where it ended."""
    try:
        with limited(MAX_SECONDS):
            refusal = attempt(target.reader, target.folder, content)
    except Hang as error:
        return "hang", place_of(error)
    except Exception as error:
        return f"crash {type(error).__name__}", place_of(error)
    if refusal is None:
        return "read", ""
    return type(refusal).__name__, place_of(refusal)


def one(target: Target, rng: random.Random) -> tuple[bytes, str] | None:
    """Give a reader one input; what it must not do comes back."""
    # Half of the time a sound input, as those that were kept are mostly refused early.
    origin = target.pool[0] if rng.random() < 0.5 else rng.choice(target.pool)
    content = mutated(origin, target.reader.kind, rng)
    start = time.process_time()
    outcome, place = tried(target, content)
    target.slowest = max(target.slowest, time.process_time() - start)
    target.outcomes[outcome] += 1
    is_bad = outcome == "hang" or outcome.startswith("crash")
    if peak_bytes() > MAX_BYTES:
        is_bad, outcome = True, "memory"
    if f"{outcome} {place}" in target.places:
        return None
    target.places.add(f"{outcome} {place}")
    if len(target.pool) < _MAX_POOL and len(content) < 20_000 and not is_bad:
        target.pool.append(content)
    return (content, f"{outcome} at {place}") if is_bad else None


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def opened(reader: Reader, folder: Path, out: Path, outcomes: Mapping[str, int]) -> Target:
    folder.mkdir()
    sound = prepared(reader, folder)
    assert attempt(reader, folder, sound) is None, f"{reader.name} refuses its own seed"
    kept = sorted((out / "seeds" / reader.name).glob("*"))
    pool = [sound, *(path.read_bytes() for path in kept)]
    return Target(reader, folder, pool, outcomes=Counter(outcomes))


def keep(folder: Path, content: bytes, note: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(content).hexdigest()[:16]
    path.write_bytes(content)
    if note:
        path.with_suffix(".txt").write_text(f"{note}\n")
    return path


def say(state: dict[str, Any], start: float, n_here: int) -> None:
    speed = n_here / (time.perf_counter() - start)
    load = f"{speed:.0f} inputs/s, peak {peak_bytes() >> 20} MiB"
    bad = f"{state['crashes']} crashes, {state['hangs']} hangs"
    print(f"{time.strftime('%H:%M:%S')} {state['inputs']} inputs, {bad}, {load}", flush=True)


def fuzz(targets: list[Target], options: argparse.Namespace, state: dict[str, Any]) -> int:
    """Number of bad inputs among those of this call."""
    start, shown, n_bad = time.perf_counter(), 0.0, 0
    turns = cycle(targets)
    target, until = next(turns), start + _TURN_SECONDS
    for number in range(options.inputs):
        if time.perf_counter() > until:
            target, until = next(turns), time.perf_counter() + _TURN_SECONDS
        rng = random.Random(derive_seed(options.seed, state["inputs"]))
        bad = one(target, rng)
        state["inputs"] += 1
        if bad is not None:
            n_bad += 1
            content, note = bad
            state["hangs" if note.startswith("hang") else "crashes"] += 1
            path = keep(options.out / "crashes" / target.reader.name, content, note)
            print(f"BAD {target.reader.name}: {note} ({path})", flush=True)
        if time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            say(state, start, number + 1)
            save(options.out, state, targets)
    say(state, start, options.inputs)
    save(options.out, state, targets)
    return n_bad


def save(out: Path, state: dict[str, Any], targets: list[Target]) -> None:
    for target in targets:
        state["readers"][target.reader.name] = dict(target.outcomes)
        for content in target.pool[1:]:
            keep(out / "seeds" / target.reader.name, content)
    (out / "state.json").write_text(json.dumps(state, indent=2) + "\n")


def table(targets: list[Target]) -> None:
    """All inputs so far; places and times are those of this call."""
    print(f"{'reader':<14}{'inputs':>9}{'read':>9}{'refused':>9}{'places':>8}{'slowest ms':>12}")
    for target in targets:
        total, read = target.outcomes.total(), target.outcomes["read"]
        bad = sum(n for name, n in target.outcomes.items() if name.startswith(("crash", "hang")))
        counts = f"{total:>9}{read:>9}{total - read - bad:>9}{len(target.places):>8}"
        print(f"{target.reader.name:<14}{counts}{target.slowest * 1e3:>12.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--readers", nargs="+", choices=[reader.name for reader in READERS])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Numbers at the ends of their range are the point of many inputs.
    warnings.simplefilter("ignore", RuntimeWarning)
    kept = options.out / "state.json"
    state: dict[str, Any] = {"inputs": 0, "crashes": 0, "hangs": 0, "readers": {}}
    state |= json.loads(kept.read_text()) if kept.exists() else {}
    chosen = [each for each in READERS if each.name in (options.readers or {each.name})]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        targets = [
            opened(each, Path(folder) / each.name, options.out, state["readers"].get(each.name, {}))
            for each in chosen
        ]
        n_bad = fuzz(targets, options, state)
        table(targets)
    print(f"{options.inputs} inputs in this call, {state['inputs']} in all, {n_bad} of them bad")
    sys.exit(1 if n_bad else 0)


if __name__ == "__main__":
    main()
