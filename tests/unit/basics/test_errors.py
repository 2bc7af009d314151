import difflib
import pickle

import pytest

from loricate.basics.errors import (
    BudgetViolation,
    ConfigError,
    ConfigProblem,
    HostileFileError,
    IntegrityError,
    LoricateError,
    NumericalError,
    PrerequisiteError,
    ShapeError,
    UnsupportedError,
    nearest,
)

_ONE_OF_EACH = [
    ConfigError(ConfigProblem(key="steps", expected="an integer", got="x"), file="a.toml"),
    ShapeError("(rank, in) = (8, 320)", (320, 8), where="to_q", hint="it looks transposed"),
    NumericalError("the loss is NaN", where="encoder.conv_in", step=7),
    BudgetViolation("linf ball", allowed=0.03, got=0.05, sample=2),
    UnsupportedError("a gate", by="format 'kohya'", hint="use 'peft'"),
    PrerequisiteError("package 'torch'", remedy="run: pip install 'loricate[sd]'"),
    IntegrityError("base digest", entries=["a", "b"]),
    HostileFileError("x.safetensors", reason="header too long"),
]


@pytest.mark.parametrize("error", _ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way_back_from_a_worker(error: LoricateError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_a_shape_error_says_what_where_and_why() -> None:
    error = _ONE_OF_EACH[1]
    assert (error.got, error.where, error.hint) == ((320, 8), "to_q", "it looks transposed")
    expected = "expected (rank, in) = (8, 320) for 'to_q', got (320, 8); it looks transposed"
    assert str(error) == expected


def test_a_config_error_lists_every_problem() -> None:
    problems = [
        ConfigProblem(key="a", expected="x", got=1),
        ConfigProblem(key="b", expected="y", got=2, nearest="c"),
    ]
    error = ConfigError(iter(problems), file="run.toml")
    assert error.problems == tuple(problems)
    assert error.file == "run.toml"
    assert str(error).splitlines() == [
        "in run.toml:",
        "a: expected x, got 1",
        "b: expected y, got 2; did you mean 'c'?",
    ]


@pytest.mark.parametrize(
    ("key", "prefix", "path"), [("x", "a", "a.x"), ("x.y", "a", "a.x.y"), ("", "a", "a")]
)
def test_a_problem_is_renamed_by_the_table_around_it(key: str, prefix: str, path: str) -> None:
    assert ConfigProblem(key=key, expected="", got=None).under(prefix).key == path


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "sd"), ("diffusers.models", "sd"), ("OpenSSL.crypto", "sign"), ("json5", None)],
)
def test_a_failed_import_names_the_extra_that_mends_it(module: str, extra: str | None) -> None:
    error = PrerequisiteError.from_import(ModuleNotFoundError("no", name=module))
    remedy = None if extra is None else f"run: pip install 'loricate[{extra}]'"
    assert getattr(error, "remedy", None) == remedy


@pytest.mark.parametrize(
    ("word", "expected"),
    [("stpes", "steps"), ("step-size", "step_size"), ("PGD", "pgd"), ("qwertz", None)],
)
def test_nearest_finds_slips_and_nothing_far(word: str, expected: str | None) -> None:
    assert nearest(word, ["steps", "step_size", "pgd"]) == expected


def test_nearest_is_that_of_difflib_among_many(rng) -> None:
    names = [
        f"down_blocks_{i}_attentions_{j}_to_{k}" for i in range(9) for j in range(9) for k in "qkv"
    ]
    words = [
        "".join(rng.permutation(list(name))[:20]) + name[n:] for n, name in enumerate(names[:40])
    ]
    for word in [*words, "down_blocks_3_attentions_4_to_x", "x", ""]:
        close = difflib.get_close_matches(word, names, n=1)
        assert nearest(word, names) == (close[0] if close else None)
