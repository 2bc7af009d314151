"""What a file is taken for by its name or its first bytes, in one place."""

from pathlib import Path

__all__ = ["CODE", "PICKLES", "WEIGHTS", "beginning_of", "code_in"]

PICKLES = (
    *(".bin", ".ckpt", ".pt", ".pth", ".th", ".pkl", ".pickle", ".joblib", ".dill"),
    *(".npy", ".npz"),
)
"""Files that somebody will load as pickles, or by a loader that may."""

WEIGHTS = (
    *(".safetensors", *PICKLES, ".gguf", ".ggml", ".onnx", ".h5", ".hdf5", ".keras"),
    *(".msgpack", ".pb", ".tflite", ".nemo", ".mlmodel", ".engine"),
)
"""Files that hold weights."""

CODE = {
    **dict.fromkeys((".py", ".pyw"), "Python code"),
    **dict.fromkeys((".pyc", ".pyo"), "compiled Python code"),
    **dict.fromkeys((".sh", ".bash", ".bat", ".cmd", ".ps1"), "a script of a shell"),
    **dict.fromkeys((".so", ".dll", ".dylib", ".pyd", ".exe"), "a program or library"),
    **dict.fromkeys((".js", ".html", ".htm"), "a page or script that a browser runs"),
}
"""Files that hold code, with what kind."""

_CODE_BEGINS = {
    b"\x7felf": "a program or library",
    b"mz": "a program or library",
    b"\xcf\xfa\xed\xfe": "a program or library",
    b"\xca\xfe\xba\xbe": "a program or library",
    b"\0asm": "a program of WebAssembly",
    b"#!": "a script",
    b"<!doctype html": "a page or script that a browser runs",
    b"<html": "a page or script that a browser runs",
}
_BEGINS = {
    **_CODE_BEGINS,
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched",
    b"{": "JSON",
}
_LONGEST = max(map(len, _BEGINS))


def beginning_of(path: Path) -> str | None:
    """What a file is by its first bytes, where they are known.

    Raises:
        OSError: The file cannot be read.
    """
    return _begun(path, _BEGINS)


def code_in(path: Path) -> str | None:
    """Kind of code in a file, by its name or its first bytes, or ``None``.

    Raises:
        OSError: The file cannot be read.
    """
    return CODE.get(path.suffix.lower()) or _begun(path, _CODE_BEGINS)


def _begun(path: Path, kinds: dict[bytes, str]) -> str | None:
    with path.open("rb") as file:
        beginning = file.read(_LONGEST).lower()
    return next((kind for magic, kind in kinds.items() if beginning.startswith(magic)), None)
