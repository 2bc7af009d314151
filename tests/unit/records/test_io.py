import json
from pathlib import Path

import pytest

from loricate.basics.errors import (
    ConfigError,
    HostileFileError,
    IntegrityError,
    PrerequisiteError,
    UnsupportedError,
)
from loricate.records import io
from loricate.records.io import (
    RowLog,
    json_schema,
    merge_rows,
    read_blob,
    read_record,
    read_rows,
    write_blob,
    write_record,
)
from loricate.records.migrate import migrate
from loricate.records.schema import RunRecord, SampleRow
from loricate.testing.records import made_up_record, write_made_up_run

_ROOT = Path(__file__).parents[3]
_FIXTURE = _ROOT / "tests" / "fixtures" / "records" / "v1"


def _row(sample: int, subject: str = "base", **values: float) -> SampleRow:
    return SampleRow(
        subject=subject,
        surface="edit",
        attack="pgd",
        objective="edit_shift",
        epsilon=8 / 255,
        seed=0,
        sample=sample,
        values=values,
    )


def test_the_fixture_of_version_1_still_reads() -> None:
    record = read_record(_FIXTURE)
    assert record.verdict.status == "pass"
    assert len(record.aggregates) == 120
    assert record.training is not None
    assert record.training.ranks[0].module == "encoder.down_blocks.0.resnets.0.conv1"
    assert all(read_blob(_FIXTURE, blob) for blob in record.blobs)
    assert len(read_rows(_FIXTURE / "rows.jsonl")) == 8


def test_a_folder_without_record_is_a_missing_prerequisite(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="--out"):
        read_record(tmp_path)


def test_every_problem_of_a_record_is_listed(tmp_path: Path) -> None:
    document = made_up_record().model_dump(mode="json")
    document["verdict"]["status"] = "perhaps"
    document["aggregates"][3]["n"] = -1
    (tmp_path / "record.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        read_record(tmp_path)
    assert [p.key for p in caught.value.problems] == ["verdict.status", "aggregates.3.n"]
    assert caught.value.problems[1].got == -1


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_what_is_no_record_is_a_config_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ConfigError):
        read_record(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, made_up_record())
    monkeypatch.setattr(io, "_MAX_RECORD_BYTES", 100)
    with pytest.raises(HostileFileError, match="exceed 100"):
        read_record(tmp_path)


def test_a_changed_blob_is_refused(tmp_path: Path) -> None:
    blob = write_blob(tmp_path, "row/0/clean", b"pixels")
    assert blob.path == "blobs/row/0/clean.png"
    assert read_blob(tmp_path, blob) == b"pixels"
    (tmp_path / blob.path).write_bytes(b"pixelz")
    with pytest.raises(IntegrityError) as caught:
        read_blob(tmp_path, blob)
    assert caught.value.entries == ("row/0/clean",)


def test_a_missing_blob_is_refused(tmp_path: Path) -> None:
    blob = write_blob(tmp_path, "x", b"")
    (tmp_path / blob.path).unlink()
    with pytest.raises(IntegrityError):
        read_blob(tmp_path, blob)


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    blob = write_blob(run, "x", b"secret")
    outside = tmp_path / "outside"
    (run / blob.path).rename(outside)
    (run / blob.path).symlink_to(outside)
    with pytest.raises(IntegrityError):
        read_blob(run, blob)


def test_a_row_is_written_once(tmp_path: Path) -> None:
    log = RowLog(tmp_path / "run" / "rows.jsonl")
    assert log.append(_row(0, drift=1.0))
    assert not log.append(_row(0, drift=2.0))
    assert log.extend([_row(0), _row(1, drift=3.0), _row(1, drift=4.0)]) == 1
    assert [row.values["drift"] for row in read_rows(log.path)] == [1.0, 3.0]
    assert _row(1).key in log
    assert _row(2).key not in log


def test_a_resumed_log_knows_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    RowLog(path).append(_row(0, drift=1.0))
    resumed = RowLog(path)
    assert len(resumed) == 1
    assert not resumed.append(_row(0, drift=9.0))
    assert [row.values["drift"] for row in resumed] == [1.0]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = _row(0).model_dump_json()
    path.write_text(f'{good}\n{{"subject": 1}}\n{good}\n')
    with pytest.raises(ConfigError) as caught:
        read_rows(path)
    assert caught.value.problems[0].key.startswith("line 2.")


def test_workers_that_disagree_are_an_error(tmp_path: Path) -> None:
    first, second = tmp_path / "rows-0.jsonl", tmp_path / "rows-1.jsonl"
    RowLog(first).append(_row(0, drift=1.0))
    RowLog(second).append(_row(0, drift=2.0))
    with pytest.raises(IntegrityError, match="rows under one key"):
        merge_rows([first, second], tmp_path / "rows.jsonl")


def test_migration_takes_one_step_at_a_time() -> None:
    steps = {
        0: lambda d: {**d, "trail": [*d["trail"], 0]},
        1: lambda d: {**d, "trail": [*d["trail"], 1]},
    }
    old = {"schema_version": 0, "trail": []}
    assert migrate(old, steps=steps, target=2) == {"schema_version": 2, "trail": [0, 1]}
    assert old == {"schema_version": 0, "trail": []}


def test_a_newer_record_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedError) as caught:
        migrate({"schema_version": 2})
    assert caught.value.hint == "upgrade loricate"


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_no_step_leads_from_is_unsupported(version: int) -> None:
    with pytest.raises(UnsupportedError, match=f"record schema {version}"):
        migrate({"schema_version": version})


@pytest.mark.parametrize("document", [{}, {"schema_version": "1"}, {"schema_version": True}])
def test_a_record_needs_a_version_number(document: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        migrate(document)
    assert caught.value.problems[0].key == "schema_version"


def test_the_published_schema_is_the_one_in_the_code() -> None:
    published = _ROOT / "docs" / "formats" / "record.schema.json"
    assert json.loads(published.read_text()) == json_schema()


def test_the_format_page_names_every_field() -> None:
    page = (_ROOT / "docs" / "formats" / "record.md").read_text()
    missing = [name for name in RunRecord.model_fields if f"`{name}`" not in page]
    missing += [name for name in SampleRow.model_fields if f"`{name}`" not in page]
    assert missing == []


def test_the_made_up_run_reads_back(tmp_path: Path) -> None:
    record = write_made_up_run(tmp_path)
    assert read_record(tmp_path) == record
