"""Pickles, which run code when they are loaded."""

import logging
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, ClassVar, final

from picklescan.scanner import Global, SafetyLevel, ScanResult, scan_bytes, scan_pickle_bytes

from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["Pickle"]

_NUMPY = b"\x93NUMPY"
_UNOPENED = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89HDF": "an HDF5 file",
}
_TAR = (257, b"ustar")
_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STOP"}


@final
@dataclass(frozen=True, kw_only=True)
class Pickle(Rule):
    """Pickles that import anything but what plain tensors need.

    Reads the opcodes of every pickle in a file, in zip archives and in object arrays of numpy,
    found by content and not by name, and never loads one. Fires where ``picklescan --strict``
    does: on every import outside of its short allow-list.

    Severity: critical for imports known to run code, high for all others.

    Cannot see what allowed imports do with their arguments, pickles inside of pickles, or what
    is in archives other than zip, which is said to be not verified.

    Args:
        max_shown: Imports that are listed one by one.

    Source: picklescan 1.0; the design page compares it with its peers.
    """

    applies_to: ClassVar[frozenset[Content]] = frozenset({Content.PICKLE, Content.OTHER})

    max_shown: int = 10

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each import, and what could not be read."""
        with subject.path.open("rb") as file, _silenced() as complaints:
            if (unopened := _unopened(file)) is not None:
                # Loaders may see something else in the same bytes, so the rest is looked at too.
                yield self.not_verified(subject, f"{unopened}, which is not opened")
            if subject.content is Content.OTHER and not _may_call(file):
                return
            try:
                imports, is_broken = _imports(file)
            except Exception as error:
                # It raises whatever the bytes lead it to, which loaders may read all the same.
                yield self.finding(
                    subject,
                    Severity.HIGH,
                    f"a pickle that cannot be followed: {error!r}",
                    advice="do not load it; ask for a safetensors file",
                )
                return
        yield from self._findings(subject, imports)
        if is_broken or complaints:
            why = complaints[0] if complaints else "the pickle breaks off, and the rest is not read"
            yield self.not_verified(subject, why)

    def _findings(self, subject: Subject, imports: list[Global]) -> Iterator[Finding]:
        for each in imports[: self.max_shown]:
            is_known = each.safety is SafetyLevel.Dangerous
            yield self.finding(
                subject,
                Severity.CRITICAL if is_known else Severity.HIGH,
                f"loading this file imports {each.module}.{each.name}".encode(
                    "ascii", "backslashreplace"
                ).decode(),
                advice="do not load it; ask for a safetensors file",
                where=f"{each.module}.{each.name}",
                n_imports=len(imports),
            )


def _imports(file: IO[bytes]) -> tuple[list[Global], bool]:
    """Imports that are not allowed, those known to be harmful first, and whether it breaks off."""
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    is_numpy = file.read(len(_NUMPY)) == _NUMPY
    file.seek(0)
    # The readers of torch's files stop after five pickles, the one of plain pickles at garbage.
    result: ScanResult = scan_bytes(file, "file", ".npy" if is_numpy else ".bin", strict=False)
    is_broken = result.scan_err
    if not is_zip and not is_numpy:
        file.seek(0)
        result.merge(scan_pickle_bytes(file, "file", strict=False))
    # Strict is what is not allowed, whether or not it is known to be harmful.
    found = {
        (each.module, each.name): each
        for each in result.globals
        if each.safety is not SafetyLevel.Innocuous
    }
    ordered = sorted(found.items(), key=lambda item: (item[1].safety.value, item[0]))
    return [each for _, each in ordered], is_broken


def _unopened(file: IO[bytes]) -> str | None:
    beginning = file.read(512)
    file.seek(0)
    offset, magic = _TAR
    if beginning[offset:].startswith(magic):
        return "a tar archive"
    return next((what for magic, what in _UNOPENED.items() if beginning.startswith(magic)), None)


def _may_call(file: IO[bytes]) -> bool:
    """Whether bytes that do not say what they are import and call something, read as a pickle.

    Any text may begin with letters that are opcodes, so an import alone says nothing.
    """
    if file.read(len(_NUMPY)) == _NUMPY:
        file.seek(0)
        return True
    file.seek(0)
    has_import = False
    try:
        for opcode, _, _ in pickletools.genops(file):
            has_import |= opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL")
            if has_import and opcode.name in _CALLS:
                return True
    except Exception:
        # Not a pickle from here on: the usual end of a file of text.
        return False
    finally:
        file.seek(0)
    return False


@contextmanager
def _silenced() -> Iterator[list[str]]:
    """What picklescan could not open in an archive, in place of what it prints."""
    log = logging.getLogger("picklescan")
    complaints: list[str] = []
    heard = _Listener(complaints)
    was_propagated, log.propagate = log.propagate, False
    log.addHandler(heard)
    try:
        yield complaints
    finally:
        log.removeHandler(heard)
        log.propagate = was_propagated


class _Listener(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__()
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Invalid file"):
            self._complaints.append(record.getMessage())
