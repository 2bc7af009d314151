"""What rules read of a file; what cannot be read is raised, and thereby not verified."""

from loricate.adapters.adapter import Adapter
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import UnsupportedError
from loricate.integrity._keys import is_adapter
from loricate.integrity.features import Features
from loricate.integrity.subject import Subject

__all__ = ["adapter_of", "features_of", "tensors_of"]


def tensors_of(subject: Subject) -> TensorFile:
    """Tensors of a safetensors file.

    Raises:
        LoricateError: What the strict reader refuses.
    """
    if subject.tensors is None:
        raise subject.refusal or _unread("tensors")
    return subject.tensors


def adapter_of(subject: Subject) -> Adapter | None:
    """The adapter in a file, or ``None`` where the file is something else.

    Raises:
        LoricateError: Why an adapter cannot be read.
    """
    if subject.adapter is not None:
        return subject.adapter.adapter
    if is_adapter(tensors_of(subject)):
        raise subject.adapter_refusal or _unread("an adapter")
    return None


def features_of(subject: Subject) -> Features | None:
    """Spectral features of an adapter, or ``None`` where the file is something else.

    Raises:
        LoricateError: Why an adapter cannot be read.
    """
    return None if adapter_of(subject) is None else subject.features


def _unread(what: str) -> UnsupportedError:
    return UnsupportedError(what, by="this rule")
