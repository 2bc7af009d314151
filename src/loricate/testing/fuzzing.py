"""Readers of untrusted files, sound inputs for them, and mutations of these inputs.

A reader may take what it is given or refuse it with a ``LoricateError``; anything else is a bug.
"""

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np

from loricate.adapters.adapter import Target
from loricate.adapters.files import open_adapter
from loricate.adapters.formats.diffusers import WEIGHTS as PIPELINE
from loricate.adapters.formats.peft import CONFIG, WEIGHTS
from loricate.adapters.keys import COMPONENT_KEY, HEADER_KEY
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import LoricateError
from loricate.integrity.hashing import FileEntry, TensorEntry
from loricate.integrity.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from loricate.integrity.raw_header import read_header
from loricate.integrity.scan import all_rules, scan
from loricate.records.io import RECORD_FILE, ROWS_FILE, read_record, read_rows, write_record
from loricate.testing.corpora._adapters import (
    Plan,
    adapter_for,
    kohya_tensors,
    peft_folder,
    spelled,
)
from loricate.testing.corpora._layers import Layer, Layers
from loricate.testing.records import made_up_record, write_made_up_run

__all__ = ["READERS", "Reader", "attempt", "mutated", "prepared"]

_Kind: TypeAlias = Literal["safetensors", "json", "lines"]


@final
@dataclass(frozen=True, kw_only=True)
class Reader:
    """One way into the library for bytes from outside.

    Args:
        name: What it reads.
        kind: How its inputs are built, so that mutations keep some of them alive.
        file: Name of the file whose content is mutated, in a folder of its own.
        prepare: Writes a sound input with everything beside it into that folder.
        read: Reads the folder, to the last tensor.
    """

    name: str
    kind: _Kind
    file: str
    prepare: Callable[[Path], object]
    read: Callable[[Path], object]


def attempt(reader: Reader, folder: Path, content: bytes) -> LoricateError | None:
    """Let a reader have some bytes.

    Args:
        reader: Who reads.
        folder: Where its input was prepared.
        content: The bytes.

    Returns:
        Its refusal, or ``None`` where it took them.
    """
    (folder / reader.file).write_bytes(content)
    try:
        reader.read(folder)
    except LoricateError as error:
        # A message is part of the answer, and has to be printable as well.
        str(error).encode("utf-8", "backslashreplace")
        return error
    return None


def prepared(reader: Reader, folder: Path) -> bytes:
    """Prepare the folder of a reader.

    Args:
        reader: Who reads.
        folder: An empty folder.

    Returns:
        The sound content of the file that is mutated.
    """
    reader.prepare(folder)
    return (folder / reader.file).read_bytes()


def mutated(content: bytes, kind: _Kind, rng: random.Random) -> bytes:
    """A variant of some content: values, keys and structure first, then bytes.

    Args:
        content: What to start from.
        kind: How it is built.
        rng: Decides everything.
    """
    if rng.random() < 0.8:
        content = _MUTATIONS[kind](content, rng)
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            content = _bytes(content, rng)
    return content


_ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    64,
    2**31,
    2**53,
    2**62,
    2**63,
    2**64,
    -(2**63),
    10**400,
    0.5,
    1e308,
    -1e-320,
    float("nan"),
    float("inf"),
    "",
    "F32",
    "F16",
    "BF16",
    "F8_E5M2",
    "F8_E4M3",
    "BOOL",
    "I64",
    "F4",
    "../x",
    "a\0b",
    "\ud800",
    "\u202e",
    "x" * 5000,
    "(a+)+$",
    "^(?:a|b)",
    "lora_unet_",
    "base_model.model.",
    "__metadata__",
    "NaN",
    "1" * 5000,
    [],
    {},
    [0, 2**62],
    [2**62, 0],
    [2**32, 2**32],
    [1] * 40,
    [1] * 100,
    [0] * 70,
    [[]],
    {"": {"": {}}},
)
_WORDS = (0, 1, 7, 8, 127, 128, 255, 65535, 2**31 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)


def _json(content: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng)
    try:
        text = json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return content
    if rng.random() < 0.1:
        text = _doubled(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng)
    return b"\n".join(lines)


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    end = 8 + int.from_bytes(content[:8], "little")
    if end > len(content):
        return content
    header, data = content[8:end], content[end:]
    change = _consistent if rng.random() < 0.6 else _json
    header = change(header, rng)
    if rng.random() < 0.3:
        data = _overwritten(data, rng)
    return len(header).to_bytes(8, "little") + header + data


