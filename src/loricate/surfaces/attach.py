"""Low-rank updates on the layers of a live module: attach, detach, merge, read out.

An update is a parametrization of the weight, ``weight + gain * B @ A``: every Linear and Conv2d
works, grouped ones too, a forward pass costs what the base costs, an attached module and a merged
one compute the same numbers, and detaching puts the very same tensors back.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError, nearest
from loricate.basics.seeds import derive_seed
from loricate.lowrank.factors import LowRank

__all__ = [
    "Attached",
    "LowRankUpdate",
    "attach",
    "attach_dense",
    "copied",
    "load",
    "matrix_shapes",
    "merged_copy",
    "pristine_copy",
    "target_layers",
]

Layer = nn.Linear | nn.Conv2d


@final
class LowRankUpdate(nn.Module):
    """A weight plus a gained low-rank update.

    Args:
        a: Right factor, (rank, d_in).
        b: Left factor, (d_out, rank).
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.gain = 1.0

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.a.shape[0]

    @property
    def alive(self) -> Tensor:
        """Which components are not zero."""
        return (self.b.detach().abs().amax(0) > 0) & (self.a.detach().abs().amax(1) > 0)

    @property
    def n_alive(self) -> int:
        """Number of components that are not zero."""
        return int(self.alive.sum())

    @property
    def n_parameters(self) -> int:
        """Trained entries of the components that are not zero."""
        trained = [p for p in (self.a, self.b.T) if p.requires_grad]
        return self.n_alive * sum(p.shape[1] for p in trained)

    def sizes(self) -> Tensor:
        """Frobenius norm of each component."""
        columns, rows = self.b.detach().square().sum(0), self.a.detach().square().sum(1)
        return (columns * rows).sqrt()

    def matrix(self) -> Tensor:
        """The update as a matrix, (d_out, d_in), without the gain."""
        return self.b @ self.a

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight; the weight itself at gain 0."""
        if self.gain == 0.0:
            return weight
        return weight + (self.gain * self.matrix()).to(weight.dtype).view_as(weight)


@final
@dataclass(frozen=True)
class Attached:
    """Updates attached to a module.

    Args:
        module: The module they sit on.
        updates: Update of each layer, by dotted path.
    """

    module: nn.Module
    updates: Mapping[str, LowRankUpdate]

    def parameters(self) -> list[nn.Parameter]:
        """Trainable factors, in the order of the layers."""
        return [p for update in self.updates.values() for p in (update.a, update.b)]

    @property
    def n_parameters(self) -> int:
        """Number of entries of all factors."""
        return sum(p.numel() for p in self.parameters())

    def base_weights(self) -> dict[str, Tensor]:
        """Frozen weights under the updates, as matrices."""
        return {path: _original(self.module, path).flatten(1) for path in self.updates}

    def set_gain(self, gain: float) -> None:
        """Multiply every update; 0 is the exact off switch."""
        for update in self.updates.values():
            update.gain = gain

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base, bit for bit, inside the block."""
        gains = {path: update.gain for path, update in self.updates.items()}
        self.set_gain(0.0)
        try:
            yield
        finally:
            for path, gain in gains.items():
                self.updates[path].gain = gain

    def detach(self) -> nn.Module:
        """Take the updates off; the module has its own tensors back.

        Returns:
            The module.
        """
        for path in self.updates:
            _remove(_layer(self.module, path), keep=False)
        return self.module

    def merge(self) -> nn.Module:
        """Write the updates into the weights.

        Returns:
            The module, with plain layers.
        """
        for path in self.updates:
            _remove(_layer(self.module, path), keep=True)
        return self.module

    @torch.no_grad()
    def adapter(self, component: str = "model") -> Adapter:
        """A copy of the updates as a value, with the gain folded in.

        Args:
            component: Part of the pipeline the module is.

        Returns:
            Adapter of float32 CPU factors. Components that are exactly zero are left out.
        """
        updates = {}
        for path, update in self.updates.items():
            if factors := _factors(update):
                kernel = _kernel(_original(self.module, path))
                updates[Target(component, path)] = Update(factors, kernel)
        return Adapter(updates)


def copied(attached: Attached) -> Attached:
    """The same updates on a copy of their module."""
    twin = copy.deepcopy(attached.module)
    return Attached(twin, {path: _update_of(twin, path) for path in attached.updates})


def merged_copy(attached: Attached) -> nn.Module:
    """A copy of the module with the updates written into plain weights."""
    return copied(attached).merge()


def pristine_copy(attached: Attached) -> nn.Module:
    """A copy of the module as it was before the updates."""
    return copied(attached).detach()


def target_layers(module: nn.Module, prefixes: tuple[str, ...] = ("",)) -> dict[str, Layer]:
    """Linear and Conv2d layers that an adapter may update.

    Args:
        module: Any module.
        prefixes: Dotted prefixes of the paths wanted; all by default.

    Returns:
        Layers by dotted path, in order of definition.

    Raises:
        ConfigError: No layer is there to update.
    """
    layers = {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and path.startswith(prefixes)
    }
    if not layers:
        expected = f"a module with Linear or Conv2d layers below {', '.join(prefixes)!r}"
        raise ConfigError(ConfigProblem(key="module", expected=expected, got=type(module).__name__))
    return layers


