"""Small cases worked by hand, and what errors carry."""

import math

import numpy as np
import pytest
import torch

from loricate.basics.errors import ConfigError, NumericalError, ShapeError
from loricate.lowrank import conv
from loricate.lowrank.budget import Budget
from loricate.lowrank.factors import LowRank
from loricate.lowrank.merge import add, average, concat, merge
from loricate.lowrank.rules import EnergyRank, FixedRank, NuclearRank, certified_error, parse
from loricate.lowrank.sketch import certified_svd
from loricate.lowrank.spectrum import (
    effective_rank,
    intruder_dimensions,
    principal_angles,
    stable_rank,
)
from loricate.lowrank.svd import balanced, factored_svd, full_svd, recompress, truncated_svd


def update() -> LowRank:
    return LowRank(np.array([[3.0, 4.0]]), np.array([[1.0], [2.0]]), scale=0.5)


def test_a_two_by_two_lora():
    lora = update()
    assert lora.shape == (2, 2)
    assert lora.rank == 1
    np.testing.assert_array_equal(lora.dense(), [[1.5, 2.0], [3.0, 4.0]])
    # |b| |a| / 2 = sqrt(5) * 5 / 2
    assert lora.spectral_norm() == pytest.approx(2.5 * math.sqrt(5))
    assert lora.frobenius_norm() == pytest.approx(lora.nuclear_norm())


def test_baked_and_scaled():
    np.testing.assert_array_equal(update().baked().B, [[0.5], [1.0]])
    assert update().scaled(4.0).scale == 2.0


def test_truncation_of_a_diagonal():
    kept = truncated_svd(np.diag([3.0, 2.0, 1.0]), FixedRank(2))
    np.testing.assert_allclose(kept.dense(), np.diag([3.0, 2.0, 0.0]), atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(kept.B, axis=0), [3.0, 2.0])


def test_opposite_updates_cancel_to_rank_zero():
    nothing = add(update(), update().scaled(-1.0))
    assert nothing.rank == 0
    assert nothing.spectral_norm() == 0.0
    np.testing.assert_array_equal(nothing.dense(), np.zeros((2, 2)))


def test_average_has_no_cross_terms():
    a = LowRank(np.array([[1.0, 0.0]]), np.array([[1.0], [0.0]]))
    b = LowRank(np.array([[0.0, 1.0]]), np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(average([a, b]).dense(), np.diag([0.5, 0.5]), atol=1e-15)


def test_energy_and_nuclear_norm_count_differently():
    s = np.array([4.0, 3.0, 1.0])
    # Squares 16, 9, 1 of 26; values 4, 3, 1 of 8.
    assert EnergyRank(0.6).rank(s, (3, 3)) == 1
    assert NuclearRank(0.6).rank(s, (3, 3)) == 2
    assert certified_error(s, (3, 3), 2) == pytest.approx(1 / math.sqrt(26))


def test_a_share_met_exactly_counts_as_met():
    assert EnergyRank(0.9).rank(np.ones(10), (10, 10)) == 9
    assert NuclearRank(0.9).rank(np.ones(10, np.float32), (10, 10)) == 9


def test_summaries_of_a_spectrum():
    assert stable_rank(np.array([2.0, 1.0, 1.0])) == pytest.approx(1.5)
    assert effective_rank(np.array([1.0, 1.0, 0.0])) == pytest.approx(2.0)


def test_angle_between_two_lines():
    line = np.array([[math.cos(1e-9)], [math.sin(1e-9)]])
    angle = principal_angles(np.array([[1.0], [0.0]]), line)
    assert float(angle[0]) == pytest.approx(1e-9, rel=1e-6)


def test_budget_buys_the_most_energy_per_parameter():
    shapes = {"wide": (4, 12), "square": (4, 4)}
    spectra = {"wide": np.array([1.0, 1.0, 0.0, 0.0]), "square": np.array([3.0, 1.0, 1.0, 1.0])}
    # 40 % of 64 parameters is 25: one rank costs 16 in "wide" and 8 in "square". Shares per
    # parameter: wide 0.5 / 16, square 0.75 / 8 and then 0.083 / 8.
    ranks = Budget(fraction=0.4, min_rank=0).from_spectra(spectra, shapes)
    assert ranks == {"wide": 1, "square": 1}


def test_budget_below_its_floor_says_what_would_do():
    with pytest.raises(ConfigError) as caught:
        Budget(fraction=0.1).from_spectra({"w": np.ones(4)}, {"w": (4, 4)})
    problem = caught.value.problems[0]
    assert problem.key == "budget.fraction"
    assert "0.5000" in problem.expected
    assert Budget(fraction=0.5).from_spectra({"w": np.ones(4)}, {"w": (4, 4)}) == {"w": 1}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("fraction", {"fraction": 0.0}),
        ("fraction", {"fraction": 1.5}),
        ("min_rank", {"fraction": 0.1, "min_rank": -1}),
        ("max_rank", {"fraction": 0.1, "min_rank": 3, "max_rank": 2}),
    ],
)
def test_budgets_that_make_no_sense_are_refused(field, values):
    with pytest.raises(ConfigError) as caught:
        Budget(**values)
    assert caught.value.problems[0].key == f"budget.{field}"


