"""How harmful an import is, by the lists of picklescan and a few of ours."""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from loricate.integrity._opcodes import Import
from loricate.integrity.finding import Severity

__all__ = ["graded"]

_ALLOWED = {("torch._utils", "_rebuild_parameter")}
# Picklescan does not list these, which import, build or load code of the caller's choice as well.
_RUNNERS = {
    *("importlib", "imp", "_imp", "zipimport", "marshal", "code", "codeop"),
    *("dill", "cloudpickle", "torch.hub"),
}
_RUNNING = {
    *(("builtins", "__import__"), ("__builtin__", "__import__")),
    *(("types", "FunctionType"), ("types", "CodeType")),
    *(("torch", "load"), ("torch.jit", "load"), ("numpy", "load"), ("joblib", "load")),
}


def graded(imports: Iterable[Import]) -> dict[Import, Severity]:
    """Imports that are not allowed, those known to be harmful first.

    Args:
        imports: What is imported.
    """
    stream = b"".join(_as_text(each.module) + _as_text(each.name) + b"\x93" for each in imports)
    with _silenced():
        result = scan_pickle_bytes(io.BytesIO(b"\x80\x04" + stream + b"."), "file", strict=False)
    # Strict is what is not allowed, whether or not it is known to be harmful.
    found = {
        Import(each.module, each.name): each.safety is SafetyLevel.Dangerous
        or _runs(each.module, each.name)
        for each in result.globals
        if each.safety is not SafetyLevel.Innocuous and (each.module, each.name) not in _ALLOWED
    }
    ordered = sorted(found.items(), key=lambda item: (not item[1], item[0]))
    return {each: Severity.CRITICAL if is_known else Severity.HIGH for each, is_known in ordered}


def _runs(module: str, name: str) -> bool:
    parts = module.split(".")
    packages = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return (module, name) in _RUNNING or not _RUNNERS.isdisjoint(packages)


def _as_text(name: str) -> bytes:
    text = name.encode("utf-8", "surrogatepass")
    return b"X" + len(text).to_bytes(4, "little") + text


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what picklescan logs from being printed."""
    log = logging.getLogger("picklescan")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled
