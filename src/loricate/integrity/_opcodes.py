"""Opcodes of pickles followed as loaders follow them, with nothing of it carried out.

``pickletools`` stops at text that is not ASCII and at arguments that loaders take, so its reader
sees less than they do. This one keeps a stack and a memo of what matters, which are texts.
"""

import codecs
import pickletools
import re
from dataclasses import dataclass
from typing import IO, NamedTuple, TypeAlias, final

__all__ = ["Import", "Stream", "read_stream"]

_KEPT = 1 << 16
_LONGEST_NAME = 200
# Names that are kept; a file with more is none that anybody wrote, and could fill the memory.
_MAX_IMPORTS = 10_000
_NUMBER = re.compile(rb"\s*[+-]?(\d|\.\d|nan|inf)", re.IGNORECASE)
_NUMBERS = {"INT", "LONG", "FLOAT"}
_TEXTS = {
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_GETS, _PUTS = {"GET", "BINGET", "LONG_BINGET"}, {"PUT", "BINPUT", "LONG_BINPUT"}
_CALLS = {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX"}
_MAKES = {"INST", "OBJ"}
# Bytes of the length in front of an argument, by what pickletools says in place of its size.
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_UNKNOWN = "unknown"


class Import(NamedTuple):
    """Something that a pickle imports.

    Args:
        module: Module, as the pickle spells it.
        name: Attribute of the module, which may be dotted.
    """

    module: str
    name: str


class _Opcode(NamedTuple):
    name: str
    argument: int | None
    n_taken: int
    to_mark: bool
    n_put: int

    @classmethod
    def of(cls, info: pickletools.OpcodeInfo) -> "_Opcode":
        taken = [each.name for each in info.stack_before]
        to_mark = "mark" in taken
        n_taken = taken.index("mark") if to_mark else len(taken)
        size = None if info.arg is None else info.arg.n
        return cls(info.name, size, n_taken, to_mark, len(info.stack_after))


_OPCODES = {each.code.encode("latin-1"): _Opcode.of(each) for each in pickletools.opcodes}


class _Mark:
    """What an opcode puts on the stack to come back to."""


class _BreaksOffError(Exception):
    """No loader gets beyond this byte."""


_Value: TypeAlias = str | _Mark | None


@final
@dataclass(frozen=True, kw_only=True)
class Stream:
    """What one pickle would do, up to where it ends or breaks off.

    Args:
        imports: What it imports, in order.
        n_called: How many of them came before the last call of something.
        n_made: How many of them came before the last old opcode that makes an instance.
        is_complete: Whether it ends as a pickle does.
        is_binary: Whether an opcode was met that no text has.
        is_marked: Whether it begins as pickles do that state their protocol.
        is_too_long: Whether it was given up for its length, or for importing too much.
        n_opcodes: Opcodes that were read.
    """

    imports: tuple[Import, ...]
    n_called: int
    n_made: int
    is_complete: bool
    is_binary: bool
    is_marked: bool
    is_too_long: bool
    n_opcodes: int


def read_stream(file: IO[bytes], *, max_opcodes: int) -> Stream:
    """Follow one pickle from where a file stands; it is left behind what was read.

    Args:
        file: Opened for reading, and seekable.
        max_opcodes: Where to give up.
    """
    machine = _Machine(file)
    is_complete = False
    try:
        while not is_complete and machine.n_opcodes < max_opcodes and machine.has_room:
            is_complete = machine.step()
        is_broken = False
    except _BreaksOffError:
        is_broken = True
    return Stream(
        imports=tuple(machine.imports),
        n_called=machine.n_called,
        n_made=machine.n_made,
        is_complete=is_complete,
        is_binary=machine.is_binary,
        is_marked=machine.is_marked,
        is_too_long=not is_complete and not is_broken,
        n_opcodes=machine.n_opcodes,
    )


class _Machine:
    def __init__(self, file: IO[bytes]) -> None:
        self.imports: dict[Import, None] = {}
        self.n_called = self.n_made = self.n_opcodes = 0
        self.is_binary = self.is_marked = False
        self._file = file
        self._stack: list[_Value] = []
        self._memo: dict[int, _Value] = {}

    @property
    def has_room(self) -> bool:
        """Whether one more import would be kept."""
        return len(self.imports) < _MAX_IMPORTS

    def step(self) -> bool:
        """Follow one opcode; true at the end of the pickle."""
        code = self._file.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise _BreaksOffError
        self._follow(opcode, _argument(self._file, opcode))
        self.is_marked |= opcode.name == "PROTO" and not self.n_opcodes
        self.is_binary |= code >= b"\x80"
        self.n_opcodes += 1
        return opcode.name == "STOP"

    def _follow(self, opcode: _Opcode, argument: bytes) -> None:
        name = opcode.name
        if name in _PUTS or name == "MEMOIZE":
            place = len(self._memo) if name == "MEMOIZE" else _number(name, argument)
            self._memo[place] = self._top()
        elif name in _GETS:
            self._stack.append(self._remembered(_number(name, argument)))
        elif name == "DUP":
            self._stack.append(self._top())
        elif name == "POP" and self._stack and isinstance(self._stack[-1], _Mark):
            self._stack.pop()
        else:
            if name in ("GLOBAL", "INST"):  # before the stack is looked at
                self._import(*map(_decoded, argument.split(b"\n")))
            if opcode.to_mark:
                self._drop_to_mark()
            taken = [self._pop() for _ in range(opcode.n_taken)][::-1]
            for _ in range(opcode.n_put):
                self._stack.append(self._result(name, argument, taken))
            self._count(name)

    def _count(self, name: str) -> None:
        if name in _CALLS:
            self.n_called = len(self.imports)
        elif name in _MAKES:
            self.n_made = len(self.imports)

    def _top(self) -> _Value:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            raise _BreaksOffError
        return self._stack[-1]

    def _remembered(self, place: int) -> _Value:
        if place not in self._memo:
            raise _BreaksOffError
        return self._memo[place]

    def _drop_to_mark(self) -> None:
        """Of all that an opcode takes above a mark nothing has to be known."""
        while self._stack and not isinstance(self._stack[-1], _Mark):
            self._stack.pop()
        if not self._stack:
            raise _BreaksOffError
        self._stack.pop()

    def _pop(self) -> _Value:
        value = self._top()
        self._stack.pop()
        return value

    def _result(self, name: str, argument: bytes, taken: list[_Value]) -> _Value:
        if name == "MARK":
            return _Mark()
        if name in _NUMBERS and not _NUMBER.match(argument):
            raise _BreaksOffError
        if name in _TEXTS:
            return _text(name, argument)
        if name == "STACK_GLOBAL":
            self._import(*(_UNKNOWN if not isinstance(each, str) else each for each in taken))
        return None

    def _import(self, module: str, name: str) -> None:
        self.imports[Import(module, name)] = None


def _argument(file: IO[bytes], opcode: _Opcode) -> bytes:
    """Bytes behind an opcode, cut off where they are too many to be a name."""
    size = opcode.argument
    if size is None:
        return b""
    if opcode.name in ("GLOBAL", "INST"):
        return _line(file) + b"\n" + _line(file)
    if size == pickletools.UP_TO_NEWLINE:
        return _line(file)
    if size < 0:
        is_signed = size == pickletools.TAKEN_FROM_ARGUMENT4
        size = int.from_bytes(_bytes(file, _LENGTHS[size]), "little", signed=is_signed)
    return _bytes(file, size)


def _line(file: IO[bytes]) -> bytes:
    line = rest = file.readline(_KEPT)
    if not line:
        raise _BreaksOffError
    if len(line) < _KEPT or line.endswith(b"\n"):
        # Loaders cut off the last byte, be it a line break or not.
        return line[:-1]
    end = b""
    while len(rest) == _KEPT and not rest.endswith(b"\n"):
        rest = file.readline(_KEPT)
        end = rest.rstrip()[-1:] or end
    # Of what is too long to be a name, the quotes at both ends matter.
    return line + end


def _bytes(file: IO[bytes], size: int) -> bytes:
    kept = file.read(min(size, _KEPT)) if size >= 0 else b""
    if len(kept) < min(size, _KEPT) or size < 0:
        raise _BreaksOffError
    if size > _KEPT:
        here = file.tell()
        if size - _KEPT > file.seek(0, 2) - here:
            raise _BreaksOffError
        file.seek(here + size - _KEPT)
    return kept


def _number(name: str, argument: bytes) -> int:
    if name not in ("GET", "PUT"):
        return int.from_bytes(argument, "little")
    try:
        return int(argument)
    except ValueError:
        raise _BreaksOffError from None


def _text(name: str, argument: bytes) -> str:
    if name == "UNICODE":
        text = argument[: 10 * _LONGEST_NAME].decode("raw_unicode_escape", "replace")
        return text[:_LONGEST_NAME]
    if name != "STRING":
        return _decoded(argument)
    # Loaders take no other text than one in quotes; escapes may spell a name.
    stripped = argument.strip()
    if len(stripped) < 2 or stripped[:1] not in (b'"', b"'") or stripped[:1] != stripped[-1:]:
        raise _BreaksOffError
    try:
        return _decoded(codecs.escape_decode(stripped[1:-1])[0])
    except ValueError:
        if len(argument) >= _KEPT:  # cut in the middle of an escape
            return _UNKNOWN
        raise _BreaksOffError from None


def _decoded(name: bytes) -> str:
    """The beginning of a text, of at most as many letters as a name may have."""
    return name[: 4 * _LONGEST_NAME].decode("utf-8", "backslashreplace")[:_LONGEST_NAME]
