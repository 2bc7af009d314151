"""One file that is being judged; everything about it is found out when a rule asks."""

import codecs
import hashlib
import json
import zipfile
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple, final

from loricate.adapters.adapter import Adapter
from loricate.adapters.files import AdapterFile, open_adapter
from loricate.adapters.keys import HASH_KEY
from loricate.adapters.tensors import TensorFile, TooMuchError, bounded_json
from loricate.basics.errors import ConfigError, HostileFileError, LoricateError, ShapeError
from loricate.integrity._base_model import Base
from loricate.integrity._keys import is_adapter
from loricate.integrity._pickles import Pickled, read_pickles
from loricate.integrity._readable import Readable, readable_part
from loricate.integrity.features import Features, features
from loricate.integrity.raw_header import RawHeader, is_safetensors, read_header

__all__ = ["CONFIGS", "MAX_JSON_BYTES", "Content", "Subject"]

CONFIGS = ("adapter_config.json", "config.json", "model_index.json")
"""Files that say how weights beside them are used, the most specific first."""

MAX_JSON_BYTES = 50_000_000
"""Largest file of JSON that is read."""

_STATED_HASHES = {HASH_KEY, "modelspec.hash_sha256"}
_BLANKS = " \t\n\r\ufeff"
_CHUNK = 1 << 20
_UNNAMED = "model"


class Content(StrEnum):
    """What a file holds, by its bytes and not by its name."""

    SAFETENSORS = "safetensors"
    PICKLE = "pickle"
    JSON = "json"
    FOLDER = "folder"
    OTHER = "other"


class _Config(NamedTuple):
    table: Mapping[str, Any] | None = None
    is_refused: bool = False

    @classmethod
    def read(cls, path: Path) -> "_Config":
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                return cls(is_refused=True)
            # A file of empty lists fills twenty times its size in memory.
            parsed = bounded_json(path.read_bytes())
        except TooMuchError:
            return cls(is_refused=True)
        except (OSError, ValueError, RecursionError):
            return cls()
        return cls(parsed if isinstance(parsed, dict) else None)


class _Hashes(NamedTuple):
    file: str
    data: str | None


