import hashlib
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.seeds import derive_seed

_PARTS = st.lists(st.integers(0, 5) | st.text('ab1,[]"', max_size=3), max_size=4).map(tuple)


def test_the_seed_is_the_hash_of_the_address() -> None:
    digest = hashlib.sha256(b'[7,"pgd",3]').digest()
    assert derive_seed(7, "pgd", 3) == int.from_bytes(digest[:8], "big") // 2


@given(st.lists(_PARTS, min_size=2, max_size=6, unique=True))
def test_different_addresses_have_different_seeds(addresses: list[tuple[int | str, ...]]) -> None:
    for one, other in combinations(addresses, 2):
        assert derive_seed(0, *one) != derive_seed(0, *other)


@given(st.integers(), _PARTS)
def test_seeds_fit_the_generators_that_take_them(root: int, address: tuple[int | str, ...]) -> None:
    assert 0 <= derive_seed(root, *address) < 2**63


def test_numpy_integers_are_integers() -> None:
    assert derive_seed(np.int64(3), np.int32(4)) == derive_seed(3, 4)
