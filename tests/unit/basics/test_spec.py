import tomllib
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.quantities import text_of
from loricate.basics.spec import (
    Count,
    Fraction01,
    Length,
    Natural,
    PixelLength,
    Range,
    Spec,
    from_table,
    from_text,
    read_spec,
    to_table,
    to_toml,
)


@dataclass(frozen=True, kw_only=True)
class Inner(Spec):
    step_size: Length = 0.5
    mode: Literal["identity", "none"] | None = "identity"


@dataclass(frozen=True, kw_only=True)
class Outer(Spec):
    name: str
    steps: Count = 10
    seed: Natural = 0
    epsilon: PixelLength = 0.5
    share: Fraction01 | None = 0.25
    exact: bool = False
    folder: Path = Path("runs")
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "a")
    weights: dict[str, Length] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Interval(Spec):
    low: float
    high: float

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        if self.low > self.high:
            yield ConfigProblem(key="low", expected=f"at most {self.high}", got=self.low)


_INNER = st.builds(
    Inner,
    step_size=st.floats(1e-9, 1e9) | st.sampled_from(["2/255", "1/3"]),
    mode=st.sampled_from(["identity", "none"]),
)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_OUTER = st.builds(
    Outer,
    name=_TEXT,
    steps=st.integers(1, 10**6),
    epsilon=st.floats(0, 1) | st.just("8/255"),
    share=st.none() | st.floats(0, 1),
    exact=st.booleans(),
    folder=st.sampled_from([Path("a"), Path("/b/c")]),
    inner=_INNER,
    several=st.lists(_INNER, max_size=2),
    pair=st.tuples(st.integers(), _TEXT),
    weights=st.dictionaries(_TEXT, st.floats(0.1, 9), max_size=2),
)


def _problems(cls: type[Spec], table: dict[str, Any]) -> dict[str, ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        from_table(cls, table)
    return {problem.key: problem for problem in caught.value.problems}


@given(_OUTER)
def test_tables_and_specs_are_two_spellings_of_one_value(spec: Outer) -> None:
    assert from_table(Outer, to_table(spec)) == spec


@given(_OUTER)
def test_files_keep_the_value_and_the_text_of_fractions(spec: Outer) -> None:
    back = from_table(Outer, tomllib.loads(to_toml(spec)))
    assert back == spec
    assert text_of(back.epsilon) == text_of(spec.epsilon)


def test_numbers_arrive_as_the_kind_the_field_wants() -> None:
    spec = Outer(name="x", steps=np.int64(3), epsilon=np.float32(0.5), share=1)
    assert [type(each) for each in (spec.steps, spec.epsilon, spec.share)] == [int, float, float]


def test_specs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Inner().mode = None


@pytest.mark.parametrize(
    ("field_", "value"),
    [
        ("steps", 0),
        ("steps", 2.0),
        ("steps", True),
        ("steps", "3"),
        ("seed", -1),
        ("epsilon", 8),
        ("epsilon", "x"),
        ("share", 1.01),
        ("share", float("nan")),
        ("exact", 1),
        ("name", 3),
        ("folder", 3),
        ("inner", "pgd"),
        ("several", "pgd"),
        ("pair", (1,)),
    ],
)
def test_construction_and_tables_refuse_the_same_with_the_same_words(
    field_: str, value: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer(**{"name": "x", field_: value})
    (problem,) = caught.value.problems
    assert (problem.key, problem.got) == (field_, value) or value != value
    assert repr(_problems(Outer, {"name": "x", field_: value})) == repr({field_: problem})


def test_every_problem_is_found_at_once_under_its_path() -> None:
    table = {
        "stpes": 3,
        "epsilon": 8,
        "inner": {"step_size": -1, "mod": "none"},
        "several": [{}, {"mode": "identty"}],
        "weights": {"psnr": 0},
    }
    problems = _problems(Outer, table)
    assert {key: problem.nearest for key, problem in problems.items()} == {
        "stpes": "steps",
        "epsilon": "8/255",
        "inner.step_size": None,
        "inner.mod": "mode",
        "several.1.mode": "identity",
        "weights.psnr": None,
        "name": None,
    }


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("low = 2\nhigh = 1\n")
    with pytest.raises(ConfigError) as caught:
        read_spec(Interval, path)
    assert caught.value.file == str(path)
    assert [problem.key for problem in caught.value.problems] == ["low"]
    path.write_text("low = 1\nhigh = 2\n")
    assert read_spec(Interval, path) == Interval(low=1, high=2)


def test_none_unsets_a_field_whose_default_is_a_value() -> None:
    assert to_table(Outer(name="x", share=None))["share"] == "none"
    assert from_table(Outer, {"name": "x", "share": "none"}).share is None


def test_a_word_that_is_an_option_is_not_unset() -> None:
    assert from_table(Inner, {"mode": "none"}).mode == "none"


def test_a_value_toml_cannot_express_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        to_table(Inner(mode=None))
    assert caught.value.problems[0].key == "mode"


def test_options_are_listed_together() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Either(Spec):
        value: Count | Literal["auto"]

    (problem,) = _problems(Either, {"value": "aut"}).values()
    assert problem.expected == "an integer of at least 1 or one of 'auto'"


def test_a_field_that_cannot_be_checked_is_a_mistake_of_its_author() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(Spec):
        value: set[int]

    with pytest.raises(TypeError, match="cannot check field 'value'"):
        Odd(value={1})


@pytest.mark.parametrize(("above", "accepted"), [(True, False), (False, True)])
def test_a_range_may_exclude_its_lower_end(above: bool, accepted: bool) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bounded(Spec):
        value: Annotated[float, Range("in range", float, lower=1, upper=2, above=above)]

    if accepted:
        assert Bounded(value=1).value == 1
    else:
        with pytest.raises(ConfigError):
            Bounded(value=1)
    assert Bounded(value=2).value == 2


def test_a_short_text_is_a_spec() -> None:
    pytest.importorskip("torch")
    from loricate.attacks.pgd import PGD
    from loricate.core.attack import Attack

    kind: Any = Attack
    assert from_text(kind, "pgd") == PGD()
    spec = from_text(kind, "pgd:steps=7,step_size=2/255,random_start=false")
    assert spec == PGD(steps=7, step_size=2 / 255, random_start=False)
    assert text_of(spec.step_size) == "2/255"
