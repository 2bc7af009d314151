"""What loading a file as a pickle would import, wherever in the file the pickle is."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, final

from loricate.integrity._opcodes import Import, Stream, read_stream
from loricate.integrity._parts import Bounds, Obstacle, Part, parts_of
from loricate.integrity._suffixes import PICKLES

__all__ = ["Pickled", "read_pickles"]

_COST_OF_A_STREAM = 10
_MAX_HEADER = 1 << 20
_MAX_IMPORTS = 20_000
_NUMPY = b"\x93NUMPY"
_UNKNOWN = "named as what is loaded as a pickle, but nothing in it is of a kind that is known"
# Beside the standard library, what is there wherever models are loaded.
_INSTALLED = {"numpy", "pip", "setuptools", "torch", "__builtin__", "commands", "copy_reg"}


@final
@dataclass(frozen=True, kw_only=True)
class Pickled:
    """What there is of pickles in a file.

    Args:
        imports: What loading one of them imports, and the name of the file inside where it does.
        obstacles: What was not looked at.
        n_spent: Opcodes that were followed, and what each pickle costs beside them.
    """

    imports: dict[Import, str]
    obstacles: tuple[Obstacle, ...]
    n_spent: int


def read_pickles(path: Path) -> Pickled:
    """Follow every pickle in a file and in archives inside of it; none is loaded.

    Bytes that do not say that they are a pickle may be text, in which letters that are opcodes
    mean nothing. They count as one where they call something, or where they are named as one.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """
    imports: dict[Import, str] = {}
    obstacles = []
    bounds = Bounds()
    granted = bounds.n_opcodes
    with path.open("rb") as file:
        for each in _found(Part("", file), path.name, bounds):
            if isinstance(each, Obstacle):
                obstacles.append(each)
            else:
                imports.setdefault(*each)
            if len(imports) >= _MAX_IMPORTS:
                obstacles.append(Obstacle("", "more imports than can be listed"))
                break
    spent = granted - bounds.n_opcodes
    return Pickled(imports=imports, obstacles=tuple(obstacles), n_spent=spent)


def _found(file: Part, name: str, bounds: Bounds) -> Iterator[tuple[Import, str] | Obstacle]:
    """Imports with the name of the part they are in; what goes wrong hides none found before."""
    is_known = not _is_named(name)
    try:
        for part in parts_of(file, bounds):
            is_known |= isinstance(part, Obstacle) or bool(part.name)
            if isinstance(part, Obstacle):
                yield part
                continue
            for each in _of_part(part, _is_named(part.name or name), bounds):
                is_known = True
                if each is not None:
                    yield each if isinstance(each, Obstacle) else (each, part.name)
        if not is_known:
            yield Obstacle(file.name, _UNKNOWN, is_chance=True)
    except Exception as error:
        # Whatever the bytes of an archive lead its readers to.
        yield Obstacle(file.name, f"reading it broke off: {error!r}")


def _is_named(name: str) -> bool:
    return any(each.lower() in PICKLES for each in PurePosixPath(name).suffixes)


def _of_part(part: Part, is_named: bool, bounds: Bounds) -> Iterator[Import | Obstacle | None]:
    """What is in one part; ``None`` for what is harmless of a known kind."""
    part.file.seek(0)
    is_array, has_objects = _numpy_header(part.file)
    if is_array:
        yield None
    is_named = has_objects or (is_named and not is_array)
    start = part.file.tell()
    while bounds.n_opcodes > 0:
        here = part.file.tell()
        stream = read_stream(part.file, max_opcodes=bounds.n_opcodes)
        bounds.n_opcodes -= stream.n_opcodes + _COST_OF_A_STREAM
        yield from _meant(stream, is_named)
        if stream.is_complete:
            yield None
            continue
        # Behind a first pickle there may be anything, such as the numbers of torch's old files.
        is_first = here == start and (is_named or not part.name) and (has_objects or not is_array)
        if stream.is_too_long or (is_first and stream.is_marked):
            why = f"the pickle at byte {here} {_why(stream, part)}"
            yield Obstacle(part.name, why, is_chance=not stream.is_too_long)
        return
    yield Obstacle(part.name, "more pickles than can be followed")


def _why(stream: Stream, part: Part) -> str:
    if stream.is_too_long:
        return "is too long to be followed to its end"
    return "is not decompressed to its end" if part.is_cut else "breaks off"


def _numpy_header(file: IO[bytes]) -> tuple[bool, bool]:
    """Go behind the header of an array: whether there is one, and whether a pickle follows."""
    if file.read(len(_NUMPY)) != _NUMPY:
        file.seek(0)
        return False, False
    width = 2 if file.read(2)[:1] == b"\x01" else 4
    length = int.from_bytes(file.read(width), "little")
    start = file.tell()
    # Readers that take objects take a header of any length; one that long may name them behind.
    has_objects = length > _MAX_HEADER or b"O" in file.read(length)
    file.seek(start + length)
    return True, has_objects


def _meant(stream: Stream, is_named: bool) -> Iterator[Import]:
    """Imports of a stream, without those that text has by chance."""
    for index, each in enumerate(stream.imports):
        is_likely = is_named or index < stream.n_called
        if _is_known(each):
            is_likely |= stream.is_complete or index < stream.n_made
        is_likely |= stream.is_complete and index < stream.n_made
        if stream.is_binary or (is_likely and _is_importable(each)):
            yield each


def _is_known(each: Import) -> bool:
    package = each.module.partition(".")[0]
    return package in sys.stdlib_module_names or package in _INSTALLED


def _is_importable(each: Import) -> bool:
    return all(part.isidentifier() for part in (*each.module.split("."), *each.name.split(".")))
