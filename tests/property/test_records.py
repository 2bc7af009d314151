"""Law 12: reading undoes writing, and rows depend on neither workers nor kills."""

import json
import math
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.records.io import RowLog, merge_rows, read_record, read_rows, write_record
from loricate.records.schema import Aggregate, Check, RunRecord, SampleRow
from loricate.testing.records import made_up_record

_FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)
_TEXT = st.text(max_size=12)
_ON_DISK = settings(deadline=None)
_DATA = st.dictionaries(_TEXT, _FLOATS, max_size=3)
_AGGREGATES = st.builds(
    Aggregate,
    subject=_TEXT,
    surface=_TEXT,
    attack=_TEXT,
    objective=_TEXT,
    epsilon=_FLOATS,
    metric=_TEXT,
    n=st.integers(0, 10**6),
    value=_FLOATS,
    low=_FLOATS,
    high=_FLOATS,
    method=_TEXT,
)
_CHECKS = st.builds(
    Check,
    name=_TEXT,
    level=st.sampled_from(["ok", "warning", "error", "skipped"]),
    subject=_TEXT,
    message=_TEXT,
    data=_DATA,
)
_CONFIGS = st.dictionaries(
    _TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | _TEXT | st.floats(-1e9, 1e9),
        lambda child: st.lists(child, max_size=3) | st.dictionaries(_TEXT, child, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
_RECORDS = st.builds(
    lambda aggregates, checks, config: RunRecord.model_validate(
        made_up_record().model_dump()
        | {"aggregates": aggregates, "checks": checks, "config": config}
    ),
    st.lists(_AGGREGATES, max_size=3),
    st.lists(_CHECKS, max_size=3),
    _CONFIGS,
)
_ROWS = st.lists(
    st.builds(
        SampleRow,
        subject=st.sampled_from(["base", "hardened"]),
        surface=st.just("edit"),
        attack=st.sampled_from(["pgd", "random_noise"]),
        objective=st.just("edit_shift"),
        epsilon=st.sampled_from([0.0, 8 / 255]),
        seed=st.integers(0, 1),
        sample=st.integers(0, 5),
        restart=st.none() | st.integers(0, 1),
        values=_DATA,
    ),
    unique_by=lambda row: row.key,
    max_size=12,
)


def _same(one: object, two: object) -> bool:
    """Equality under which NaN equals itself, and the sign of a zero counts."""
    if isinstance(one, float) and isinstance(two, float):
        both_nan = math.isnan(one) and math.isnan(two)
        return both_nan or (one == two and math.copysign(1, one) == math.copysign(1, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return type(one) is type(two) and one == two


@_ON_DISK
@given(_RECORDS)
def test_reading_undoes_writing(record: RunRecord) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_record(Path(folder), record)
        assert _same(read_record(Path(folder)).model_dump(), record.model_dump())
        json.loads(path.read_text(), parse_constant=_no_constant)


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


@_ON_DISK
@given(_ROWS)
def test_rows_read_back(rows: list[SampleRow]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = RowLog(Path(folder) / "rows.jsonl")
        assert log.extend(rows) == len(rows)
        stored = [row.model_dump() for row in read_rows(log.path)]
        assert _same(stored, [row.model_dump() for row in rows])


@_ON_DISK
@given(_ROWS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_workers(rows: list[SampleRow], workers: int, random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shuffled = random.sample(rows, len(rows))
        files = [base / f"rows-{worker}.jsonl" for worker in range(workers)]
        for worker, file in enumerate(files):
            RowLog(file).extend(shuffled[worker::workers])
        RowLog(base / "alone.jsonl").extend(rows)
        assert merge_rows(files, base / "many.jsonl") == len(rows)
        merge_rows([base / "alone.jsonl"], base / "one.jsonl")
        assert (base / "many.jsonl").read_bytes() == (base / "one.jsonl").read_bytes()


@_ON_DISK
@given(_ROWS, st.data())
def test_a_kill_at_any_byte_loses_whole_rows_only(rows: list[SampleRow], data) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        RowLog(path).extend(rows)
        whole = path.read_bytes() if rows else b""
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        survivors = read_rows(path)
        assert [row.key for row in survivors] == [row.key for row in rows[: len(survivors)]]
        assert len(survivors) == whole[:cut].count(b"\n")
        RowLog(path).extend(rows)
        assert path.read_bytes() == whole