def test_certificate_of_an_exact_decomposition():
    _, certificate = certified_svd(np.diag([4.0, 3.0]), FixedRank(1))
    assert certificate.exact
    assert certificate.norm == pytest.approx(5.0)
    assert certificate.relative_error == pytest.approx(0.6)
    assert certificate.excess == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("text", ["energy:0", "energy:1.1", "fixed:0", "fixed:1.5", "cutoff:1"])
def test_values_out_of_range_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.problems[0].key == f"rule.{text.partition(':')[0]}"


@pytest.mark.parametrize(("text", "close"), [("enrgy:0.9", "energy"), ("numerical:3", "numerical")])
def test_unknown_rules_suggest_the_nearest(text, close):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.problems[0].nearest == close


def test_rank_is_another_word_for_fixed():
    assert parse("rank:8") == FixedRank(8)


def test_swapped_factors_are_recognized():
    with pytest.raises(ShapeError) as caught:
        LowRank(A=np.ones((7, 2)), B=np.ones((2, 5)))
    assert caught.value.got == ((7, 2), (2, 5))
    assert caught.value.hint == "A and B look swapped"


def test_transposed_weights_are_recognized():
    with pytest.raises(ShapeError, match="transposed"):
        merge(np.ones((2, 3)), LowRank(np.ones((1, 2)), np.ones((3, 1))))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 1, 1)])
def test_only_matrices_have_singular_values(shape):
    with pytest.raises(ShapeError) as caught:
        full_svd(np.ones(shape))
    assert caught.value.got == shape
    assert (caught.value.hint is not None) == (len(shape) == 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad):
    weight = np.ones((2, 2))
    weight[0, 1] = bad
    for act in (
        lambda: truncated_svd(weight, FixedRank(1)),
        lambda: recompress(LowRank(weight, weight)),
        lambda: balanced(LowRank(weight, weight)),
        lambda: merge(np.ones((2, 2)), LowRank(weight, weight)),
    ):
        with pytest.raises(NumericalError):
            act()


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e38, np.float16), (1e38, np.float32), (1e300, np.float64)]
)
@pytest.mark.parametrize("library", [np, torch])
def test_a_scaled_product_that_overflows_is_refused(scale, dtype, library):
    size = 1e5 if dtype == np.float64 else 9.0
    a, b = (library.asarray(np.full(shape, size, dtype)) for shape in ((2, 5), (3, 2)))
    update = LowRank(a, b, scale)
    with pytest.raises(NumericalError, match="scaled product overflows"):
        factored_svd(update)


def test_a_sum_that_overflows_half_precision_is_refused():
    big = np.full((1, 1), 40_000, np.float16)
    one = np.ones((1, 1), np.float16)
    with pytest.raises(NumericalError), np.errstate(over="ignore"):
        merge(big, LowRank(one, big))


def test_integers_are_refused():
    with pytest.raises(ShapeError):
        full_svd(np.ones((2, 2), np.int64))


@pytest.mark.parametrize(
    "act",
    [
        lambda: concat([]),
        lambda: concat([update()], [1.0, 2.0]),
        lambda: concat([update(), LowRank(np.ones((1, 3)), np.ones((2, 1)))]),
        lambda: conv.as_matrix(np.ones((2, 2))),
        lambda: conv.as_kernel(np.ones((2, 5)), (1, 2, 2)),
        lambda: conv.from_pair(np.ones((1, 2, 3, 3)), np.ones((4, 1, 3, 3))),
        lambda: principal_angles(np.ones((3, 1)), np.ones((4, 1))),
        lambda: intruder_dimensions(np.ones((3, 1)), np.ones((4, 1))),
    ],
)
def test_misfits_are_shape_errors(act):
    with pytest.raises(ShapeError):
        act()


@pytest.mark.parametrize(
    ("text", "rank"),
    [
        # Sums 4, 7, 8 of 8; squares 16, 25, 26 of 26.
        ("nuclear:0.6", 2),
        ("kohya:sv_cumulative:0.6", 3),
        ("lycoris:quantile:0.6", 1),
        ("energy:0.6", 1),
        ("peft:energy:0.6", 1),
        ("kohya:sv_fro:0.7", 2),
        # One value above 4 / 1.2, two above 4 / 2.
        ("kohya:sv_ratio:1.2", 2),
        ("kohya:sv_ratio:2", 3),
    ],
)
def test_tools_differ_by_one(text, rank):
    assert parse(text).rank(np.array([4.0, 3.0, 1.0]), (3, 3)) == rank


def test_kohya_keeps_one_component_of_what_it_takes_for_zero():
    assert parse("kohya:sv_ratio:10").rank(np.array([1e-6, 9e-7]), (2, 2)) == 1
    assert parse("kohya:sv_ratio:10").rank(np.zeros(2), (2, 2)) == 0


@pytest.mark.parametrize(
    ("sides", "factor"), [((1000, 1000), 2.858), ((500, 1000), 2.1711), ((50, 1000), 1.5194)]
)
def test_optimal_threshold_over_the_median(sides, factor):
    # The published factors of the median, met from both sides: one value stands out, and the
    # median of the others is 1.
    for nudge, rank in ((0.999, 0), (1.001, 1)):
        s = np.ones(min(sides))
        s[0] = factor * nudge
        assert parse("optimal").rank(s, sides) == rank
