"""Files inside of files, opened by what they hold and within bounds."""

import bz2
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, NamedTuple, Protocol, TypeAlias, final

__all__ = ["Bounds", "Obstacle", "Part", "parts_of"]

_CHUNK = 1 << 16
_BLOCK = 512
_LOCAL = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"
_END = struct.Struct("<12sLLH")
_END_MAGIC = b"PK\x05\x06"
_WIDE = struct.Struct("<4s36xQQ")
_WIDE_MAGIC = b"PK\x06\x06"
_LOCATOR = struct.Struct("<4s4xQ4x")
_LOCATOR_MAGIC = b"PK\x06\x07"
_ENTRY = struct.Struct("<4s4xHH8xLLHHH8xL")
_ENTRY_MAGIC = b"PK\x01\x02"
_EXTRA, _LONG = struct.Struct("<HH"), struct.Struct("<Q")
_WIDE_EXTRA = 1
_IS_WIDE = 0xFFFFFFFF
_UTF_8 = 0x800
# Behind the directory there is at most a comment, an end, and what a wide end takes.
_TAIL = (1 << 16) + _END.size + _LOCATOR.size + _WIDE.size
_MAX_ENTRIES = 300_000
_ENCRYPTED = 1
_MAX_MEMORY = 1 << 27
_LZMA = struct.Struct("<BLQ")
_NO_LENGTH, _MAX_LENGTH = (1 << 64) - 1, 1 << 40
_MAX_STREAMS = 1000
_UNOPENED = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x04\x22\x4d\x18": "an lz4 file",
    b"\x89HDF": "an HDF5 file",
}
_LONGEST = max(map(len, _UNOPENED))


class Part(NamedTuple):
    """A file, or one inside of it.

    Args:
        name: Its name in the archives it is in; empty for the file itself.
        file: Its bytes, from the beginning, and seekable.
        is_cut: Whether there is more of it than its bytes.
    """

    name: str
    file: IO[bytes]
    is_cut: bool = False


class Obstacle(NamedTuple):
    """Something that was not looked at.

    Args:
        name: Its name in the archives it is in; empty for the file itself.
        why: Reason, in words.
        is_chance: Whether bytes that mean something else look so by chance, and often.
    """

    name: str
    why: str
    is_chance: bool = False


@final
@dataclass(kw_only=True)
class Bounds:
    """What may still be spent on one file, so that a small one cannot cost much.

    Args:
        n_members: Files inside of it that are opened.
        n_bytes: Bytes that are decompressed in all.
        n_bytes_each: Bytes that are decompressed of one of them.
        n_opcodes: Opcodes of pickles that are followed.
        depth: How deep they may be nested.
    """

    n_members: int = 100_000
    n_bytes: int = 1 << 29
    n_bytes_each: int = 1 << 26
    n_opcodes: int = 1_000_000
    depth: int = 4

    def spare_member(self) -> bool:
        """Whether one more file may be opened; it is taken off."""
        self.n_members -= 1
        return self.n_members >= 0


class _Directory(NamedTuple):
    start: int
    length: int


_Members: TypeAlias = Callable[[Part, Bounds], Iterator[Part | Obstacle]]


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_Kind: TypeAlias = Callable[[], _Decompressor]


class _Zlib:
    """The decompressor of zlib with the methods of the others."""

    def __init__(self, wbits: int) -> None:
        self._machine = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._machine.eof

    @property
    def needs_input(self) -> bool:
        return not self._machine.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._machine.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._machine.decompress(self._machine.unconsumed_tail + data, max_length)


def _lzma() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=_MAX_MEMORY)


def _inflater() -> _Decompressor:
    return _Zlib(15)