def _consistent(header: bytes, rng: random.Random) -> bytes:
    """Another header for the same bytes, so that readers get further than the layout."""
    try:
        table = json.loads(header)
    except (ValueError, RecursionError):
        return header
    names = [name for name, entry in _pairs_of(table) if "shape" in entry and "dtype" in entry]
    if not names:
        return header
    for _ in range(rng.choice((1, 2, 4))):
        name = rng.choice(names)
        entry = table.get(name)
        if not isinstance(entry, dict):
            continue
        match rng.randrange(5):
            case 0:
                table[name] = {**entry, "shape": _reshaped(entry.get("shape"), rng)}
            case 1:
                table[name] = {**entry, "dtype": rng.choice(("F16", "BF16", "I16", "U16"))}
            case 2:
                table[rng.choice(_NAMES).format(name=name.partition(".lora")[0])] = table.pop(name)
            case 3:
                other = rng.choice(names)
                table[name], table[other] = table.get(other), entry
            case _:
                key = rng.choice(_HEADER_KEYS)
                table["__metadata__"] = {"format": "pt", key: rng.choice(_HEADER_TEXTS)}
    return json.dumps(table, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _pairs_of(table: Any) -> list[tuple[str, dict[str, Any]]]:
    pairs = table.items() if isinstance(table, dict) else ()
    return [(name, entry) for name, entry in pairs if isinstance(entry, dict)]


def _reshaped(shape: Any, rng: random.Random) -> Any:
    """Another shape of as many entries."""
    if not isinstance(shape, list) or not all(type(n) is int for n in shape):
        return shape
    match rng.randrange(4):
        case 0:
            return shape[::-1]
        case 1:
            return [*shape, *[1] * rng.choice((1, 2, 30, 70))]
        case 2:
            return [math.prod(shape)]
        case _:
            return [*shape[:2], *shape[2:][::-1]] if len(shape) > 2 else [1, *shape]


def _overwritten(data: bytes, rng: random.Random) -> bytes:
    """As many bytes, some of them of numbers that are not finite, huge or tiny."""
    at = rng.randrange(max(1, len(data)))
    odd = rng.choice((b"\xff\xff", b"\x00\x7c", b"\x00\x00\x80\x7f", b"\xff\x7b", b"\x01\x00"))
    return (data[:at] + odd * rng.choice((1, 8)) + data[at:])[: len(data)]


_NAMES = (
    "{name}",
    "{name}.alpha",
    "{name}.lora_A.weight",
    "{name}.lora_B.default.weight",
    "{name}.lora_mid.weight",
    "{name}.lora.up.weight",
    "{name}.diff",
    "{name}.hada_w1_a",
    "unet.{name}.lora_A.weight",
    "vae.{name}_lora.down.weight",
    "lora_te1_{name}.lora_up.weight",
    "lycoris_{name}.lora_up.weight",
    "diffusion_model.{name}.lora_down.weight",
    "base_model.model.{name}.lora_A.weight",
    "bundle_emb.{name}.x",
    ".lora_A.weight",
)
_HEADER_KEYS = (
    "lora_adapter_metadata",
    "loricate.component",
    "loricate.base_digest",
    "ss_network_alpha",
    "ss_network_dim",
    "sshs_model_hash",
)
_HEADER_TEXTS = (
    "",
    "{}",
    "[]",
    "unet",
    "vae",
    "a/b\0",
    "1" * 400,
    "1e999",
    "nan",
    '{"unet.r": 0, "unet.lora_alpha": NaN}',
    '{"r": 1, "lora_alpha": 1e400, "rank_pattern": {"(": 1}}',
    '{"base_model.model.r": 2, "base_model.model.lora_alpha": [2]}',
    '{"r":' * 3000,
)


_MUTATIONS: Mapping[_Kind, Callable[[bytes, random.Random], bytes]] = {
    "json": _json,
    "lines": _lines,
    "safetensors": _safetensors,
}


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with something inside changed: one step down, or a change here."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.75:
            return {**value, key: _changed(value[key], rng)}
        return _rekeyed(value, key, rng)
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int) and type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-8, -4, -1, 1, 2, 4, 8, 1000))
    if rng.random() < 0.01:
        return _nested(rng.choice((100, 900, 5000)), rng)
    return rng.choice(_ODD)


def _rekeyed(table: dict[str, Any], key: str, rng: random.Random) -> dict[str, Any]:
    match rng.randrange(4):
        case 0:
            return {k: v for k, v in table.items() if k != key}
        case 1:
            odd = rng.choice([each for each in _ODD if isinstance(each, str)])
            return {(odd if k == key else k): v for k, v in table.items()}
        case 2:
            return {**table, f"{key}{rng.choice(('', '.', '_', '.x', 'é'))}": rng.choice(_ODD)}
        case _:
            other = rng.choice(list(table))
            return {**table, key: table[other], other: table[key]}


def _nested(depth: int, rng: random.Random) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _doubled(text: str, rng: random.Random) -> str:
    """A key that occurs twice, which no dictionary can hold."""
    if '":' not in text:
        return text
    key = rng.choice([part.rpartition('"')[2] for part in text.split('":')[:-1]])
    return text.replace("{", f'{{"{key}":{json.dumps(rng.choice(_ODD))},', 1)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    run = rng.choice((1, 1, 2, 4, 8, 64))
    match rng.randrange(7):
        case 0:
            return content[:at] + rng.randbytes(run) + content[at + run :]
        case 1:
            return content[:at] + rng.randbytes(run) + content[at:]
        case 2:
            return content[:at] + content[at + run :]
        case 3:
            return content[:at]
        case 4:
            other = rng.randrange(len(content) + 1)
            return content[:at] + content[other : other + run] + content[at:]
        case 5:
            return rng.choice(_WORDS).to_bytes(8, "little") + content[8:]
        case _:
            odd = json.dumps(rng.choice(_ODD)).encode("utf-8", "surrogatepass")
            return content[:at] + odd + content[at:]


