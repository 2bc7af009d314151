"""An adapter of lower rank, exactly as good as its rank allows."""

from functools import partial
from pathlib import Path

from loricate.lowrank.rule_set import RuleSet
from loricate.recipes._out import Destination
from loricate.recipes._rewriting import (
    Observer,
    Rewriting,
    Written,
    stored_dtype,
    truncated,
)
from loricate.recipes._sources import open_source

__all__ = ["resize"]


def resize(
    source: Path,
    destination: Destination,
    *,
    rules: RuleSet,
    component: str | None = None,
    base: Path | None = None,
    observer: Observer = lambda stage, done, total: None,
) -> Written:
    """Write an adapter at the ranks that rules pick, with the factors split evenly.

    The singular values come from the factors, so no product is formed and no update of that rank
    is closer. Modules whose update is zero are left out.

    Args:
        source: File or folder in any form.
        destination: Where the adapter goes, in which form and dtype.
        rules: How the ranks are chosen, for all components or for each.
        component: Component of a file that does not say it, or the only one to resize.
        base: Model whose modules resolve names, and whose weights the updates have to fit.
        observer: Called with (stage, done, total) after every module.

    Returns:
        What was written, and the share of the energy that each module keeps.

    Raises:
        ConfigError: A rule is missing or left over, or what ``convert`` refuses.
        LoricateError: What ``convert`` refuses.
    """
    found = open_source(source, component=component, base=base)
    rules.check_parts(found.adapter.components)
    rewriting = Rewriting(
        sources=(found,),
        destination=destination,
        base=base,
        metadata={**found.adapter.metadata, "resized_by_rule": str(rules)},
        observe=partial(observer, "resize"),
    )
    changes = {
        target: partial(truncated, update, rules.of(target.component), stored_dtype(update))
        for target, update in found.adapter.items()
    }
    return rewriting.write(changes)
