"""Records, rows and blobs on disk.

A run folder holds ``record.json``, the per-sample rows and a folder of blobs. The record is
replaced atomically, rows are appended one line at a time, and every blob is checked against its
digest when it is read, so a run killed at any moment leaves files that can be read.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    HostileFileError,
    IntegrityError,
    PrerequisiteError,
)
from loricate.basics.files import write_atomically
from loricate.records.migrate import migrate
from loricate.records.schema import Blob, RowKey, RunRecord, SampleRow

__all__ = [
    "RECORD_FILE",
    "ROWS_FILE",
    "RowLog",
    "json_schema",
    "merge_rows",
    "read_blob",
    "read_record",
    "read_rows",
    "write_blob",
    "write_record",
]

RECORD_FILE: Final = "record.json"
ROWS_FILE: Final = "rows.jsonl"
_BLOB_FOLDER: Final = "blobs"
_MAX_RECORD_BYTES: Final = 128 * 2**20
_SUFFIXES: Final = {
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "application/json": ".json",
    "text/plain": ".txt",
}


def write_record(directory: Path, record: RunRecord) -> Path:
    """Write ``record.json`` into a run folder, and return its path."""
    path = directory / RECORD_FILE
    write_atomically(path, record.model_dump_json(indent=2).encode() + b"\n")
    return path


def read_record(directory: Path) -> RunRecord:
    """The record of a run folder, migrated to the newest schema.

    Args:
        directory: The run folder.

    Returns:
        The validated record.

    Raises:
        PrerequisiteError: the folder holds no record, or it cannot be read.
        HostileFileError: the file is too large to be one.
        ConfigError: it does not follow the schema; every problem is listed.
        UnsupportedError: it was written by a newer version.
    """
    path = directory / RECORD_FILE
    document = migrate(_parse_object(path))
    try:
        return RunRecord.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_problems(error), file=path) from error


def write_blob(
    directory: Path,
    name: str,
    content: bytes,
    *,
    media_type: str = "image/png",
    role: str | None = None,
    caption: str = "",
    data: dict[str, float] | None = None,
) -> Blob:
    """Store bytes beside the record.

    Args:
        directory: The run folder.
        name: Unique name such as ``row/0/clean``; it becomes the path below ``blobs``.
        content: The bytes.
        media_type: Decides the suffix.
        role: Where the report shows it; the name, if left out.
        caption: Text under the picture.
        data: Numbers that belong to it.

    Returns:
        The entry of the record that points to the file.
    """
    suffix = _SUFFIXES.get(media_type, ".bin")
    blob = Blob(
        name=name,
        path=f"{_BLOB_FOLDER}/{name}{suffix}",
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=media_type,
        role=name if role is None else role,
        caption=caption,
        data=data or {},
    )
    write_atomically(directory / blob.path, content)
    return blob


def read_blob(directory: Path, blob: Blob) -> bytes:
    """The bytes of a blob, checked against its digest.

    Args:
        directory: The run folder.
        blob: Entry of the record.

    Returns:
        Content of the file.

    Raises:
        IntegrityError: the file is gone, lies outside the run folder or has other bytes.
    """
    path = directory / blob.path
    # A link could lead out of the folder although the path in the record does not.
    inside = path.resolve().is_relative_to(directory.resolve())
    if not inside or not path.is_file():
        raise IntegrityError(f"blob {blob.path!r} of {str(directory)!r}", entries=[blob.name])
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != blob.sha256:
        raise IntegrityError(f"digest of {blob.path!r}", entries=[blob.name])
    return content


class RowLog:
    """Per-sample rows that survive a kill and are never written twice.

    Opening a log repairs a last line that was cut off, and learns which rows are there.

    Args:
        path: The ``.jsonl`` file; made with its folder when the first row comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = {row.key: row for row in read_rows(path)}
        _drop_partial_line(path)

    def __contains__(self, key: RowKey) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SampleRow]:
        return iter(self._rows.values())

    def append(self, row: SampleRow) -> bool:
        """Write a row unless its key is present, and say whether it was written."""
        return self.extend([row]) == 1

    def extend(self, rows: Iterable[SampleRow]) -> int:
        """Write the rows whose keys are new, and return how many there were."""
        fresh: dict[RowKey, SampleRow] = {}
        for row in rows:
            if row.key not in self._rows:
                fresh.setdefault(row.key, row)
        if fresh:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(b"".join(map(_line, fresh.values())))
            self._rows |= fresh
        return len(fresh)


def read_rows(path: Path) -> tuple[SampleRow, ...]:
    """The rows of a file, in the order they were written.

    A last line without its newline was cut off by a kill, and is left out.

    Args:
        path: A ``.jsonl`` file.

    Returns:
        The rows; none if there is no file.

    Raises:
        ConfigError: another line does not follow the schema.
    """
    if not path.is_file():
        return ()
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    return tuple(_parse_row(path, number, line) for number, line in enumerate(lines, start=1))


def merge_rows(paths: Iterable[Path], into: Path) -> int:
    """Join the row files of several workers into one, sorted by key.

    The result does not depend on how many workers there were or which finished first.

    Args:
        paths: The files of the workers.
        into: Where the joined file goes.

    Returns:
        Number of rows written.

    Raises:
        IntegrityError: two files hold different values under one key.
    """
    merged: dict[RowKey, SampleRow] = {}
    for row in (row for path in paths for row in read_rows(path)):
        first = merged.setdefault(row.key, row)
        if _line(first) != _line(row):
            raise IntegrityError("rows under one key", entries=[repr(row.key)])
    ordered = sorted(merged.values(), key=lambda row: row.key)
    write_atomically(into, b"".join(map(_line, ordered)))
    return len(ordered)


def json_schema(model: type[BaseModel] = RunRecord) -> dict[str, Any]:
    """JSON Schema of a record, or of another model of the schema, as it is written."""
    return model.model_json_schema(mode="serialization")


def _parse_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_content(path))
    # RecursionError: nesting thousands deep is valid JSON but no record.
    except (ValueError, RecursionError) as error:
        problem = ConfigProblem(key="", expected="JSON", got=str(error))
        raise ConfigError(problem, file=path) from error
    if not isinstance(document, dict):
        problem = ConfigProblem(key="", expected="an object", got=type(document).__name__)
        raise ConfigError(problem, file=path)
    return document


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise PrerequisiteError(
                f"a record at {str(path)!r}", remedy="give the folder that a run wrote with --out"
            )
        if (size := path.stat().st_size) > _MAX_RECORD_BYTES:
            raise HostileFileError(path, reason=f"{size} bytes exceed {_MAX_RECORD_BYTES}")
        return path.read_bytes()
    except OSError as error:
        missing = f"a record that can be read at {str(path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="make it readable, or give another run") from error


def _parse_row(path: Path, number: int, line: bytes) -> SampleRow:
    try:
        return SampleRow.model_validate_json(line)
    except ValidationError as error:
        problems = [problem.under(f"line {number}") for problem in _problems(error)]
        raise ConfigError(problems, file=path) from error


def _problems(error: ValidationError) -> list[ConfigProblem]:
    return [
        ConfigProblem(
            key=".".join(map(str, detail["loc"])), expected=detail["msg"], got=detail["input"]
        )
        for detail in error.errors(include_url=False)
    ]


def _line(row: SampleRow) -> bytes:
    return row.model_dump_json().encode() + b"\n"


def _drop_partial_line(path: Path) -> None:
    """Cut what follows the last newline, so that the next row starts on its own line."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