def _layers() -> Layers:
    return {
        Target("unet", "mid_block.attentions.0.proj_in"): Layer((4, 6, 1, 1), 1.0),
        Target("unet", "mid_block.resnets.0.conv1"): Layer((4, 3, 3, 3), 1.0),
    }


def _linear() -> Layers:
    block = "mid_block.attentions.0.transformer_blocks.0"
    return {
        Target("unet", f"{block}.attn1.to_q"): Layer((4, 6), 1.0),
        Target("unet", f"{block}.attn2.to_k"): Layer((5, 4), 1.0),
    }


def _kohya(folder: Path) -> None:
    adapter = adapter_for(_layers(), Plan(rank=2, dtype=np.float16))
    words = {"ss_network_alpha": "2", "ss_network_dim": "2", "sshs_model_hash": "00"}
    save_tensors(folder / _FILE, kohya_tensors(adapter), words)


def _diffusers(folder: Path) -> None:
    tensors = spelled(adapter_for(_linear(), Plan(rank=2)), ".lora_A.weight", ".lora_B.weight")
    header = {"unet.r": 2, "unet.lora_alpha": 4, "unet.rank_pattern": {"^a\\.b": 4}}
    save_tensors(folder / PIPELINE, tensors, {HEADER_KEY: json.dumps(header)})


def _peft(folder: Path) -> None:
    config = {"rank_pattern": {"(?:a|b)": 2}, "alpha_pattern": {"to_q": 2}}
    metadata = {COMPONENT_KEY: "unet"}
    peft_folder(folder, adapter_for(_linear(), Plan(rank=2)), config=config, metadata=metadata)


def _manifest(folder: Path) -> None:
    tensor = TensorEntry(dtype="float32", shape=(2, 3), sha256="ab" * 32)
    entries = {
        "a.safetensors": FileEntry(sha256="cd" * 32, size_bytes=9, tensors={"a": tensor}),
        "b/c.json": FileEntry(sha256="ef" * 32, size_bytes=3),
    }
    bases = {"a.safetensors": {"unet": "01" * 32}}
    evidence = {"record": "23" * 32}
    manifest = Manifest(files=entries, adapters={"a": "45" * 32}, bases=bases, evidence=evidence)
    write_manifest(folder, manifest)


def _record(folder: Path) -> None:
    whole = made_up_record()
    curves = whole.training and whole.training.curves[:2]
    ranks = whole.training and whole.training.ranks[:1]
    training = whole.training and whole.training.model_copy(
        update={"curves": curves, "ranks": ranks}
    )
    changes = {"aggregates": whole.aggregates[:2], "spectra": (), "training": training}
    write_record(folder, whole.model_copy(update=changes))


def _config(folder: Path) -> None:
    table = {"model_type": "clip", "auto_map": {"AutoModel": "a.B"}, "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(table))


def _read_tensors(folder: Path) -> None:
    path = folder / _FILE
    try:
        file = TensorFile(path)
    finally:
        list(read_header(path).blanks())
    for array in file.values():
        array.sum()


def _read_adapter(name: str) -> Callable[[Path], object]:
    return lambda folder: open_adapter(folder / name if name else folder)


def _scan(name: str) -> Callable[[Path], object]:
    return lambda folder: scan([folder / name], rules=_rules())


_rules = cache(all_rules)


_FILE = "lora.safetensors"

READERS = (
    Reader(name="header", kind="safetensors", file=_FILE, prepare=_kohya, read=_read_tensors),
    Reader(name="kohya", kind="safetensors", file=_FILE, prepare=_kohya, read=_read_adapter(_FILE)),
    Reader(
        name="diffusers",
        kind="safetensors",
        file=PIPELINE,
        prepare=_diffusers,
        read=_read_adapter(PIPELINE),
    ),
    Reader(name="peft", kind="safetensors", file=WEIGHTS, prepare=_peft, read=_read_adapter("")),
    Reader(name="peft_config", kind="json", file=CONFIG, prepare=_peft, read=_read_adapter("")),
    Reader(name="manifest", kind="json", file=MANIFEST, prepare=_manifest, read=read_manifest),
    Reader(name="record", kind="json", file=RECORD_FILE, prepare=_record, read=read_record),
    Reader(
        name="rows",
        kind="lines",
        file=ROWS_FILE,
        prepare=lambda folder: write_made_up_run(folder, pictures=0),
        read=lambda folder: read_rows(folder / ROWS_FILE),
    ),
    Reader(
        name="config",
        kind="json",
        file="config.json",
        prepare=_config,
        read=_scan("config.json"),
    ),
    Reader(name="scan", kind="safetensors", file=_FILE, prepare=_kohya, read=_scan(_FILE)),
    Reader(name="scan_peft", kind="json", file=CONFIG, prepare=_peft, read=_scan("")),
)
"""Every reader of bytes that come from outside."""
