"""Loading without bars and advice on stderr: progress belongs to the observer."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

__all__ = ["quiet"]

_LIBRARIES = (diffusers_logging, transformers_logging)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers and transformers below errors inside the block."""
    before = [library.get_verbosity() for library in _LIBRARIES]
    had_bars = [library.is_progress_bar_enabled() for library in _LIBRARIES]
    for library in _LIBRARIES:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bars in zip(_LIBRARIES, before, had_bars, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
