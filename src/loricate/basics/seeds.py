"""Randomness with an address: a seed depends on what it is for, never on when it is drawn."""

import hashlib
import json

__all__ = ["derive_seed"]


def derive_seed(root: int, *address: int | str) -> int:
    """Seed that belongs to an address below a root seed.

    Neighboring addresses give unrelated seeds, so order and number of workers change no result.

    Args:
        root: Seed of the whole run.
        address: Where the randomness is used, such as ``("pgd", sample, restart)``.

    Returns:
        Integer in [0, 2**63), which numpy and torch generators both accept.
    """
    # JSON keeps 1 apart from "1" and ("a", "b") apart from ("ab",); bytes joined by hand would not.
    canonical = json.dumps([int(root), *map(_plain, address)], separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _plain(part: int | str) -> int | str:
    return part if isinstance(part, str) else int(part)