_COMPRESSED: dict[bytes, tuple[str, _Kind]] = {
    b"\x1f\x8b": ("a gzip file", lambda: _Zlib(31)),
    **{b"BZh%d" % level: ("a bzip2 file", bz2.BZ2Decompressor) for level in range(1, 10)},
    b"\xfd7zXZ\x00": ("an xz file", _lzma),
    b"]\x00": ("an lzma file", _lzma),
    **{bytes((0x78, level)): ("a zlib file", _inflater) for level in b"\x01\x5e\x9c\xda"},
}
_ZFILE = b"ZF0x"
_ZFILE_HEADER = 21
# Of these a few letters of text are the beginning too, so they have to decompress.
_DOUBTFUL = ("a zlib file", "an lzma file", "an old file of joblib")
_METHODS: dict[int, _Kind] = {
    zipfile.ZIP_DEFLATED: lambda: _Zlib(-15),
    zipfile.ZIP_BZIP2: bz2.BZ2Decompressor,
}


class _Window(io.RawIOBase):
    """A stretch of a file as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def parts_of(part: Part, bounds: Bounds, depth: int = 0) -> Iterator[Part | Obstacle]:
    """A file and every file inside of it: zip and tar archives, and what is compressed.

    A file may be several of these at once, and then it is read as each. Every part is valid until
    the next one is asked for.

    Args:
        part: The file.
        bounds: What may be spent; what was is taken off.
        depth: How deep it is nested.
    """
    yield part
    part.file.seek(0)
    beginning = part.file.read(_BLOCK)
    inside: list[_Members] = [_tar] if _is_tar(beginning) else []
    inside += [_zip] if _is_zip(part.file, beginning) else []
    if (compressed := _compressed(beginning)) is not None:
        inside.append(compressed)
    if inside and depth >= bounds.depth:
        yield Obstacle(part.name, f"archives nested more than {bounds.depth} deep")
        return
    for members in inside:
        for each in members(part, bounds):
            if isinstance(each, Part):
                yield from parts_of(each, bounds, depth + 1)
            else:
                yield each
    known = (what for magic, what in _UNOPENED.items() if beginning.startswith(magic))
    if (what := next(known, None)) is not None:
        yield Obstacle(part.name, f"{what}, which is not opened")


def _is_tar(beginning: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(beginning, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _is_zip(file: IO[bytes], beginning: bytes) -> bool:
    return zipfile.is_zipfile(file) or beginning.startswith(_LOCAL_MAGIC)


def _tar(part: Part, bounds: Bounds) -> Iterator[Part | Obstacle]:
    part.file.seek(0)
    try:
        with tarfile.open(fileobj=part.file, mode="r:") as archive:
            for member in archive:
                if member.isreg():
                    name = _inside(part, member.name)
                    yield _stretch(part, name, member.offset_data, member.size)
                if not bounds.spare_member():
                    yield Obstacle(part.name, "a tar archive of too many files")
                    return
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        yield Obstacle(part.name, f"a tar archive that cannot be read: {error}")


def _zip(part: Part, bounds: Bounds) -> Iterator[Part | Obstacle]:
    listed = _listed(part.file)
    if listed is None:
        yield Obstacle(part.name, "a zip archive that lists more than is read")
        return
    if not listed:
        yield Obstacle(part.name, "a zip archive whose directory is empty or cannot be read")
    for info in listed:
        if not bounds.spare_member():
            yield Obstacle(part.name, "a zip archive of too many files")
            return
        yield from _member(part, info, bounds)


def _listed(file: IO[bytes]) -> list[zipfile.ZipInfo] | None:
    """What any reader may find in a zip archive, or ``None`` if that is too much.

    Readers take another of several ends, and look for the directory where the end says or in front
    of it; each of them is read here.
    """
    directories = sorted(_directories(file))
    every = chain(_infos(file), *(_entries(file, place) for place in directories))
    found: dict[tuple[object, ...], zipfile.ZipInfo] = {}
    for number, each in enumerate(every):
        if number >= _MAX_ENTRIES:
            return None
        found[_meaning(each)] = each
    return list(found.values())


def _meaning(info: zipfile.ZipInfo) -> tuple[object, ...]:
    sizes = info.compress_size, info.file_size
    return info.filename, info.header_offset, *sizes, info.compress_type, info.flag_bits


def _directories(file: IO[bytes]) -> set[_Directory]:
    """Where a directory may be: stated by an end or a wide one, or right in front of it."""
    size = file.seek(0, io.SEEK_END)
    begin = max(0, size - _TAIL)
    file.seek(begin)
    tail = file.read()
    found = set()
    for at in _ends(tail):
        _, length, offset, _ = _END.unpack_from(tail, at)
        found |= {_Directory(offset, length), _Directory(begin + at - length, length)}
    for at in _wide_ends(tail, begin):
        file.seek(at)
        record = file.read(_WIDE.size)
        if record.startswith(_WIDE_MAGIC) and len(record) == _WIDE.size:
            _, length, offset = _WIDE.unpack(record)
            found |= {_Directory(offset, length), _Directory(at - length, length)}
    return {each for each in found if 0 <= each.start < size and each.length}


def _ends(tail: bytes) -> set[int]:
    """Where an archive ends: at the last mark of an end, or the last whose comment fits."""
    whole = [at for at in _marks(tail, _END_MAGIC) if at + _END.size <= len(tail)]
    lengths = {at: _END.unpack_from(tail, at)[-1] for at in whole}
    fitting = [at for at in whole if at + _END.size + lengths[at] == len(tail)]
    return {*whole[-1:], *fitting[-1:]}


def _wide_ends(tail: bytes, begin: int) -> set[int]:
    """Where there may be ends for sizes of 64 bits: by their mark, and by what says where."""
    stated = {
        _LOCATOR.unpack_from(tail, at)[1]
        for at in _marks(tail, _LOCATOR_MAGIC)
        if at + _LOCATOR.size <= len(tail)
    }
    beyond = {at for at in stated if at < begin}
    return beyond | {begin + at for at in _marks(tail, _WIDE_MAGIC)}


def _marks(tail: bytes, magic: bytes) -> list[int]:
    return [each.start() for each in re.finditer(re.escape(magic), tail)]


def _infos(file: IO[bytes]) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except Exception:
        # It raises whatever the bytes lead it to.
        return []


def _entries(file: IO[bytes], place: _Directory) -> Iterator[zipfile.ZipInfo]:
    """Files of one directory, up to what is none, whatever version or sums they state."""
    at = place.start
    while at < place.start + place.length:
        file.seek(at)
        fixed = file.read(_ENTRY.size)
        if len(fixed) < _ENTRY.size or not fixed.startswith(_ENTRY_MAGIC):
            return
        _, flags, method, packed, size, *lengths, offset = _ENTRY.unpack(fixed)
        name = file.read(lengths[0]).decode("utf-8" if flags & _UTF_8 else "cp437", "replace")
        info = zipfile.ZipInfo(name)
        wide = _wide_values(file.read(lengths[1]))
        info.file_size, info.compress_size, info.header_offset = (
            next(wide, _IS_WIDE) if value == _IS_WIDE else value for value in (size, packed, offset)
        )
        info.flag_bits, info.compress_type = flags, method
        yield info
        at += _ENTRY.size + sum(lengths)


def _wide_values(extra: bytes) -> Iterator[int]:
    """Numbers of 64 bits in the first extra field that has such."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == _WIDE_EXTRA:
            content = extra[at : at + length]
            yield from (each for (each,) in _LONG.iter_unpack(content[: len(content) // 8 * 8]))
            return
        at += length


def _member(part: Part, info: zipfile.ZipInfo, bounds: Bounds) -> Iterator[Part | Obstacle]:
    # As torch does: what the local header says of names, sizes and sums is passed over.
    name = _inside(part, info.filename)
    if not 0 <= info.header_offset < part.file.seek(0, io.SEEK_END):
        yield Obstacle(name, "a file that is not where the zip archive says")
        return
    part.file.seek(info.header_offset)
    local = part.file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or not local.startswith(_LOCAL_MAGIC):
        yield Obstacle(name, "a file that is not where the zip archive says")
        return
    _, *lengths = _LOCAL.unpack(local)
    start = info.header_offset + _LOCAL.size + sum(lengths)
    if info.flag_bits & _ENCRYPTED:
        yield Obstacle(name, "an encrypted file")
    if info.compress_type == zipfile.ZIP_STORED:
        yield _stretch(part, name, start, max(info.compress_size, info.file_size))
    elif (kind := _METHODS.get(info.compress_type)) is None:
        yield Obstacle(name, f"a file compressed by method {info.compress_type} of zip")
    else:
        yield from _decompressed(_stretch(part, name, start, info.compress_size), kind, bounds)


def _compressed(beginning: bytes) -> _Members | None:
    known = (how for magic, how in _COMPRESSED.items() if beginning.startswith(magic))
    what, kind = next(known, (None, _inflater))
    start = 0
    if beginning.startswith(_ZFILE):
        what = "an old file of joblib"
        # One of Python 2 has a blank more in front of what is compressed.
        start = _ZFILE_HEADER + beginning[_ZFILE_HEADER:].startswith(b" ")
    if what is None:
        return None
    is_wide = kind is _lzma and _is_wide_lzma(beginning)

    def members(part: Part, bounds: Bounds) -> Iterator[Part | Obstacle]:
        packed = _stretch(part, part.name, start, part.file.seek(0, io.SEEK_END))
        found = list(_decompressed(packed, kind, bounds))
        if what not in _DOUBTFUL or any(isinstance(each, Part) for each in found):
            limit = f"{bounds.n_bytes_each >> 20} MiB"
            yield Obstacle(part.name, f"{what}, of which only pickles in {limit} are looked for")
        elif is_wide:
            yield Obstacle(part.name, f"{what} that takes more memory than is spent on it")
        yield from (each for each in found if isinstance(each, Part))

    return members


def _is_wide_lzma(beginning: bytes) -> bool:
    """Whether a header states a dictionary that is not allotted, and a length that may be one."""
    _, dictionary, length = _LZMA.unpack_from(beginning.ljust(_LZMA.size, b"\0"))
    is_length = length == _NO_LENGTH or 0 < length < _MAX_LENGTH
    return bool(dictionary > _MAX_MEMORY // 2 and is_length)


def _decompressed(part: Part, kind: _Kind, bounds: Bounds) -> Iterator[Part | Obstacle]:
    limit = min(bounds.n_bytes_each, bounds.n_bytes)
    content = io.BytesIO()
    is_cut = _inflate(part.file, kind, content, limit)
    bounds.n_bytes -= content.tell()
    content.seek(0)
    if is_cut:
        yield Obstacle(part.name, "a compressed file that breaks off or is too large")
    if content.getbuffer():
        yield Part(part.name, content, is_cut)


def _inflate(file: IO[bytes], kind: _Kind, content: io.BytesIO, limit: int) -> bool:
    """Decompress up to a limit; whether there is more, or something wrong."""
    file.seek(0)
    machine, n_streams, pending = kind(), 1, b""
    try:
        while content.tell() < limit:
            if machine.eof:
                pending = _behind_zeros(machine.unused_data, file)
                if not pending or (n_streams := n_streams + 1) > _MAX_STREAMS:
                    return bool(pending)
                machine = kind()
            elif machine.needs_input and not (pending := file.read(_CHUNK)):
                return True
            content.write(machine.decompress(pending, limit - content.tell()))
            pending = b""
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError):
        return True
    return not machine.eof


def _behind_zeros(data: bytes, file: IO[bytes]) -> bytes:
    data = data.lstrip(b"\0")
    while not data and (chunk := file.read(_CHUNK)):
        data = chunk.lstrip(b"\0")
    return data


def _stretch(part: Part, name: str, start: int, size: int) -> Part:
    end = part.file.seek(0, io.SEEK_END)
    window = _Window(part.file, start, max(0, min(size, end - start)))
    return Part(name, io.BufferedReader(window), part.is_cut)


def _inside(part: Part, name: str) -> str:
    return f"{part.name}/{name}" if part.name else name
