"""``loricate sign``: a folder under the caller's key."""

from pathlib import Path

import click

from loricate.cli.helpers import json_option, log, print_json

__all__ = ["command"]


@click.command()
@click.argument(
    "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--key",
    type=click.Path(readable=False, path_type=Path),
    required=True,
    metavar="PEM",
    help="Private key on P-256, P-384 or P-521. It is read, and never kept.",
)
@click.option(
    "--password",
    envvar="LORICATE_KEY_PASSWORD",
    help="Password of an encrypted key; better given as LORICATE_KEY_PASSWORD.",
)
@json_option
def command(folder: Path, key: Path, password: str | None, as_json: bool) -> None:
    """Sign every file of a folder.

    Writes DIR/model.sig, an OpenSSF model-signing bundle that the command model_signing verifies
    as well. A manifest is written if there is none; one that no longer describes the folder stops
    the command. Nothing uses a network. Needs the extra 'sign'.
    """
    from loricate.recipes.sign import sign

    signed = sign(folder, key, password=password)
    if as_json:
        new = signed.is_manifest_new
        table = {"signature": str(signed.signature), "files": signed.n_files, "new_manifest": new}
        print_json({**table, "key_hint": signed.key_hint})
        return
    click.echo(signed.signature)
    log(f"{signed.n_files} files signed" + (", with a new manifest" * signed.is_manifest_new))