def matrix_shapes(layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
    """Shape of each weight as a matrix, (d_out, d_in)."""
    return {path: tuple(layer.weight.flatten(1).shape) for path, layer in layers.items()}  # type: ignore[misc]


def attach(module: nn.Module, ranks: Mapping[str, int], *, seed: int) -> Attached:
    """Attach trainable updates that are zero at first.

    Args:
        module: Base; its weights are frozen by the caller, and never written to.
        ranks: Rank of each layer; 0 leaves the layer out.
        seed: Seed of the right factors.

    Returns:
        The updates. ``A`` is uniform as PEFT draws it, ``B`` is zero.

    Raises:
        ConfigError: A layer's weight is computed from something else.
    """
    pairs = {}
    for path, rank in ranks.items():
        if rank == 0:
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "attach", path))
        d_out, d_in = _layer(module, path).weight.flatten(1).shape
        bound = d_in**-0.5  # kaiming_uniform with a = sqrt(5)
        a = (2 * torch.rand(rank, d_in, generator=generator) - 1) * bound
        pairs[path] = a, torch.zeros(d_out, rank)
    return _attached(module, pairs)


def attach_dense(module: nn.Module, paths: Iterable[str]) -> Attached:
    """Attach updates of full rank: full fine-tuning, as an upper line for adapters.

    Args:
        module: Base, frozen by the caller.
        paths: Layers to update.

    Returns:
        The updates; the left factors are the dense updates, the right ones a frozen identity.
    """
    pairs = {}
    for path in paths:
        d_out, d_in = _layer(module, path).weight.flatten(1).shape
        pairs[path] = torch.eye(d_in), torch.zeros(d_out, d_in)
    attached = _attached(module, pairs)
    for update in attached.updates.values():
        update.a.requires_grad_(False)
    return attached


def load(module: nn.Module, adapter: Adapter, component: str = "model") -> Attached:
    """Attach the updates of an adapter.

    Args:
        module: Base of the component.
        adapter: Its updates; other components are ignored.
        component: Part of the pipeline the module is.

    Returns:
        The updates, frozen.

    Raises:
        ConfigError: The adapter has nothing for the component, or names a layer it lacks.
        ShapeError: A layer has another shape than its update.
    """
    layers = target_layers(module)
    wanted = adapter.modules(component)
    if not wanted:
        expected = f"an adapter with updates for {component!r}"
        raise ConfigError(ConfigProblem(key="adapter", expected=expected, got=adapter.components))
    for path, update in wanted.items():
        _require_fit(path, update, layers)
    factors = {path: update.factors.baked() for path, update in wanted.items()}
    attached = _attached(
        module, {path: (torch.as_tensor(f.A), torch.as_tensor(f.B)) for path, f in factors.items()}
    )
    for parameter in attached.parameters():
        parameter.requires_grad_(False)
    return attached


def _require_fit(path: str, update: Update, layers: Mapping[str, Layer]) -> None:
    if path not in layers:
        close = nearest(path, layers)
        problem = ConfigProblem(
            key="adapter", expected="a layer of the model", got=path, nearest=close
        )
        raise ConfigError(problem)
    shape = tuple(layers[path].weight.shape)
    if shape != update.weight_shape:
        raise ShapeError(f"an update of shape {shape}", update.weight_shape, where=path)


def _attached(module: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Attached:
    """Updates from factors, on every layer or, where one does not allow it, on none."""
    for path in pairs:
        layer = _layer(module, path)
        if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
            expected = "a layer whose weight is a plain parameter; take off what computes it"
            raise ConfigError(ConfigProblem(key="module", expected=expected, got=path))
    return Attached(module, {path: _register(module, path, *pair) for path, pair in pairs.items()})


def _register(module: nn.Module, path: str, a: Tensor, b: Tensor) -> LowRankUpdate:
    layer = _layer(module, path)
    weight = layer.weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    update = LowRankUpdate(a.to(weight.device, dtype), b.to(weight.device, dtype))
    parametrize.register_parametrization(layer, "weight", update)
    return update


def _remove(layer: Layer, *, keep: bool) -> None:
    # Copies of a layer share its parametrized class, which torch edits when it takes one off.
    shared = type(layer)
    layer.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
    merged = layer.weight.detach().clone() if keep else None
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    if merged is not None:
        # A new parameter, as another layer or module may hold the old one too.
        layer.weight = nn.Parameter(merged, requires_grad=layer.weight.requires_grad)
    # Taking a parametrization off moves the weight behind the bias; put the order back.
    for name in [name for name in layer._parameters if name != "weight"]:
        layer._parameters[name] = layer._parameters.pop(name)


def _layer(module: nn.Module, path: str) -> Layer:
    layer = module.get_submodule(path)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer


def _update_of(module: nn.Module, path: str) -> LowRankUpdate:
    parametrizations = module.get_submodule(path).parametrizations
    return parametrizations.weight[0]  # type: ignore[union-attr, index, return-value]


def _original(module: nn.Module, path: str) -> Tensor:
    parametrizations = module.get_submodule(path).parametrizations
    return parametrizations.weight.original  # type: ignore[union-attr, return-value]


def _kernel(weight: Tensor) -> tuple[int, int, int] | None:
    return None if weight.ndim == 2 else tuple(weight.shape[1:])  # type: ignore[return-value]


def _factors(update: LowRankUpdate) -> LowRank | None:
    alive = update.alive
    if not bool(alive.any()) or update.gain == 0.0:
        return None
    a = update.a[alive].detach().float().cpu().clone()
    b = update.b[:, alive].detach().float().cpu().clone()
    return LowRank(a, b, float(update.gain)).baked()
