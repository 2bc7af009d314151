"""Two-branch low-rank updates, the second switched on by a learned gate.

The update depends on the input, so it is no change of weights: it acts on a layer's output, can be
neither merged nor written as a plain LoRA file, and a user's own LoRA goes on top of it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn

from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    NumericalError,
    ShapeError,
    UnsupportedError,
)
from loricate.basics.seeds import derive_seed
from loricate.surfaces.attach import target_layers

__all__ = [
    "GatedAttached",
    "GatedUpdate",
    "Gates",
    "attach_gated",
    "is_gated",
    "load_gated",
    "watched",
    "whole_state",
]

_KIND = "loricate.gated_lora"
_HIDDEN = 16
_CLOSED = -2.0  # logit of an untrained gate: nearly shut, but not so far that it cannot learn


@final
class GatedUpdate(nn.Module):
    """What is added to the output of one Linear layer.

    ``u + gate * scale * B2 A x`` with ``u = scale * B A x`` and ``gate = sigmoid(MLP(u))``, one
    gate a token. It sits on the layer as a forward hook, so the layer keeps its weights and name.

    Args:
        a: Shared right factor, (rank, d_in).
        b: Left factor of the first branch, (d_out, rank).
        second: Left factor of the gated branch, (d_out, rank).
        mlp: From the first branch's output to the gate's logit.

    Source: LoRD [lord2026]. Deviates: scale is 1, as training absorbs it.
    """

    def __init__(self, a: Tensor, b: Tensor, second: Tensor, mlp: nn.Sequential) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.second = nn.Parameter(second)
        self.mlp = mlp
        self.gain = 1.0
        self.watchers: list[list[Tensor]] = []

    @property
    def rank(self) -> int:
        """Number of components of each branch."""
        return self.a.shape[0]

    @property
    def n_alive(self) -> int:
        """As ``rank``: no component is ever dropped."""
        return self.rank

    @property
    def n_parameters(self) -> int:
        """Entries of the factors and of the gate."""
        return sum(p.numel() for p in self.parameters())

    def sizes(self) -> Tensor:
        """Frobenius norm of each component of the first branch."""
        columns, rows = self.b.detach().square().sum(0), self.a.detach().square().sum(1)
        return (columns * rows).sqrt()

    def gate(self, x: Tensor) -> Tensor:
        """The gate of each token of a layer's input, in [0, 1]."""
        return self._gate(nn.functional.linear(nn.functional.linear(x, self.a), self.b))

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's output with the update; the output itself at gain 0."""
        if self.gain == 0.0:
            return output
        down = nn.functional.linear(inputs[0], self.a)
        first = nn.functional.linear(down, self.b)
        gate = self._gate(first)
        for watcher in self.watchers:
            watcher.append(gate.flatten(1).mean(1))
        return output + self.gain * (first + gate * nn.functional.linear(down, self.second))

    def _gate(self, first: Tensor) -> Tensor:
        logit: Tensor = self.mlp(first)
        return logit.sigmoid()


@final
@dataclass(frozen=True)
class Gates:
    """Gates seen during forward passes, with gradient.

    Args:
        seen: Mean over the tokens of each sample, one entry a layer.
    """

    seen: list[Tensor] = field(default_factory=list)

    def mean(self) -> Tensor:
        """Mean over the layers, one number a sample.

        Raises:
            UnsupportedError: Nothing gated was run.
        """
        if not self.seen:
            hint = "attach a gated adapter, and leave it on"
            raise UnsupportedError("reading gates", by="a module without gates", hint=hint)
        return torch.stack(self.seen).mean(0)


