"""The weighted sum of adapters, exact or at the rank that rules pick."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from loricate.adapters.adapter import Target, Update
from loricate.adapters.files import AdapterFile
from loricate.adapters.keys import BASE_DIGEST
from loricate.adapters.slots import without_ones
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError
from loricate.integrity.digest import stated_bases
from loricate.lowrank.merge import concat
from loricate.lowrank.rule_set import RuleSet
from loricate.lowrank.rules import RankRule
from loricate.recipes._out import Destination
from loricate.recipes._rewriting import (
    Change,
    Observer,
    Rewriting,
    Written,
    in_single,
    stored_dtype,
    truncated,
)
from loricate.recipes._sources import open_source

__all__ = ["combine"]


# How a source was made is not true of the sum.
_HISTORY = ("extracted_by_rule", "resized_by_rule", "combined_from")


class _Term(NamedTuple):
    path: Path
    update: Update
    weight: float


def combine(
    sources: Sequence[Path],
    destination: Destination,
    *,
    weights: Sequence[float] | None = None,
    rules: RuleSet | None = None,
    component: str | None = None,
    base: Path | None = None,
    observer: Observer = lambda stage, done, total: None,
) -> Written:
    """Write the weighted sum of the updates of several adapters, without cross terms.

    Without rules the factors are stacked, so that ranks add up and nothing is lost; with rules the
    sum is then brought to the best update of lower rank. A module that only some adapters update
    is summed over those.

    Args:
        sources: Files and folders in any form.
        destination: Where the sum goes; its form is that of the first source by default, its
            dtype the common one of the sources, or else float32.
        weights: Factor of each adapter; ``None`` means 1 for all.
        rules: How the ranks are chosen, for all components or for each; ``None`` keeps all.
        component: Component of files that do not say it, or the only one to combine.
        base: Model whose modules resolve names, and whose weights the updates have to fit.
        observer: Called with (stage, done, total) after every module.

    Returns:
        What was written, and the share of the energy that each module keeps.

    Raises:
        ConfigError: Not one weight for each adapter, a rule is missing or left over, or what
            ``convert`` refuses.
        ShapeError: Two adapters are for weights of different shapes.
        LoricateError: What ``convert`` refuses.
    """
    gains = _checked(weights, len(sources))
    found = tuple(open_source(path, component=component, base=base) for path in sources)
    terms = _terms(found, gains)
    if rules is not None:
        rules.check_parts({target.component for target in terms})
    rewriting = Rewriting(
        sources=found,
        destination=destination,
        base=base,
        metadata=_metadata(found, gains),
        observe=partial(observer, "combine"),
    )
    return rewriting.write(
        {
            target: partial(_change, target, listed, rules and rules.of(target.component))
            for target, listed in terms.items()
        }
    )


def _checked(weights: Sequence[float] | None, n_sources: int) -> Sequence[float]:
    gains = [1.0] * n_sources if weights is None else weights
    if len(gains) != n_sources or not all(map(math.isfinite, gains)) or not any(gains):
        expected = f"{n_sources} finite numbers, one for each adapter and not all 0"
        raise ConfigError(ConfigProblem(key="weights", expected=expected, got=weights))
    return gains


def _terms(found: Sequence[AdapterFile], gains: Sequence[float]) -> dict[Target, list[_Term]]:
    terms: dict[Target, list[_Term]] = {}
    for file, gain in zip(found, gains, strict=True):
        for target, update in file.adapter.items() if gain else ():
            terms.setdefault(target, []).append(_Term(file.path, update, gain))
    return terms


def _metadata(found: Sequence[AdapterFile], gains: Sequence[float]) -> dict[str, str]:
    """What all sources say alike, which bases they are for, and what the sum is made of."""
    first, *others = (file.adapter.metadata for file in found)
    common = {
        key: text
        for key, text in first.items()
        if key not in _HISTORY
        and not key.startswith(BASE_DIGEST)
        and all(other.get(key) == text for other in others)
    }
    pairs = zip(gains, found, strict=True)
    formula = " + ".join(f"{gain!r} * {each.path.name}" for gain, each in pairs)
    return {**common, **_bases(found), "combined_from": formula}


def _bases(found: Sequence[AdapterFile]) -> dict[str, str]:
    """Digest of the base of each component, where all that update it agree."""
    stated: dict[str, set[str | None]] = {}
    for file in found:
        digests = stated_bases(file.adapter)
        for component in file.adapter.components:
            stated.setdefault(component, set()).add(digests.get(component))
    return {
        f"{BASE_DIGEST}.{component}": text
        for component, texts in stated.items()
        if len(texts) == 1 and (text := texts.pop()) is not None
    }


def _change(target: Target, terms: Sequence[_Term], rule: RankRule | None) -> Change:
    first = terms[0]
    for term in terms[1:]:
        shape, got = first.update.weight_shape, term.update.weight_shape
        if without_ones(shape) != without_ones(got):
            raise ShapeError(
                f"an update of shape {shape} as in {str(first.path)!r}",
                got,
                where=f"{target} of {term.path}",
                hint="are they for the same base?",
            )
    total = Update(
        concat([in_single(term.update.factors) for term in terms], [term.weight for term in terms]),
        first.update.kernel,
    )
    dtype = stored_dtype(*(term.update for term in terms))
    if rule is None:
        return Change(total, total.factors, dtype)
    return truncated(total, rule, dtype)
