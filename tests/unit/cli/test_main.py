import sys
from collections.abc import Callable

import click
import pytest

import loricate
from loricate.basics.errors import ConfigError, ConfigProblem, HostileFileError, ShapeError
from loricate.cli import main
from loricate.cli.exits import ExitCode
from loricate.cli.helpers import PIXEL_LENGTH

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts one command, named by the test, in place of all others."""

    def _install(body: Callable[..., object], name: str = "probe", params: object = ()) -> None:
        command = click.Command(name, callback=body, params=list(params))
        monkeypatch.setattr(main._Commands, "list_commands", lambda self, ctx: [name])
        monkeypatch.setattr(
            main._Commands, "get_command", lambda self, ctx, n: command if n == name else None
        )

    return _install


def _raising(error: BaseException) -> Callable[[], None]:
    def _body() -> None:
        raise error

    return _body


@pytest.mark.parametrize("result", [None, *ExitCode])
def test_what_a_command_returns_is_the_exit_code(install: Install, result) -> None:
    install(lambda: result)
    assert main.run(["probe"]) == (result or 0)


def test_a_result_that_is_no_exit_code_does_not_read_as_a_verdict(install: Install) -> None:
    install(lambda: "done")
    assert main.run(["probe"]) == 3


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [
        (ConfigError(ConfigProblem(key="steps", expected="more", got=0)), "probe", 2),
        (ShapeError("a matrix", (3,)), "probe", 3),
        (HostileFileError("x.pt", reason="pickle"), "scan", 1),
        (HostileFileError("x.pt", reason="pickle"), "probe", 3),
    ],
)
def test_an_error_of_ours_is_a_message_without_a_traceback(
    install: Install, capsys: pytest.CaptureFixture[str], error: Exception, name: str, code: int
) -> None:
    install(_raising(error), name)
    assert main.run([name]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"Error: {error}\n"


def test_an_unexpected_error_shows_where_it_happened(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(_raising(ZeroDivisionError("oops")))
    assert main.run(["probe"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("Unexpected ZeroDivisionError; this is a bug in loricate.\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), click.FileError("x")])
def test_being_stopped_is_not_a_verdict(install: Install, error: BaseException) -> None:
    install(_raising(error))
    assert main.run(["probe"]) == 3


def test_a_reader_that_left_is_not_a_verdict(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    install(_raising(BrokenPipeError()))
    assert main.run(["probe"]) == 3


@pytest.mark.parametrize("flag", ["--target-modules", "--target_modules"])
def test_both_spellings_of_a_flag_are_accepted(install: Install, flag: str) -> None:
    seen = []
    option = click.Option(["--target-modules"])
    install(lambda target_modules: seen.append(target_modules), "probe", [option])
    assert main.run(["probe", flag, "to_q"]) == 0
    assert seen == ["to_q"]


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["shwo"]) == 2
    assert "Did you mean 'show'?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["ls", "--nonsense"], ["show"]])
def test_usage_errors_end_in_two(arguments: list[str]) -> None:
    assert main.run(arguments) == 2


def test_help_and_version_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"loricate {loricate.__version__}\n"
    assert main.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in main._loricate.list_commands(None))


def test_the_group_reads_help_lines_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "loricate.cli.ls", raising=False)
    assert main.run(["--help"]) == 0
    assert "loricate.cli.ls" not in sys.modules
    assert main._help_line("ls").startswith("List attacks")


@pytest.mark.parametrize(
    ("text", "code", "value"), [("8/255", 0, 8 / 255), ("0.5", 0, 0.5), ("8", 2, None)]
)
def test_an_epsilon_is_a_fraction_of_the_pixel_range(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int,
    value: float | None,
) -> None:
    seen = []
    option = click.Option(["--epsilon"], type=PIXEL_LENGTH)
    install(lambda epsilon: seen.append(epsilon), "probe", [option])
    assert main.run(["probe", "--epsilon", text]) == code
    assert (seen or [None]) == [value]
    assert ("did you mean '8/255'" in capsys.readouterr().err) == (code == 2)
