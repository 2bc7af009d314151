"""Pickles inside of archives, compressed, or in bytes that are a safetensors file as well."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from loricate.integrity.finding import Severity
from loricate.testing.corpora._case import Build, Case, file_of
from loricate.testing.corpora.pickles import call

__all__ = ["ARCHIVES", "POLYGLOTS", "tar_of", "zip_of"]

_gzip = partial(gzip.compress, mtime=0)  # without the time, so that it is the same file
_OS = call("os", "getcwd")
_TEXT = b"cos\ngetcwd\n(tR."
_CENTRAL, _END = b"PK\1\2", b"PK\5\6"


def zip_of(content: bytes, name: str = "archive/data.pkl", method: int = 0) -> bytes:
    """A zip archive of one file.

    Args:
        content: The file.
        name: Its name.
        method: How it is compressed.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def tar_of(
    content: bytes, mode: Literal["w", "w:gz", "w:bz2"] = "w", name: str = "pickle"
) -> bytes:
    """A tar archive of one file, as torch wrote it before its legacy form.

    Args:
        content: The file.
        mode: How it is compressed.
        name: Name of the file.
    """
    file, member = io.BytesIO(), tarfile.TarInfo(name)
    member.size = len(content)
    with tarfile.open(fileobj=file, mode=mode) as archive:
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _without_magic(archive: bytes) -> bytes:
    """As tar was before it had a magic: nothing but a sum of the header tells it."""
    head = bytearray(archive[:512])
    head[257:265], head[148:156] = bytes(8), b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + archive[512:]


def _changed(offset: int, value: bytes) -> bytes:
    """A zip whose directory says something else of its file."""
    archive = bytearray(zip_of(_OS))
    start = archive.find(_CENTRAL) + offset
    archive[start : start + len(value)] = value
    return bytes(archive)


def _two_directories() -> bytes:
    """A directory where the end says, and another in front of the end, for other readers."""
    evil, clean = zip_of(_OS), zip_of(pickle.dumps({}))
    (begin, end), (there, behind) = (
        (archive.find(_CENTRAL), archive.find(_END)) for archive in (evil, clean)
    )
    directory = bytearray(clean[there:behind])
    directory[42:46] = struct.pack("<L", end)
    stated = struct.pack("<4H2LH", 0, 0, 1, 1, end - begin, begin, 0)
    return evil[:end] + clean[:there] + directory + _END + stated


def _twice() -> bytes:
    """Two files of one name, of which most readers see the last."""
    evil, clean = zip_of(_OS), zip_of(pickle.dumps({}))
    begin, there = evil.find(_CENTRAL), clean.find(_CENTRAL)
    second = bytearray(clean[there : clean.find(_END)])
    second[42:46] = struct.pack("<L", begin)
    directory = evil[begin : evil.find(_END)] + second
    body = evil[:begin] + clean[:there]
    return body + directory + _END + struct.pack("<4H2LH", 0, 0, 2, 2, len(directory), len(body), 0)


def _zip64() -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w") as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        member.write(_OS)
    return file.getvalue()


def _shifted(directory: bytes, place: int) -> bytes:
    """A directory of one file that lies elsewhere."""
    return directory[:42] + struct.pack("<L", place) + directory[46:]


def _wide(directory: bytes, place: int, magic: bytes = b"PK\6\6") -> bytes:
    """An end for archives of more than 4 GiB."""
    return struct.pack("<4sQ2H2L4Q", magic, 44, 45, 45, 0, 0, 1, 1, len(directory), place)


def _two_wide_ends(version: int = 20) -> bytes:
    """A wide end that the locator names, as torch reads it, and a clean one where Python looks."""
    evil, clean = zip_of(_OS), zip_of(pickle.dumps({}))
    bodies = [each[: each.find(_CENTRAL)] for each in (evil, clean)]
    first, second = (each[each.find(_CENTRAL) : each.find(_END)] for each in (evil, clean))
    first = first[:6] + struct.pack("<H", version) + first[8:]
    second = _shifted(second, len(bodies[0]))
    body = b"".join(bodies) + first
    wide = _wide(first, len(body) - len(first))
    there = len(body) + len(wide)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body), 1)
    stated = struct.pack("<4H2LH", 0, 0, 1, 1, len(second), there, 0)
    return body + wide + second + _wide(second, there) + locator + _END + stated


