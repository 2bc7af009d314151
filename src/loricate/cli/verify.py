"""``loricate verify``: a folder held to its signature, its manifest, its base and its record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli._formats import format_options, show
from loricate.cli.exits import ExitCode, for_outcome

if TYPE_CHECKING:
    from loricate.recipes.verify import Claim
    from loricate.report.outcomes import Outcome

__all__ = ["command"]


class _Model(click.ParamType[Path]):
    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from loricate import models

        if value in models.names() and not Path(value).exists():
            return models.path(value)
        if not Path(value).exists():
            self.fail(f"{value!r} is no path, and no embedded model", param, ctx)
        return Path(value)


@click.command()
@click.argument(
    "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--key",
    type=click.Path(readable=False, path_type=Path),
    metavar="PEM",
    help="Public key of whom you trust; one inside the signature is never used.",
)
@click.option(
    "--base",
    type=_Model(),
    metavar="MODEL",
    help="What was hardened: a diffusers folder, the folder of a component, a .safetensors file.",
)
@format_options
def command(
    folder: Path, key: Path | None, base: Path | None, form: str | None, out: Path | None
) -> ExitCode:
    """Prove that a folder is what it claims to be.

    Checks that the key signed it, that every listed byte and tensor is unchanged and nothing was
    added, that the base is the one that was hardened, that merged weights are base plus update
    tensor by tensor, and that the record is about these weights. Exit code 1 names what is wrong,
    4 says that something could not be proven; without --key it is never 0.
    """
    from loricate.recipes._out import require_outside
    from loricate.recipes.verify import verify

    if out is not None:
        require_outside(out, [folder, *(each for each in (key, base) if each is not None)])
    found = verify(folder, key=key, base=base)
    outcomes = [_outcome(claim) for claim in found.claims]
    show(outcomes, found.outcome, suite="loricate verify", form=form, out=out, folder=str(folder))
    return for_outcome(found.outcome)


def _outcome(claim: Claim) -> Outcome:
    from loricate.integrity.finding import Severity
    from loricate.report.outcomes import Outcome

    return Outcome(
        rule=claim.name,
        level=Severity.CRITICAL,
        path=claim.path,
        message=claim.message,
        where=claim.where,
        passed=claim.passed,
    )
