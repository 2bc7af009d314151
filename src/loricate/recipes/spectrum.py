"""Singular spectra of every Linear and Conv2d weight of a model, and the rank each rule keeps."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loricate.adapters.weights import Weights, open_model
from loricate.basics.arrays import dtype_name, to_numpy
from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.lowrank.rules import RankRule, certified_error
from loricate.lowrank.spectrum import effective_rank, singular_values, stable_rank

__all__ = ["TABLES", "KeptRank", "WeightSpectrum", "spectrum"]

TABLES = ("token_embedding", "position_embedding", "embed_tokens", "shared", "wte", "wpe")
"""Tables of vectors, which have two axes but are never multiplied with."""

_FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class KeptRank:
    """What a rule keeps of one weight.

    Args:
        rank: Number of leading components.
        relative_error: Certified upper bound of the relative Frobenius error of the rest.
        parameter_share: Entries of the factors over entries of the weight; above 1 the factors
            are larger than the weight.
    """

    rank: int
    relative_error: float
    parameter_share: float


@dataclass(frozen=True, kw_only=True)
class WeightSpectrum:
    """Singular spectrum of one weight.

    Args:
        component: Part of the model, such as ``vae``.
        module: Dotted path inside the component.
        kind: ``linear`` or ``conv``.
        shape: Shape of the weight.
        values: All singular values in descending order, kernels flattened behind their first
            axis.
        stable_rank: Squared Frobenius norm over squared spectral norm.
        effective_rank: Exponential of the entropy of the normalized spectrum.
        kept: What each rule keeps, by the written form of the rule.
    """

    component: str
    module: str
    kind: str
    shape: tuple[int, ...]
    values: tuple[float, ...]
    stable_rank: float
    effective_rank: float
    kept: Mapping[str, KeptRank]

    @property
    def spectral_norm(self) -> float:
        """Largest singular value."""
        return self.values[0]


def spectrum(
    model: Path,
    *,
    rules: Sequence[RankRule],
    component: str = "all",
    observer: Callable[[str, int, int], None] | None = None,
) -> tuple[WeightSpectrum, ...]:
    """Spectra of a model on disk, in the order of its files.

    Args:
        model: A diffusers folder, the folder of one component, or a safetensors file.
        rules: Rules whose ranks are wanted.
        component: Component to look at, or ``all``.
        observer: Called with (stage, done, total) after every weight.

    Returns:
        One entry for each weight.

    Raises:
        ConfigError: The model has no such component.
        PrerequisiteError: There are no safetensors weights.
        NumericalError: A weight holds NaN or infinity.
    """
    components = open_model(model)
    if component != "all":
        components = {component: _component(components, component)}
    names = [
        (part, weights, name) for part, weights in components.items() for name in _matrices(weights)
    ]
    found = []
    for done, (part, weights, name) in enumerate(names, start=1):
        found.append(_spectrum_of(part, name, weights, rules))
        if observer is not None:
            observer("singular values", done, len(names))
    return tuple(found)


def _component(components: Mapping[str, Weights], name: str) -> Weights:
    # A lone component is meant whatever its folder is called.
    if len(components) == 1 and name not in components:
        return next(iter(components.values()))
    if name in components:
        return components[name]
    expected = f"one of {', '.join(sorted(components))}"
    close = nearest(name, components)
    raise ConfigError(ConfigProblem(key="component", expected=expected, got=name, nearest=close))


def _matrices(weights: Weights) -> Iterator[str]:
    for name in weights:
        module, _, leaf = name.rpartition(".")
        is_table = module.rpartition(".")[2] in TABLES
        has_axes = len(weights.shape(name)) in (2, 4) and math.prod(weights.shape(name)) > 0
        is_matrix = leaf == "weight" and has_axes and not is_table
        if is_matrix and dtype_name(weights.dtype(name)) in _FLOATS:
            yield name


def _spectrum_of(
    component: str, name: str, weights: Weights, rules: Sequence[RankRule]
) -> WeightSpectrum:
    weight = weights[name]
    shape = (weight.shape[0], math.prod(weight.shape[1:]))
    s = singular_values(weight.reshape(shape))
    return WeightSpectrum(
        component=component,
        module=name.removesuffix(".weight"),
        kind="conv" if weight.ndim == 4 else "linear",
        shape=weight.shape,
        values=tuple(map(float, to_numpy(s))),
        stable_rank=stable_rank(s),
        effective_rank=effective_rank(s),
        kept={
            str(rule): KeptRank(
                rank=(rank := rule.rank(s, shape)),
                relative_error=certified_error(s, shape, rank),
                parameter_share=rank * sum(shape) / math.prod(shape),
            )
            for rule in rules
        },
    )