@final
@dataclass(frozen=True)
class GatedAttached:
    """Gated updates attached to a module.

    Args:
        module: The module they sit on; its weights are untouched.
        updates: Update of each layer, by dotted path.
        handles: What takes the updates off again.
    """

    module: nn.Module
    updates: Mapping[str, GatedUpdate]
    handles: tuple[Any, ...]

    def parameters(self) -> list[nn.Parameter]:
        """Trainable tensors, in the order of the layers."""
        return [p for update in self.updates.values() for p in update.parameters()]

    @property
    def n_parameters(self) -> int:
        """Number of their entries."""
        return sum(p.numel() for p in self.parameters())

    def base_weights(self) -> dict[str, Tensor]:
        """Weights of the layers the updates sit on."""
        return {path: _weight(self.module, path) for path in self.updates}

    def set_gain(self, gain: float) -> None:
        """Multiply both branches; 0 is the exact off switch."""
        for update in self.updates.values():
            update.gain = gain

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base, bit for bit, inside the block."""
        gains = [update.gain for update in self.updates.values()]
        self.set_gain(0.0)
        try:
            yield
        finally:
            for update, gain in zip(self.updates.values(), gains, strict=True):
                update.gain = gain

    def freeze(self) -> nn.Module:
        """Make the updates part of a model that others train on top of.

        Returns:
            The module, gated.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return self.module

    def detach(self) -> nn.Module:
        """Take the updates off.

        Returns:
            The module as it was.
        """
        for handle in self.handles:
            handle.remove()
        return self.module

    def save(self, path: str | Path) -> None:
        """Write the updates, whole or not at all; ``load_gated`` reads them.

        Args:
            path: A ``.safetensors`` file, in a layout of our own.

        Raises:
            NumericalError: A factor is NaN or infinite.
        """
        tensors = {
            f"{layer}|{name}": tensor.detach().float().cpu().contiguous()
            for layer, update in self.updates.items()
            for name, tensor in update.state_dict().items()
        }
        for name, tensor in tensors.items():
            _require_finite(name, tensor)
        gains = {path: update.gain for path, update in self.updates.items()}
        save_tensors(Path(path), tensors, {"kind": _KIND, "gains": json.dumps(gains)})

    def adapter(self, component: str = "model") -> NoReturn:
        """Refused: no adapter file can hold a gate.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "a gated adapter",
            by="plain LoRA files (peft, diffusers, kohya, merged weights)",
            hint="its second branch depends on the input, so it is no update of weights; "
            "keep it with save() and load_gated()",
        )


def attach_gated(module: nn.Module, ranks: Mapping[str, int], *, seed: int) -> GatedAttached:
    """Attach trainable gated updates that change nothing at first.

    Args:
        module: Base; its weights are frozen by the caller.
        ranks: Rank of each Linear layer; 0 leaves the layer out.
        seed: Seed of the right factors and of the gates.

    Returns:
        The updates. Both left factors are zero.

    Raises:
        ConfigError: A path is no Linear layer, or is gated already.
    """
    updates = {}
    for path, rank in ranks.items():
        if rank:
            weight = _weight(module, path)
            updates[path] = _fresh(weight, rank, derive_seed(seed, "gated", path))
    return _attached(module, updates)


def load_gated(module: nn.Module, path: str | Path) -> GatedAttached:
    """Attach what ``GatedAttached.save`` wrote, frozen.

    Args:
        module: Base of the same shape.
        path: The file.

    Returns:
        The updates.

    Raises:
        ConfigError: The file holds something else, or the module lacks a layer.
        ShapeError: A layer has another shape.
        NumericalError: A tensor is NaN or infinite.
        HostileFileError: It is not a safe file.
    """
    file = TensorFile(path)
    if file.metadata.get("kind") != _KIND:
        expected, got = f"a file of kind {_KIND!r}", file.metadata.get("kind")
        raise ConfigError(ConfigProblem(key=str(path), expected=expected, got=got))
    state: dict[str, dict[str, Tensor]] = {}
    for name in file:
        layer, _, key = name.rpartition("|")
        state.setdefault(layer, {})[key] = torch.from_numpy(file[name].copy())
    updates = {layer: _read(module, layer, tensors) for layer, tensors in state.items()}
    for layer, gain in _gains(file, updates).items():
        updates[layer].gain = gain
    attached = _attached(module, updates)
    attached.freeze()
    return attached


def is_gated(path: str | Path) -> bool:
    """Whether a file is what ``GatedAttached.save`` writes.

    Args:
        path: Any file or folder.

    Raises:
        HostileFileError: It is named as a safetensors file, and is not a safe one.
    """
    is_candidate = Path(path).is_file() and Path(path).suffix == ".safetensors"
    return is_candidate and TensorFile(path).metadata.get("kind") == _KIND


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Everything a module computes with: its weights, and the gated updates that sit on it.

    Args:
        module: Any module; without gates these are its weights.
    """
    state = dict(module.state_dict())
    for path, part in module.named_modules():
        for update in _hooked(part):
            gated = update.state_dict() | {"gain": torch.tensor(update.gain)}
            state |= {f"{path}|{name}": tensor for name, tensor in gated.items()}
    return state