def _zfile(content: bytes, between: bytes = b"") -> bytes:
    """As joblib compressed before 0.10: two letters, the length as text, and zlib."""
    return b"ZF" + hex(len(content)).encode().ljust(19) + between + zlib.compress(content)


def _objects() -> bytes:
    """An array whose field of objects is a pickle."""
    file = io.BytesIO()
    np.save(file, np.array([(1, len)], dtype=[("number", "f4"), ("object", "O")]))
    return file.getvalue()


def _long_header() -> bytes:
    """An array of objects whose header is longer than anybody reads who looks for a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust((1 << 20) + 99) + b"\n"
    return b"\x93NUMPY\2\0" + struct.pack("<L", len(header)) + header + _OS


def _lzma(dictionary: int) -> bytes:
    """As joblib compresses, with another dictionary."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dictionary}]
    return lzma.compress(_OS, lzma.FORMAT_ALONE, filters=filters)


_NESTED = zip_of(zip_of(zip_of(_OS)), "inner.dat", zipfile.ZIP_DEFLATED)
_FILES: dict[str, tuple[str, bytes]] = {
    "zip_in_a_zip": ("a.pt", zip_of(zip_of(_OS), "inner.zip")),
    "zip_in_zips": ("a.zip", _NESTED),
    "zip_of_text_that_is_a_pickle": ("a.zip", zip_of(_TEXT, "readme.txt")),
    "zip_in_a_compressed_tar": ("a.gz", _gzip(tar_of(zip_of(_OS)))),
    "gzip_in_a_zip": ("a.zip", zip_of(_gzip(_OS), "a.bin")),
    "tar": ("a.pt", tar_of(_OS)),
    "tar_that_begins_like_json": ("a.ckpt", tar_of(_OS, name="{")),
    "tar_that_begins_like_a_list": ("a.pt", tar_of(_OS, name="[1]")),
    "tar_without_magic": ("a.pt", _without_magic(tar_of(_OS))),
    "tar_gz": ("a.tgz", tar_of(_OS, "w:gz")),
    "tar_bz2": ("a.dat", tar_of(_OS, "w:bz2")),
    "gzip": ("a.pkl.gz", _gzip(_OS)),
    "gzip_of_old_text": ("a.gz", _gzip(_TEXT)),
    "gzip_second": ("a.joblib", _gzip(b"") + bytes(70_000) + _gzip(_OS)),
    "bzip2": ("a.joblib", bz2.compress(_OS)),
    "bzip2_second": ("a.bz2", bz2.compress(b"") + bz2.compress(_OS)),
    "xz": ("a.joblib", lzma.compress(_OS)),
    "lzma": ("a.lzma", lzma.compress(_OS, lzma.FORMAT_ALONE)),
    "lzma_of_a_small_dictionary": ("a.joblib", _lzma(4096)),
    "lzma_of_an_odd_dictionary": ("a.joblib", _lzma((1 << 16) + (1 << 12))),
    "npy_with_a_long_header": ("a.npy", _long_header()),
    "zlib": ("a.joblib", zlib.compress(_OS)),
    "zlib_stored": ("a.joblib", zlib.compress(_OS, 0)),
    "old_joblib": ("a.joblib", _zfile(_OS)),
    "old_joblib_of_python_2": ("a.joblib", _zfile(_OS, b" ")),
    "gzip_of_xz": ("a.gz", _gzip(lzma.compress(_OS))),
    "zip_with_a_wrong_sum": ("a.pt", _changed(16, b"\1\2\3\4")),
    "zip_that_says_encrypted": ("a.pt", _changed(8, b"\1\0")),
    "zip_that_says_empty": ("a.pt", _changed(24, bytes(4))),
    "zip_of_bzip2": ("a.zip", zip_of(_OS, method=zipfile.ZIP_BZIP2)),
    "zip_behind_garbage": ("a.bin", b"GARBAGE" * 9 + zip_of(_OS)),
    "zip_whose_comment_has_an_end": ("a.pt", zip_of(_OS)[:-2] + b"\x0a\0ABCDPK\5\6EF"),
    "zip_of_two_directories": ("a.pt", _two_directories()),
    "zip_of_one_name_twice": ("a.pt", _twice()),
    "zip_64": ("a.pt", _zip64()),
    "zip_64_of_two_ends": ("a.pt", _two_wide_ends()),
    "zip_64_of_two_ends_of_a_later_version": ("a.pt", _two_wide_ends(255)),
    "zip_of_a_later_version": ("a.pt", _changed(6, b"\xff\0")),
    "zip_of_a_folder_with_content": ("a.pt", zip_of(_OS, "archive/")),
    "picture_with_a_zip": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(99) + zip_of(_OS)),
}
_OF_OBJECTS: dict[str, tuple[str, bytes]] = {
    "npz_of_objects": ("a.npz", zip_of(_objects(), "a.npy", zipfile.ZIP_DEFLATED)),
    "npy_with_a_field_of_objects": ("a.npy", _objects()),
}
# Those import os, which runs what it is told; these import len, which does no harm by itself.
_GRADED = (
    *((Severity.CRITICAL, each) for each in _FILES.items()),
    *((Severity.HIGH, each) for each in _OF_OBJECTS.items()),
)

