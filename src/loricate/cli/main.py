"""The command ``loricate``: a group that finds its commands as files."""

import ast
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from loricate import __version__
from loricate.basics.errors import LoricateError, PrerequisiteError, nearest
from loricate.cli.exits import ExitCode, for_error

__all__ = ["main", "run"]

_FOLDER = Path(__file__).parent
_NOT_COMMANDS = {"exits", "helpers", "main"}


class _Commands(click.Group):
    """Commands by file name; only the one that runs is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        stems = {path.stem for path in _FOLDER.glob("[!_]*.py")}
        return sorted(stem.replace("_", "-") for stem in stems - _NOT_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command = import_module(f"loricate.cli.{name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _help_line(name)) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            known = self.list_commands(ctx)
            hint = f" Did you mean {near!r}?" if (near := nearest(args[0], known)) else ""
            expected = f"Expected one of {', '.join(known)}, got {args[0]!r}."
            raise click.UsageError(expected + hint, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if missing := PrerequisiteError.from_import(error):
                raise _Refusal(missing, ctx.invoked_subcommand) from error
            raise
        except LoricateError as error:
            raise _Refusal(error, ctx.invoked_subcommand) from error


class _Refusal(click.ClickException):
    """An error of ours, dressed for click."""

    def __init__(self, error: LoricateError, command: str | None) -> None:
        super().__init__(str(error))
        self.code = for_error(error, command)


@click.group(
    cls=_Commands,
    # Both --target-modules and --target_modules are habits of the field.
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.version_option(__version__, package_name="loricate", message="%(prog)s %(version)s")
def _loricate() -> None:
    """Harden Stable Diffusion with LoRA adapters, and measure honestly what was gained.

    Exit codes: 0 pass, 1 negative verdict, 2 usage, 3 could not run, 4 inconclusive.
    """


def main() -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> ExitCode:
    """Exit code of a command line; results go to stdout, everything else to stderr.

    Args:
        arguments: What follows the name of the program.

    Returns:
        The code, for every way a command can end.
    """
    try:
        result = _loricate.main(list(arguments), prog_name="loricate", standalone_mode=False)
        return ExitCode(result or 0)
    except click.ClickException as error:
        error.show()
        return error.code if isinstance(error, _Refusal) else for_error(error)
    except click.Abort:
        return _explain("Interrupted.")
    except BrokenPipeError:
        # The reader has left, and flushing at exit must not complain about it once more.
        sys.stdout = None
        return ExitCode.COULD_NOT_RUN
    except Exception as error:
        traceback.print_exc()
        return _explain(f"Unexpected {type(error).__name__}; this is a bug in loricate.")


def _explain(message: str) -> ExitCode:
    click.echo(message, err=True)
    return ExitCode.COULD_NOT_RUN


def _help_line(name: str) -> str:
    path = _FOLDER / f"{name.replace('-', '_')}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "command":
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
