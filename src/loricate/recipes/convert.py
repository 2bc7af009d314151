"""An adapter file in another form, with the same update of every weight."""

from functools import partial
from pathlib import Path

from loricate.adapters.adapter import Update
from loricate.recipes._out import Destination
from loricate.recipes._rewriting import (
    Change,
    Observer,
    Rewriting,
    Written,
    in_single,
    stored_dtype,
)
from loricate.recipes._sources import open_source

__all__ = ["Destination", "Written", "convert"]


def convert(
    source: Path,
    destination: Destination,
    *,
    component: str | None = None,
    base: Path | None = None,
    observer: Observer = lambda stage, done, total: None,
) -> Written:
    """Write an adapter in another form. For a merged model see ``recipes.bake``.

    The scale goes into the factors in float32 or wider, and is rounded once.

    Args:
        source: File or folder in any form.
        destination: Where the adapter goes, in which form and dtype.
        component: Component of a file that does not say it, or the only one to convert.
        base: Model whose modules resolve names, and whose weights the updates have to fit.
        observer: Called with (stage, done, total) after every module.

    Returns:
        What was written, and what rounding cost.

    Raises:
        ConfigError: A name is unknown, the component is not stated, or the destination is taken.
        ShapeError: Factors do not belong together, or not to the base.
        UnsupportedError: It is no plain LoRA, or the form cannot hold it.
        NumericalError: A factor is not finite, or does not fit into the dtype.
        HostileFileError: A file is malformed.
        PrerequisiteError: There is no adapter, or no place to write.
    """
    found = open_source(source, component=component, base=base)
    rewriting = Rewriting(
        sources=(found,),
        destination=destination,
        base=base,
        metadata=found.adapter.metadata,
        observe=partial(observer, "convert"),
    )
    return rewriting.write({t: partial(_change, update) for t, update in found.adapter.items()})


def _change(update: Update) -> Change:
    factors = update.factors
    kept = factors if factors.scale == 1.0 else in_single(factors)
    return Change(update, kept, stored_dtype(update))
