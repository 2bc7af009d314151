"""Safetensors files whose header, metadata or content lies."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from loricate.integrity.finding import Severity
from loricate.testing.corpora._adapters import Plan, adapter_for, kohya_tensors
from loricate.testing.corpora._case import Build, Case, file_of
from loricate.testing.corpora._layers import embedded
from loricate.testing.corpora._raw import Pairs, RawFile
from loricate.testing.corpora.pickles import zip_torch

__all__ = ["CONTENTS", "HEADERS", "METADATA"]

_Change: TypeAlias = Callable[[RawFile], RawFile]

_OVERSIZED = 200_000_000


def _file(change: _Change, metadata: dict[str, str] | None = None) -> Build:
    def build(folder: Path) -> Path:
        layers = embedded("unet", r"^mid_block.*attn2\.to_[qk]$")
        tensors = kohya_tensors(adapter_for(layers, Plan()))
        raw = RawFile.of(tensors, folder, metadata)
        return change(raw).write(folder / "lora.safetensors")

    return build


def _case(name: str, change: _Change, severity: Severity) -> Case:
    return Case(name=name, build=_file(change), expects={"header": severity})


def _twice(**changes: object) -> _Change:
    """The first tensor once more; the last description wins for loaders, and it is sound."""

    def change(raw: RawFile) -> RawFile:
        entry = Pairs({**dict(raw.entry(0)), **changes}.items())
        return replace(raw, header=Pairs([(raw.names[0], entry), *raw.header]))

    return change


def _twice_inside(raw: RawFile) -> RawFile:
    first, entry = raw.names[0], Pairs([("shape", [1]), *raw.entry(0)])
    return replace(raw, header=Pairs((k, entry if k == first else v) for k, v in raw.header))


def _metadata(*pairs: tuple[str, object]) -> _Change:
    """Metadata of any kind of value, in place of the usual."""

    def change(raw: RawFile) -> RawFile:
        rest = [pair for pair in raw.header if pair[0] != "__metadata__"]
        usual = ("format", "pt")
        return replace(raw, header=Pairs([("__metadata__", Pairs([usual, *pairs])), *rest]))

    return change


def _named(name: str) -> _Change:
    return lambda raw: raw.with_entry(0, name)


def _shifted(raw: RawFile) -> RawFile:
    """A gap of eight bytes in front of the last tensor, in which anything may hide."""
    last = max(range(len(raw.names)), key=lambda i: _offsets(raw, i))
    begin, end = _offsets(raw, last)
    data = raw.data[:begin] + b"payload." + raw.data[begin:]
    return replace(raw.with_entry(last, data_offsets=[begin + 8, end + 8]), data=data)


def _overlapping(raw: RawFile) -> RawFile:
    order = sorted(range(len(raw.names)), key=lambda i: _offsets(raw, i))
    second = order[1]
    size = _offsets(raw, second)[1] - _offsets(raw, second)[0]
    return raw.with_entry(second, data_offsets=[0, size])


def _offsets(raw: RawFile, index: int) -> tuple[int, int]:
    stated = dict(raw.entry(index))["data_offsets"]
    assert isinstance(stated, list)
    return int(stated[0]), int(stated[1])


def _oversized(folder: Path) -> Path:
    path = folder / "lora.safetensors"
    with path.open("wb") as file:
        file.write(_OVERSIZED.to_bytes(8, "little"))
        file.truncate(_OVERSIZED + 16)  # sparse: no bytes on disk
    return path


_ADDRESSES = (
    *("file:///etc/passwd", "HTTPS://x.test/a", "s3://bucket/x", "data:text/html,x"),
    *("javascript:alert(1)", "\\\\server\\share", "..%2f..%2fetc", "a/../../b", "C:/Windows"),
    *("~root/.ssh/id", "$HOME/.bashrc", "%APPDATA%\\x", " /etc/passwd", "\uff0e\uff0e\uff0fetc"),
    *(
        "\uff5e/x",
        "..\u2215..\u2215etc",
        "file:/etc/passwd",
        "//x.test/a",
        "http:\\\\x",
        "....//etc",
    ),
    *("a\\..\\..\\b", "\\\\.\\pipe\\x", "x https://evil.test/y", "${jndi:ldap://x/a}", "$(id)"),
    *("<script>alert(1)</script>", "foo/..", "..", "~", "%252e%252e%252fx", "file%3A///etc"),
)

_HIGH, _MEDIUM, _LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW

_CHANGES: dict[str, tuple[_Change, Severity]] = {
    "tensor_twice": (_twice(), _HIGH),
    "tensor_twice_in_another_dtype": (_twice(dtype="BF16", shape=[8, 192]), _HIGH),
    "tensor_twice_in_another_place": (_twice(data_offsets=[4, 8], shape=[1]), _HIGH),
    "field_of_an_entry_twice": (_twice_inside, _HIGH),
    "metadata_twice": (
        lambda raw: raw.with_pairs(("__metadata__", Pairs([("ss_network_alpha", "4")]))),
        _HIGH,
    ),
    "key_of_metadata_twice": (_metadata(("ss_seed", "1"), ("ss_seed", "2")), _HIGH),
    "blanks_in_front": (lambda raw: replace(raw, before=b" \t" * 64), _MEDIUM),
    "kilobytes_of_blanks_behind": (lambda raw: replace(raw, after=b" \t\n\r" * 2048), _MEDIUM),
    "unknown_field": (lambda raw: raw.with_entry(0, payload="c29tZXRoaW5n"), _HIGH),
    "name_leads_out_of_the_folder": (_named("../../.bashrc"), _HIGH),
    "name_leads_out_of_a_windows_folder": (_named("..\\..\\startup.bat"), _HIGH),
    "name_is_an_absolute_path": (_named("/etc/cron.d/lora"), _HIGH),
    **{
        f"name_is_an_address_{index}": (_named(name), _HIGH)
        for index, name in enumerate(_ADDRESSES)
    },
    "name_with_nul": (_named("lora_unet_conv_in.lora_down.weight\0.txt"), _HIGH),
    "name_with_terminal_escapes": (_named("\x1b]0;title\x07\x1b[2Jclean"), _HIGH),
    "name_with_reversed_reading": (_named("lora_unet_\u202egpj.exe"), _HIGH),
    "name_without_letters": (_named(""), _HIGH),
    "header_longer_than_the_file": (lambda raw: replace(raw, length=1 << 40), _HIGH),
    "header_of_no_bytes": (lambda raw: replace(raw, length=0), _HIGH),
    "gap": (_shifted, _HIGH),
    "overlap": (_overlapping, _HIGH),
    "hidden_tail": (lambda raw: replace(raw, data=raw.data + b"MZ payload"), _HIGH),
    "truncated": (lambda raw: replace(raw, data=raw.data[:-64]), _HIGH),
    "number_as_metadata": (_metadata(("ss_seed", 3)), _HIGH),
    "negative_side": (lambda raw: raw.with_entry(0, shape=[-4, -192]), _HIGH),
    "sides_whose_product_overflows": (
        lambda raw: raw.with_entry(0, shape=[1 << 32, 1 << 32]),
        _HIGH,
    ),
    "truth_as_a_side": (lambda raw: raw.with_entry(0, shape=[True, 192]), _HIGH),
    "offsets_backwards": (lambda raw: raw.with_entry(0, data_offsets=[64, 0]), _HIGH),
    "nested_too_deep": (
        lambda raw: replace(raw, header=Pairs(), after=b"", before=b'{"a":' + b"[" * 100_000),
        _HIGH,
    ),
}

HEADERS = (
    *(_case(name, change, severity) for name, (change, severity) in _CHANGES.items()),
    Case(name="oversized_header", build=_oversized, expects={"header": _HIGH}),
)
"""Headers that two programs read in two ways, that hide something, or that fit no file."""

_TEXTS: dict[str, tuple[dict[str, str], Severity]] = {
    "script": ({"ss_training_comment": "<script>alert(1)</script>"}, _MEDIUM),
    "html_with_a_handler": ({"modelspec.title": "<img src=x onerror=alert(1)>"}, _MEDIUM),
    "script_as_a_key": ({"<script>alert(1)</script>": "fine"}, _MEDIUM),
    "html_frame": ({"modelspec.description": '<iframe src="//x.test"></iframe>'}, _MEDIUM),
    "script_url": ({"modelspec.author": "javascript:alert(document.cookie)"}, _MEDIUM),
    "control_characters": ({"ss_training_comment": "fine\x08\x08\x08\x08evil"}, _MEDIUM),
    "terminal_escapes": ({"modelspec.title": "\x1b[2J\x1b[31mverified\x1b[0m"}, _MEDIUM),
    "terminal_hyperlink": ({"modelspec.title": "\x1b]8;;file:///etc\x07x\x1b]8;;\x07"}, _MEDIUM),
    "nul_in_metadata": ({"ss_output_name": "lora\0.exe"}, _MEDIUM),
    "reversed_reading": ({"ss_output_name": "lora_\u202esrotesnefas.exe"}, _MEDIUM),
    "invisible_characters": ({"ss_output_name": "lo\u200bra\u2060"}, _LOW),
    "url": ({"ss_training_comment": "get the key at http://collect.test/k?id=1"}, _LOW),
    "url_of_a_data_scheme": (
        {"modelspec.thumbnail": "data:text/html;base64,PHNjcmlwdD4="},
        _MEDIUM,
    ),
}

METADATA = tuple(
    Case(
        name=f"metadata_{name}",
        build=_file(lambda raw: raw, texts),
        expects={"metadata": severity},
    )
    for name, (texts, severity) in _TEXTS.items()
)
"""Text that would act where it is shown: in a browser, a terminal or a file manager."""


def _zip(folder: Path) -> Path:
    return zip_torch(folder / "lora.safetensors", b"\x80\x02}.")


def _archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "lora.safetensors", "w") as archive:
        archive.writestr("run.py", "print('harmless')\n")
    return folder / "lora.safetensors"


def _renamed(name: str) -> Build:
    def build(folder: Path) -> Path:
        return _file(lambda raw: raw)(folder).rename(folder / name)

    return build


_PAGE = b"<!DOCTYPE html><html><body>404: not found</body></html>"
_CONTENT_CASES: dict[str, tuple[Build, Severity]] = {
    "harmless_torch_zip_named_safetensors": (_zip, _HIGH),
    "zip_of_scripts_named_safetensors": (_archive, _HIGH),
    "web_page_named_safetensors": (file_of("lora.safetensors", _PAGE), _MEDIUM),
    "program_named_safetensors": (file_of("lora.safetensors", b"\x7fELF" + bytes(60)), _MEDIUM),
    "script_named_safetensors": (file_of("lora.safetensors", b"#!/bin/sh\necho hi\n"), _MEDIUM),
    "json_named_safetensors": (
        file_of("lora.safetensors", json.dumps({"r": 4, "lora_alpha": 4}).encode()),
        _MEDIUM,
    ),
    "safetensors_named_ckpt": (_renamed("lora.ckpt"), _MEDIUM),
    "safetensors_named_bin": (_renamed("adapter_model.bin"), _MEDIUM),
    "safetensors_named_json": (_renamed("config.json"), _LOW),
}

CONTENTS = tuple(
    Case(name=name, build=build, expects={"content_mismatch": severity})
    for name, (build, severity) in _CONTENT_CASES.items()
)
"""Files whose name says one thing and whose bytes another."""