@contextmanager
def watched(module: nn.Module) -> Iterator[Gates]:
    """The gates of every gated layer of a module, as forward passes inside the block open them.

    Args:
        module: Any module; where none is gated, nothing is seen.

    Yields:
        What is seen.
    """
    gates = Gates()
    updates = [update for part in module.modules() for update in _hooked(part)]
    for update in updates:
        update.watchers.append(gates.seen)
    try:
        yield gates
    finally:
        for update in updates:
            # By identity: another thread may watch the same module.
            update.watchers[:] = [seen for seen in update.watchers if seen is not gates.seen]


def _attached(module: nn.Module, updates: Mapping[str, GatedUpdate]) -> GatedAttached:
    layers = {path: module.get_submodule(path) for path in updates}
    for path, layer in layers.items():
        if _hooked(layer):
            expected = "a layer without a gate; detach the one it has"
            raise ConfigError(ConfigProblem(key="module", expected=expected, got=path))
    handles = tuple(layer.register_forward_hook(updates[p]) for p, layer in layers.items())
    return GatedAttached(module, updates, handles)


def _hooked(layer: nn.Module) -> list[GatedUpdate]:
    return [hook for hook in layer._forward_hooks.values() if isinstance(hook, GatedUpdate)]


def _weight(module: nn.Module, path: str) -> Tensor:
    layer = target_layers(module).get(path)
    if not isinstance(layer, nn.Linear):
        expected, got = "the path of a Linear layer", path
        raise ConfigError(ConfigProblem(key="ranks", expected=expected, got=got))
    return layer.weight


def _fresh(weight: Tensor, rank: int, seed: int) -> GatedUpdate:
    d_out, d_in = weight.shape
    generator = torch.Generator().manual_seed(seed)
    a = (2 * torch.rand(rank, d_in, generator=generator) - 1) * d_in**-0.5
    zero = torch.zeros(d_out, rank)
    mlp = nn.Sequential(
        _linear(d_out, _HIDDEN, generator), nn.SiLU(), _linear(_HIDDEN, 1, generator, bias=_CLOSED)
    )
    return GatedUpdate(a, zero, zero.clone(), mlp).to(weight.device)


@torch.no_grad()
def _linear(d_in: int, d_out: int, generator: torch.Generator, bias: float = 0.0) -> nn.Linear:
    # Made on meta: a layer would take its first weights from the global generator.
    layer = nn.Linear(d_in, d_out, device="meta").to_empty(device="cpu")
    layer.weight.copy_(torch.randn(d_out, d_in, generator=generator) * d_in**-0.5)
    layer.bias.fill_(bias)
    return layer


def _read(module: nn.Module, layer: str, tensors: Mapping[str, Tensor]) -> GatedUpdate:
    update = _fresh(_weight(module, layer), len(tensors.get("a", ())), seed=0).cpu()
    shapes = {name: tuple(tensor.shape) for name, tensor in update.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if given != shapes:
        raise ShapeError(f"gated tensors of shapes {shapes}", given, where=layer)
    for name, tensor in tensors.items():
        _require_finite(f"{layer}|{name}", tensor)
    update.load_state_dict(dict(tensors))
    return update.to(_weight(module, layer).device)


def _require_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NumericalError("a gated update is NaN or infinite", where=name)


def _gains(file: TensorFile, updates: Mapping[str, GatedUpdate]) -> dict[str, float]:
    text = file.metadata.get("gains", "")
    try:
        gains = {str(layer): float(gain) for layer, gain in json.loads(text).items()}
    except (AttributeError, TypeError, ValueError):
        gains = {}
    if gains.keys() != updates.keys() or not all(map(math.isfinite, gains.values())):
        expected = "a finite gain of each layer, as JSON"
        raise ConfigError(ConfigProblem(key="gains", expected=expected, got=text))
    return gains
