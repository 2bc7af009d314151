"""The budget is kept, spent, and spent as a naive greedy loop would."""

import itertools

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from loricate.lowrank.budget import Budget
from loricate.testing.strategies import SPECTRA, sizes


@st.composite
def models(draw, sides=sizes):
    """Shapes and spectra of a few weights."""
    count = draw(st.integers(1, 4))
    shapes = {f"w{i}": (draw(sides), draw(sides)) for i in range(count)}
    names = {name: draw(st.sampled_from(sorted(SPECTRA))) for name in shapes}
    return shapes, {name: SPECTRA[names[name]](min(shape)) for name, shape in shapes.items()}


budgets = st.builds(
    Budget,
    fraction=st.sampled_from((0.1, 0.3, 0.6, 1.0)),
    min_rank=st.integers(0, 2),
    max_rank=st.sampled_from((None, 2, 5)),
)


def cost(ranks, shapes):
    return sum(rank * sum(shapes[name]) for name, rank in ranks.items())


def naive(budget, spectra, shapes):
    """Buy the best component that fits, until none does; None if the floor is too dear."""
    ranks = {name: min(budget.min_rank, *shape) for name, shape in shapes.items()}
    limit = budget.parameters(shapes)
    if cost(ranks, shapes) > limit:
        return None
    while True:
        offers = []
        for name, shape in shapes.items():
            ceiling = min(*shape, budget.max_rank or min(shape))
            energy = spectra[name] ** 2 / (np.sum(spectra[name] ** 2) or 1.0)
            fits = cost(ranks, shapes) + sum(shape) <= limit
            if ranks[name] < ceiling and fits and energy[ranks[name]] > 0:
                offers.append((energy[ranks[name]] / sum(shape), name))
        if not offers:
            return ranks
        best = max(worth for worth, _ in offers)
        ranks[next(name for worth, name in offers if worth == best)] += 1


@given(models(), budgets)
def test_equals_a_naive_greedy_loop(model, budget):
    shapes, spectra = model
    expected = naive(budget, spectra, shapes)
    assume(expected is not None)
    assert budget.from_spectra(spectra, shapes) == expected


@given(models(), budgets)
def test_budget_is_kept_and_floors_and_ceilings_hold(model, budget):
    shapes, spectra = model
    assume(naive(budget, spectra, shapes) is not None)
    ranks = budget.from_spectra(spectra, shapes)
    assert cost(ranks, shapes) <= budget.fraction * sum(m * n for m, n in shapes.values())
    for name, shape in shapes.items():
        assert min(budget.min_rank, *shape) <= ranks[name] <= min(shape)
        assert budget.max_rank is None or ranks[name] <= budget.max_rank


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_with_equal_shapes_no_other_allocation_keeps_more(side, count, data):
    shapes = {f"w{i}": (side, side) for i in range(count)}
    spectra = {n: SPECTRA[data.draw(st.sampled_from(sorted(SPECTRA)))](side) for n in shapes}
    budget = Budget(fraction=data.draw(st.sampled_from((0.3, 0.7, 1.0))), min_rank=0)
    energy = {n: np.cumsum([0, *s**2]) / (np.sum(s**2) or 1.0) for n, s in spectra.items()}

    def kept(ranks):
        return sum(energy[name][rank] for name, rank in ranks.items())

    every = (
        dict(zip(shapes, ranks, strict=True))
        for ranks in itertools.product(range(side + 1), repeat=count)
    )
    best = max(kept(r) for r in every if cost(r, shapes) <= budget.parameters(shapes))
    assert kept(budget.from_spectra(spectra, shapes)) >= best * (1 - 1e-12)


@given(models())
def test_order_of_scores_does_not_matter(model):
    shapes, spectra = model
    budget = Budget(fraction=1.0, min_rank=0)
    shuffled = {name: s[::-1] for name, s in spectra.items()}
    assert budget.from_scores(shuffled, shapes) == budget.from_scores(spectra, shapes)
