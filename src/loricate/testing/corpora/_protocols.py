"""Pickles that do not say that they are: of the first protocols, or behind harmless ones."""

import os
import pickle
from collections.abc import Callable

from loricate.integrity.finding import Severity
from loricate.testing.corpora._case import Case, file_of
from loricate.testing.corpora.pickles import call, legacy_torch

__all__ = ["PROTOCOLS"]

_TEXT = b"cos\ngetcwd\n(tR."
_OS = call("os", "getcwd")
_PLAIN = {"weight": [0.0, 1.0], "epoch": 3}


class _Calls:
    """Calls something when it is loaded, as objects of any class may."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return os.getcwd, ()


_OBJECT = {"caf\u00e9": [1.5, True, b"x"] * 99, "object": _Calls()}

_STREAMS: dict[str, bytes] = {
    "global": _TEXT,
    "text_that_is_not_ascii": b"S'caf\xe9'\n0" + _TEXT,
    "unicode_that_is_not_ascii": "Vcaf\u00e9\n0".encode() + _TEXT,
    "bytes_in_a_list": b"S'\xff\xfe'\np0\n(lp1\na0" + _TEXT,
    "behind_one_of_protocol_0": pickle.dumps(_PLAIN, 0) + _TEXT,
    "behind_one_of_protocol_2": pickle.dumps(_PLAIN, 2) + _TEXT,
    "behind_fifty": pickle.dumps(_PLAIN, 0) * 50 + _TEXT,
    "names_as_text": b"Vos\nVgetcwd\n\x93)R.",
    "names_with_escapes": b"V\\u006fs\nVgetcwd\n\x93)R.",
    "names_with_escaped_bytes": b"S'\\x6fs'\nS'getcwd'\n\x93)R.",
    "names_from_numbered_places": b"S'os'\np100\n0S'getcwd'\np101\n0g100\ng101\n\x93)R.",
    "binary_names_without_protocol": b"(X\x02\0\0\0osX\x06\0\0\0getcwd\x93)R.",
    "marks_taken_back": b"((0cos\ngetcwd\n)R0.",
    "copied": b"cos\ngetcwd\n2(tR.",
    "made": b"(cos\ngetcwd\no.",
    "made_at_the_end_of_the_file": b"(ios\ngetcwdX",
    "made_with_arguments": b"(S'x'\nios\ngetenv\n.",
    "built": b"cos\nenviron\n}(S'a'\nS'b'\nub.",
    "set": b"cos\nenviron\nS'PATH'\nS'/tmp'\ns.",
    "search_path": b"csys\npath\n(S'/tmp'\ne0ca_module_nobody_knows\nx\n.",
    "only_imported": b"cos\nsystem\n.",
    "number_that_only_c_reads": b"I1\0hello\n0" + _TEXT,
    "number_with_an_underscore": b"I1_0\n0" + _TEXT,
    "numbers_of_all_kinds": b"I01\n0I00\n0F1e5\n0L5L\n0" + _TEXT,
    "behind_a_long_line": b"V" + b"a" * 200_000 + b"\n0" + _TEXT,
    "behind_a_long_text": b"X" + (300_000).to_bytes(4, "little") + b"a" * 300_000 + b"0" + _TEXT,
    "python_2_eval": b"c__builtin__\neval\n(S'1'\ntR.",
    "python_2_commands": b"ccommands\ngetoutput\n(S'id'\ntR.",
    "unknown_module": b"ca_module_nobody_knows\nrun\n(tR.",
    "unknown_module_before_garbage": b"ca_module_nobody_knows\nrun\n(tR\xff",
    "unknown_module_made": b"(ia_module_nobody_knows\nrun\n.",
    "prose_behind": _TEXT + b"\n# Readme\nThis is a model.\n",
    "prose_behind_a_call": _TEXT[:-1] + b"\n# Readme\nThis is a model.\n",
    "protocol_0_announced": b"\x80\x00" + _TEXT,
    "protocol_1_announced": b"\x80\x01" + _TEXT,
    "frame_that_lies": b"\x80\x04\x95\x01\0\0\0\0\0\0\0" + _OS[2:],
    "dotted_attribute": b"\x80\x04\x8c\x02os\x8c\x0epath.os.getcwd\x93)R.",
    **{f"object_by_protocol_{number}": pickle.dumps(_OBJECT, number) for number in range(6)},
    "numbers_between": pickle.dumps(1, 2)[:-1] + b"0" + _TEXT[:-1] + bytes(range(256)),
    "made_in_a_list": b"(lp0\n(ios\ngetcwd\na.",
    "set_state": b"\x80\x02ccollections\nOrderedDict\n)R}U\x0c__setstate__cos\nsystem\nsbU\x02idb.",
    "name_of_another_type": b"\x80\x04K\x05\x94\x8c\x06getcwd\x93)R.",
    "name_of_kilobytes": b"\x80\x02c" + b"a." * 9000 + b"b\nf\n)R.",
    "look_alike": b"\x80\x04\x8c\x04\xd0\xbe\xd1\x95\x8c\x06getcwd\x93)R.",
    "private_part_of_numpy": b"cnumpy.f2py.crackfortran\nmyeval\n(S'1'\ntR.",
    "second_of_legacy_torch": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + _OS,
    "behind_legacy_torch": legacy_torch(pickle.dumps({}, 2)) + pickle.dumps([], 2) * 3 + _OS,
}

# These harm only where a module of that name lies in wait.
_OF_STRANGERS = ("unknown_module", "name_of_kilobytes", "look_alike")


def _grave(name: str) -> Severity:
    return Severity.HIGH if name.startswith(_OF_STRANGERS) else Severity.CRITICAL


PROTOCOLS = tuple(
    Case(
        name=f"stream_{name}",
        build=file_of("notes.md" if "prose" in name else "weights.dat", content),
        expects={"pickle": _grave(name)},
    )
    for name, content in _STREAMS.items()
)
"""Each calls or imports something, and was named as if it were no pickle."""