@final
class Subject:
    """One file; or a folder, where the folder itself is what is wrong.

    A safetensors file beside an ``adapter_config.json`` is read together with it, so the files of
    a folder are subjects and no rule has to look at the folder as a whole. Nothing raises:
    what cannot be read is ``None``, and the reason stands beside it.

    Args:
        path: The file, as it is shown.
        base: Model that an adapter is held to.
    """

    def __init__(self, path: Path, *, base: Base | None = None) -> None:
        self.path = path
        self.base = base
        self._lock = Lock()

    @cached_property
    def content(self) -> Content:
        """What is in the file; ``OTHER`` where it cannot be read."""
        try:
            return _content(self.path)
        except OSError:
            return Content.OTHER

    @cached_property
    def header(self) -> RawHeader | None:
        """Header of a safetensors file as it stands there."""
        if self.content is not Content.SAFETENSORS:
            return None
        try:
            return read_header(self.path)
        except OSError:
            return None

    @property
    def tensors(self) -> TensorFile | None:
        """Tensors of a safetensors file, or ``None`` where the strict reader refuses it."""
        return self._tensors[0]

    @property
    def refusal(self) -> LoricateError | None:
        """Why there are no tensors in a safetensors file."""
        return self._tensors[1]

    @property
    def adapter(self) -> AdapterFile | None:
        """The adapter in a safetensors file, or ``None`` where it holds no plain one.

        Updates have the shapes of the base, where there is one that has all their modules.
        """
        return self._adapter[0]

    @property
    def adapter_refusal(self) -> LoricateError | None:
        """Why there is no adapter in a safetensors file."""
        return self._adapter[1]

    @cached_property
    def readable(self) -> Readable | None:
        """Updates whose numbers can be judged and what is left out, or ``None`` if it has none."""
        if self.adapter is not None:
            return Readable(self.adapter.adapter, {})
        if self.tensors is None or not is_adapter(self.tensors):
            return None
        if self.is_config_refused:
            why = "the config beside it is too large to be read, and may state any scale"
            return Readable(Adapter({}), {self.path.name: why})
        return readable_part(self.tensors, self.config, self.base)

    @cached_property
    def features(self) -> Features | None:
        """Spectral features of the updates, from their factors alone.

        Raises:
            NumericalError: The product of two factors overflows.
        """
        return None if self.readable is None else features(self.readable.adapter)

    @property
    def config(self) -> Mapping[str, Any] | None:
        """A JSON object: the file itself, or the config beside a safetensors file."""
        return self._config.table

    @property
    def is_config_refused(self) -> bool:
        """Whether that JSON was not read as it would fill the memory."""
        return self._config.is_refused

    @cached_property
    def _config(self) -> "_Config":
        if self.content is Content.JSON:
            return _Config.read(self.path)
        if self.content is Content.SAFETENSORS:
            beside = (self.path.with_name(name) for name in CONFIGS)
            return next((_Config.read(path) for path in beside if path.is_file()), _Config())
        return _Config()

    @cached_property
    def pickled(self) -> Pickled:
        """Pickles in the file, whatever else it is.

        Raises:
            OSError: The file cannot be read.
        """
        return read_pickles(self.path)

    @property
    def sha256(self) -> str:
        """Digest of the file.

        Raises:
            OSError: The file cannot be read.
        """
        return self._hashes.file

    @property
    def data_sha256(self) -> str | None:
        """Digest of the bytes behind the header, where the header states one to compare with.

        Raises:
            OSError: The file cannot be read.
        """
        return self._hashes.data

    @property
    def _hashes(self) -> _Hashes:
        with self._lock:
            return self._hashed

    @cached_property
    def _hashed(self) -> _Hashes:
        whole, data = hashlib.sha256(), hashlib.sha256()
        is_stated = self.header is not None and not _STATED_HASHES.isdisjoint(self.header.stated)
        with self.path.open("rb") as file:
            if self.header is not None and is_stated:
                whole.update(file.read(self.header.data_start))
            while chunk := file.read(_CHUNK):
                whole.update(chunk)
                if is_stated:
                    data.update(chunk)
        return _Hashes(whole.hexdigest(), data.hexdigest() if is_stated else None)

    @cached_property
    def _tensors(self) -> tuple[TensorFile | None, LoricateError | None]:
        if self.content is not Content.SAFETENSORS:
            return None, None
        try:
            return TensorFile(self.path), None
        except LoricateError as error:
            return None, error

    @cached_property
    def _adapter(self) -> tuple[AdapterFile | None, LoricateError | None]:
        if self.tensors is None:
            return None, self.refusal
        if self.is_config_refused:
            reason = "the config beside it is too large to be read"
            return None, HostileFileError(self.path, reason=reason)
        try:
            return _open(self.path, self.base), None
        except LoricateError as error:
            return None, error


def _content(path: Path) -> Content:
    if path.is_dir():
        return Content.FOLDER
    if not path.is_file():
        return Content.OTHER  # to open a pipe is to wait for somebody to write
    if is_safetensors(path):
        return Content.SAFETENSORS
    with path.open("rb") as file:
        beginning = file.read(4)
        if _is_pickle(beginning) or zipfile.is_zipfile(file):
            return Content.PICKLE
        file.seek(0)
        return Content.JSON if _is_json(file) else Content.OTHER


def _is_pickle(beginning: bytes) -> bool:
    # Protocols from 2 on announce themselves; older ones are text and found by reading them.
    protocols = (bytes((0x80, number)) for number in range(2, 6))
    return beginning.startswith((*protocols, b"PK\x03\x04"))


def _is_json(file: IO[bytes]) -> bool:
    """Whether the first letter is that of an object or a list, in any encoding JSON may have."""
    decoded = codecs.getreader(json.detect_encoding(file.read(4)))(file, "replace")
    file.seek(0)
    while text := decoded.read(_CHUNK):
        if begun := text.lstrip(_BLANKS):
            return begun.startswith(("{", "["))
    return False


def _open(path: Path, base: Base | None) -> AdapterFile:
    attempts: list[tuple[str | None, Path | None]] = [(None, None)]
    if base is not None:
        attempts.insert(0, (None, base.folder))
    for component, folder in attempts:
        try:
            return open_adapter(path, component=component, base=folder)
        except (ConfigError, ShapeError) as error:
            last = error
    problems = last.problems if isinstance(last, ConfigError) else ()
    if any(problem.key == "component" and problem.got is None for problem in problems):
        return open_adapter(path, component=_UNNAMED)
    raise last
