"""Pickles as they lie in model files: 14 that call something, two that do not, and some disguises.

The calls are harmless ones of modules that could do harm, such as ``os.getcwd()``. The first
sixteen are those of the detection table that pickle scanners are compared by.
"""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

from loricate.integrity.finding import Severity
from loricate.testing.corpora._case import Build, Case

__all__ = ["BENIGN", "DISGUISED", "TABLE", "call", "legacy_torch", "zip_torch"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WEIGHTS = {"weight": [0.0, 1.0], "epoch": 3}


def call(module: str, function: str, *arguments: str) -> bytes:
    """A pickle that calls a function with texts when it is loaded.

    Args:
        module: Where the function is.
        function: Its name.
        arguments: What it is called with.
    """
    texts = b"".join(b"X" + len(each).to_bytes(4, "little") + each.encode() for each in arguments)
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"(" + texts + b"tR."


def legacy_torch(payload: bytes) -> bytes:
    """A file of torch before 1.6: a magic number, a version, the platform, then the object.

    Args:
        payload: The pickle of the object, the fourth of the file.
    """
    platform = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    heads = (pickle.dumps(head, 2) for head in (_LEGACY_MAGIC, 1001, platform))
    return b"".join(heads) + payload + pickle.dumps([], 2)


def zip_torch(path: Path, payload: bytes) -> Path:
    """A file of torch since 1.6: a zip with the pickle of the object in it.

    Args:
        path: Where it goes.
        payload: The pickle.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return path


def _plain(payload: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(payload)

    return write


def _legacy(payload: bytes) -> Callable[[Path], None]:
    return _plain(legacy_torch(payload))


def _zipped(payload: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        zip_torch(path, payload)

    return write


def _at(name: str, write: Callable[[Path], None]) -> Build:
    def build(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return build


def _hostile(
    name: str, file: str, write: Callable[[Path], None], severity: Severity = Severity.CRITICAL
) -> Case:
    return Case(name=name, build=_at(file, write), expects={"pickle": severity})


_OS = call("os", "getcwd")
_IMPORTLIB = call("importlib", "import_module", "math")
_TENSORS = pickle.dumps(_WEIGHTS, 2)

TABLE = (
    _hostile("os_in_a_plain_pickle", "a.pkl", _plain(_OS)),
    _hostile("os_in_a_legacy_bin", "a.bin", _legacy(_OS)),
    _hostile("os_in_a_legacy_ckpt", "a.ckpt", _legacy(_OS)),
    _hostile("plain_pickle_named_ckpt", "b.ckpt", _plain(_OS)),
    _hostile("plain_pickle_named_safetensors", "a.safetensors", _plain(_OS)),
    _hostile("importlib_in_a_plain_pickle", "b.pkl", _plain(_IMPORTLIB)),
    _hostile("importlib_in_a_legacy_bin", "b.bin", _legacy(_IMPORTLIB)),
    _hostile("marshal", "c.pkl", _plain(call("marshal", "loads", "N"))),
    _hostile("torch_hub", "d.pkl", _plain(call("torch.hub", "get_dir"))),
    _hostile(
        "unknown_module", "e.pkl", _plain(call("a_module_nobody_knows", "thing")), Severity.HIGH
    ),
    _hostile("ctypes", "f.pkl", _plain(call("ctypes", "get_errno"))),
    _hostile("builtins_import", "g.pkl", _plain(call("builtins", "__import__", "math"))),
    _hostile("os_in_a_zip", "a.pt", _zipped(_OS)),
    _hostile("os_in_a_zip_named_safetensors", "b.safetensors", _zipped(_OS)),
)
"""The 14 hostile files of the detection table."""

BENIGN = (
    Case(name="benign_plain_pickle", build=_at("h.pkl", _plain(_TENSORS))),
    Case(name="benign_zip", build=_at("c.pt", _zipped(_TENSORS))),
)
"""The two benign files of the detection table."""


def _peft_bin(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    zip_torch(folder / "adapter_model.bin", _OS)
    return folder


def _component_bin(folder: Path) -> Path:
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(legacy_torch(_OS))
    return folder


def _stack_global(folder: Path) -> Path:
    """Names that come from the memo, as protocol 4 allows."""
    texts = b"\x8c\x02os\x94\x8c\x06getcwd\x94"
    (folder / "a.pkl").write_bytes(b"\x80\x04" + texts + b"0" + b"0" + b"h\x00h\x01\x93)R.")
    return folder / "a.pkl"


_DISGUISES: dict[str, tuple[str, Callable[[Path], None]]] = {
    # Written before the opcode that has a name: protocol 0.
    "inst_opcode": ("a.pkl", _plain(b"(ios\ngetcwd\n.")),
    # Loaders call before they notice that the rest is no pickle.
    "call_before_garbage": ("a.pkl", _plain(_OS[:-1] + b"\xff\xff\xff")),
    "call_in_a_second_pickle": ("a.pkl", _plain(_TENSORS + _OS)),
    "os_in_a_zip_named_json": ("config.json", _zipped(_OS)),
    "plain_pickle_without_extension": ("weights", _plain(_OS)),
    "getattr_of_a_builtin": ("a.pkl", _plain(call("builtins", "getattr", "a", "b"))),
    "os_by_its_other_name": ("a.pkl", _plain(call("posix", "getcwd"))),
    "pip_main": ("a.pkl", _plain(call("pip", "main"))),
}

DISGUISED = (
    *(_hostile(name, *rest) for name, rest in _DISGUISES.items()),
    Case(
        name="names_from_the_memo",
        build=_stack_global,
        expects={"pickle": Severity.CRITICAL},
    ),
    Case(
        name="peft_folder_with_a_bin",
        build=_peft_bin,
        expects={"pickle": Severity.CRITICAL},
    ),
    Case(
        name="component_of_a_pipeline_as_bin",
        build=_component_bin,
        expects={"pickle": Severity.CRITICAL},
    ),
)
"""More ways in which a pickle may hide."""
