"""Spectra of clean adapters, and a penalty that makes an update look like them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from loricate.adapters.adapter import Adapter, Target
from loricate.surfaces.attach import Attached

_TINY = 1e-12


@dataclass(frozen=True)
class Bank:
    """Mean and spread of the spectral features of each module over clean adapters.

    Args:
        paths: Modules, in order.
        mean: Means, (n_modules, 4).
        spread: Standard deviations, (n_modules, 4).
    """

    paths: tuple[str, ...]
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, adapters: Sequence[Adapter], component: str) -> "Bank":
        """The bank of some adapters of one component."""
        paths = tuple(adapters[0].modules(component))
        rows = []
        for adapter in adapters:
            updates = [adapter[Target(component, path)].factors.baked() for path in paths]
            pairs = [(torch.as_tensor(u.A), torch.as_tensor(u.B)) for u in updates]
            rows.append(differentiable_features(pairs))
        table = torch.stack(rows)
        return cls(paths, table.mean(0), table.std(0) + 1e-3)

    def penalty(self, attached: Attached) -> Tensor:
        """Huber distance from the bank in its standard deviations, mean over modules."""
        pairs = [(attached.updates[path].a, attached.updates[path].b) for path in self.paths]
        z = (differentiable_features(pairs) - self.mean) / self.spread
        return nn.functional.smooth_l1_loss(z, torch.zeros_like(z))


def differentiable_features(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Log of the norm, energy share, entropy and kurtosis of each update, (n_modules, 4)."""
    # Adapters leave out components that are zero, so ranks may differ.
    rank = max(a.shape[0] for a, _ in pairs)
    right = torch.stack([_padded(a @ a.T, rank) for a, _ in pairs])
    left = torch.stack([_padded(b.T @ b, rank) for _, b in pairs])
    lower = torch.linalg.cholesky(right + 1e-9 * torch.eye(rank))
    energy = torch.linalg.eigvalsh(lower.mT @ left @ lower).clamp(min=0) + _TINY
    s = energy.sqrt()
    p = s / s.sum(1, keepdim=True)
    entropy = -(p * p.log()).sum(1) / np.log(rank)
    kurtosis = torch.stack([_kurtosis(a, b) for a, b in pairs])
    share = energy[:, -1] / energy.sum(1)
    return torch.stack([0.5 * energy.sum(1).log(), share, entropy, kurtosis], dim=1)


def _padded(gram: Tensor, size: int) -> Tensor:
    missing = size - gram.shape[0]
    return nn.functional.pad(gram, (0, missing, 0, missing))


def _kurtosis(a: Tensor, b: Tensor) -> Tensor:
    # The grid of loricate.integrity.features, in rows; widths here are below its columns.
    entries = b[:: -(-b.shape[0] // 64)] @ a
    centered = entries - entries.mean()
    return centered.pow(4).mean() / (centered.pow(2).mean().square() + _TINY**2)
