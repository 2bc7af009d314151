"""The low-rank part of what tuning changed in a model, as an adapter."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.tensors import to_storage
from loricate.basics.arrays import Array
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    LoricateError,
    PrerequisiteError,
    UnsupportedError,
)
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rule_set import RuleSet
from loricate.lowrank.sketch import Certificate, certified_svd
from loricate.recipes._out import Destination
from loricate.recipes._pairs import Pair, Pairs, open_pairs

__all__ = ["ExtractSpec", "ExtractedLayer", "Extraction", "extract", "extract_updates"]

_BY = "a LoRA"
_NAMED = 6
"""How many tensors an error names."""

# Each holds a layer in memory.
_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class ExtractSpec:
    """What to extract, and how well.

    Args:
        base: Model before tuning: a diffusers folder, the folder of one component, or a
            safetensors file.
        tuned: The same model after tuning, in any of these layouts.
        rules: How the ranks are chosen.
        component: Component to compare, and what a lone component of another name is; ``None``
            compares all that both models have.
        max_excess: Avoidable error allowed in a layer, as a share of the norm of its change. Where
            a sketch cannot prove that much, the layer is decomposed exactly.
        ignore_rest: Leave out changes that no low-rank update holds, instead of refusing.
        seed: Seed of the sketches.
        device: Torch device to compute on; ``None`` computes with numpy.
    """

    base: Path
    tuned: Path
    rules: RuleSet
    component: str | None = None
    max_excess: float = 0.02
    ignore_rest: bool = False
    seed: int = 0
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExtractedLayer:
    """What became of the change of one layer.

    Args:
        component: Part of the model, such as ``unet``.
        module: Dotted path inside the component.
        kind: ``linear`` or ``conv``.
        shape: Shape of the weight.
        norm: Frobenius norm of the change.
        rank: Rank of its update; 0 means that the rule keeps nothing of it.
        retained_energy: Certified lower bound of the share of the squared norm that is kept.
        relative_error: Certified upper bound of the error, as a share of the norm.
        excess: Upper bound of what a better update of this rank would save, as a share of the norm.
        exact: Whether the change was decomposed in full and not sketched.
    """

    component: str
    module: str
    kind: str
    shape: tuple[int, ...]
    norm: float
    rank: int
    retained_energy: float
    relative_error: float
    excess: float
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """An adapter and how far it is from the tuned model.

    Args:
        adapter: Updates of the layers that changed, evenly split between the factors.
        layers: Every layer that changed.
        n_unchanged: Layers that did not.
        rest: Tensors whose change the adapter does not hold: norms, biases, tables, and tensors
            only one model has.
        skipped: Parts that were not compared, because only one model has them or no component
            owns them.
    """

    adapter: Adapter
    layers: tuple[ExtractedLayer, ...]
    n_unchanged: int
    rest: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def retained_energy(self) -> float:
        """Certified lower bound of the share kept of the squared norm of all changed layers."""
        total = sum(layer.norm**2 for layer in self.layers)
        return sum(layer.retained_energy * layer.norm**2 for layer in self.layers) / total


def extract(
    spec: ExtractSpec,
    out: Path,
    *,
    form: str = "peft",
    observer: Callable[[str, int, int], None] | None = None,
) -> Extraction:
    """Write the low-rank part of what tuning changed as an adapter file.

    Args:
        spec: What to extract.
        out: Where to write; appears complete or not at all.
        form: ``peft``, ``diffusers`` or ``kohya``.
        observer: Called with (stage, done, total) after every layer.

    Returns:
        The adapter, and how far it is from the tuned model.

    Raises:
        LoricateError: What ``extract_updates`` refuses.
        ConfigError: The destination is taken or does not suit the form, or the form holds one
            component and several changed.
        UnsupportedError: The form cannot hold the adapter.
        PrerequisiteError: There is no place to write.
    """
    destination = Destination(path=out, form=form)
    destination.require_free([spec.base, spec.tuned])
    models = _open(spec)
    _require_form(destination, models)
    found = _extraction(models, spec, observer)
    destination.save(found.adapter)
    return found


def extract_updates(
    spec: ExtractSpec, *, observer: Callable[[str, int, int], None] | None = None
) -> Extraction:
    """The low-rank part of what tuning changed, and how far it is from the whole.

    Reads two tensors of each model at a time; only the factors stay in memory.

    Args:
        spec: What to extract.
        observer: Called with (stage, done, total) after every layer.

    Raises:
        ConfigError: The models have no component in common or different layers, or a rule is
            missing or left over.
        ShapeError: A tensor has another shape after tuning.
        NumericalError: A weight holds NaN or infinity.
        UnsupportedError: Nothing changed, or something that no low-rank update holds, or a layer
            is stored in eight bits.
        PrerequisiteError: There are no safetensors weights, or no such device.
        HostileFileError: A file is malformed.
    """
    return _extraction(_open(spec), spec, observer)


def _open(spec: ExtractSpec) -> Pairs:
    if spec.device is not None:
        _require_device(spec.device)
    models = open_pairs(spec.base, spec.tuned, spec.component)
    spec.rules.check_parts(models.components)
    return models


def _require_form(destination: Destination, models: Pairs) -> None:
    try:
        destination.require_components(models.components)
    except LoricateError:
        # Perhaps some did not change, which only a look at all of their layers can tell.
        layers = [pair for pair in models.pairs if pair.is_layer]
        destination.require_components(
            [
                component
                for component in models.components
                if any(pair.component == component and pair.is_changed for pair in layers)
            ]
        )


def _extraction(
    models: Pairs, spec: ExtractSpec, observer: Callable[[str, int, int], None] | None
) -> Extraction:
    rest = _rest(models, ignore=spec.ignore_rest)
    layers = [pair for pair in models.pairs if pair.is_layer]
    found: dict[Target, ExtractedLayer] = {}
    updates: dict[Target, Update] = {}
    # One reads and subtracts while the other multiplies, all of it without Python's lock.
    with ThreadPoolExecutor(_WORKERS if spec.device is None else 1) as pool:
        changes = pool.map(partial(_factors, spec), layers)
        for done, (pair, change) in enumerate(zip(layers, changes, strict=True), start=1):
            if change is not None:
                factors, certificate = change
                found[pair.target] = _report(pair, certificate)
                if factors.rank:
                    updates[pair.target] = Update(factors, pair.kernel)
            if observer is not None:
                observer("extract", done, len(layers))
    if not updates:
        raise _nothing(len(found))
    return Extraction(
        adapter=Adapter(updates, {"extracted_by_rule": str(spec.rules)}),
        layers=tuple(found.values()),
        n_unchanged=len(layers) - len(found),
        rest=rest,
        skipped=models.skipped,
    )


def _rest(models: Pairs, *, ignore: bool) -> tuple[str, ...]:
    """Names of changed tensors that are no layers; refused before any work on the layers."""
    changed = [f"{p.component}/{p.name}" for p in models.pairs if not p.is_layer and p.is_changed]
    rest = (*changed, *models.unpaired)
    if rest and not ignore:
        more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        what = f"a change of {', '.join(rest[:_NAMED])}{more}"
        hint = "no low-rank update holds it; leave it out with --ignore-rest"
        raise UnsupportedError(what, by=_BY, hint=hint)
    return rest


def _nothing(n_changed: int) -> UnsupportedError:
    if n_changed:
        what, hint = f"rank 0 for all {n_changed} changed layers", "choose a rule that keeps more"
    else:
        what, hint = "models whose layers are the same", "check that --tuned is another model"
    return UnsupportedError(what, by=_BY, hint=hint)


def _factors(spec: ExtractSpec, pair: Pair) -> tuple[LowRank, Certificate] | None:
    """The update of a layer, if that changed."""
    if not pair.is_changed:
        return None
    difference = _on_device(pair.difference(), spec.device)
    rule = spec.rules.of(pair.component)
    factors, certificate = certified_svd(
        difference, rule, max_excess=spec.max_excess, seed=spec.seed
    )
    return LowRank(to_storage(factors.A), to_storage(factors.B)), certificate


def _require_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        expected = "a device of torch, such as cpu, cuda or cuda:1"
        raise ConfigError(ConfigProblem(key="device", expected=expected, got=name)) from None
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, RuntimeError) as error:
        raise PrerequisiteError(f"device {name!r}", remedy="use --device cpu") from error


def _on_device(matrix: Array, device: str | None) -> Array:
    if device is None:
        return matrix
    import torch

    return torch.from_numpy(matrix).to(device)


def _report(pair: Pair, certificate: Certificate) -> ExtractedLayer:
    error = min(1.0, certificate.relative_error)
    return ExtractedLayer(
        component=pair.target.component,
        module=pair.target.module,
        kind="linear" if pair.kernel is None else "conv",
        shape=pair.shape,
        norm=certificate.norm,
        rank=certificate.rank,
        retained_energy=1.0 - error**2,
        relative_error=error,
        excess=certificate.excess,
        exact=certificate.exact,
    )
