"""``loricate manifest``: which bytes of a folder belong together."""

from pathlib import Path

import click

from loricate.cli.helpers import json_option, log, print_json

__all__ = ["command"]


@click.command()
@click.argument(
    "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List every file and tensor of a folder by its digest.

    Writes DIR/loricate-manifest.json, in place of one that is there: size and SHA-256 of every
    file, name, dtype, shape and SHA-256 of every tensor, and the digests of adapters, of the base
    they are for and of the evidence. Equal folders get equal manifests. Links to files are
    followed, links to folders are refused.
    """
    from loricate.recipes.manifest import manifest

    path, found = manifest(folder)
    counts = {
        "files": len(found.files),
        "tensors": sum(len(each.tensors or {}) for each in found.files.values()),
        "size_bytes": sum(each.size_bytes for each in found.files.values()),
    }
    if as_json:
        stated = {"adapters": dict(found.adapters), "evidence": dict(found.evidence)}
        bases = {part: dict(each) for part, each in found.bases.items()}
        print_json({"manifest": str(path), **counts, "bases": bases, **stated})
        return
    click.echo(path)
    log(f"{counts['files']} files, {counts['tensors']} tensors, {counts['size_bytes']:,} bytes")