ARCHIVES = tuple(
    Case(
        name=f"packed_{name}",
        build=file_of(file, content),
        expects={"pickle": severity},
    )
    for severity, (name, (file, content)) in _GRADED
)
"""A pickle that calls something, packed in a way that a loader or a user opens."""


def _tensor_file(beginning: bytes, data: bytes) -> bytes:
    """Safetensors whose length begins with given bytes, and whose header ends with a line break.

    A pickle of text takes all up to there for the argument of its first opcode, and reads on in
    the tensors.
    """
    entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    text = json.dumps({"x": entry}).encode()
    length = int.from_bytes(beginning, "little")
    step = 1 << 8 * len(beginning)
    length += step * max(0, -(-(len(text) + 1 - length) // step))
    return length.to_bytes(8, "little") + text.ljust(length - 1) + b"\n" + data


def _tensor_file_and_tar(data: bytes) -> bytes:
    """The header of safetensors is the first header of a tar archive too; data is the rest."""
    length, head = 2048 - 8, bytearray(b" " * 512)
    fields = {
        0: length.to_bytes(8, "little") + b'{"__metadata__":{"a":"',
        100: b"0000644 0000000 0000000 %011o 00000000000 " % (2048 - 512),
        156: b"0",
    }
    for offset, text in fields.items():
        head[offset : offset + len(text)] = text
    head[148:156] = b"%06o  " % sum(head)
    entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    rest = b'"},"x":' + json.dumps(entry).encode() + b"}"
    return bytes(head) + rest.ljust(2048 - 512) + data


_BOTH: dict[str, tuple[str, bytes]] = {
    "line_of_text": ("lora.safetensors", _tensor_file(b"V", _TEXT)),
    "line_of_text_named_pt": ("lora.pt", _tensor_file(b"V", _TEXT)),
    "number": ("lora.safetensors", _tensor_file(b"I1", _TEXT)),
    "long_number": ("lora.ckpt", _tensor_file(b"L7", _TEXT)),
    "protocol_4": ("lora.safetensors", _tensor_file(b"V", b"0" + _OS)),
    "instance": ("lora.safetensors", _tensor_file(b"V", b"(ios\ngetcwd\n.")),
    "tar": ("lora.safetensors", _tensor_file_and_tar(tar_of(_OS))),
    "zip_at_the_end": ("lora.safetensors", _tensor_file(b"\x90", b"12345678") + zip_of(_OS)),
    "zip_in_a_tensor": ("lora.safetensors", _tensor_file(b"\x90", zip_of(_OS))),
}


def _endless(n_pairs: int) -> Build:
    def build(folder: Path) -> Path:
        content = _tensor_file(b"V", b"N0" * n_pairs + _TEXT)
        return file_of("model.safetensors", content)(folder)

    return build


POLYGLOTS = (
    *(
        Case(
            name=f"safetensors_and_pickle_by_a_{name}",
            build=file_of(file, content),
            expects={"pickle": Severity.CRITICAL, "content_mismatch": Severity.HIGH},
        )
        for name, (file, content) in _BOTH.items()
    ),
    Case(
        name="safetensors_and_pickle_longer_than_is_followed",
        build=_endless(600_000),
        expects={"pickle": Severity.HIGH},
    ),
)
"""Whole safetensors files that call something where they are loaded as a pickle or an archive."""
