"""Results as files: what is there is not done again."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Unfinished(Exception):
    """Something is not measured yet, and may not be now."""


@dataclass(frozen=True)
class Cache:
    """A folder of tensors and figures.

    Args:
        folder: Where they are.
        run: Whether to make what is not there yet.
    """

    folder: Path
    run: bool

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor, made unless its file is there."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            self.require_run()
            temporary = path.with_name(f"tmp-{path.name}")
            np.save(temporary, make().numpy())
            temporary.rename(path)
        return torch.from_numpy(np.load(path, allow_pickle=False))

    def figures(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures, measured unless their file is there."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            self.require_run()
            start = time.process_time()
            row = measure()
            row["cpu_s"] = time.process_time() - start
            path.write_text(json.dumps(row))
            print(f"  {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in row.items()), flush=True)
        return json.loads(path.read_text())

    def require_run(self) -> None:
        """Refuse where only what is finished is wanted."""
        if not self.run:
            raise Unfinished
