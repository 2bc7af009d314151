"""``loricate attack``: one attack on one input, with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loricate.cli.helpers import PIXEL_LENGTH, json_option, log, print_json, print_table

__all__ = ["command"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument(
    "picture", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--model", default="emoji-sd", show_default=True, help="What is attacked.")
@click.option("--adapter", type=_FOLDER, help="PEFT folder of an adapter for the autoencoder.")
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Preprocessing in front, such as jpeg:quality=75. Repeatable, in order.",
)
@click.option(
    "--attack",
    default="pgd:steps=100",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="One of loricate ls attacks.",
)
@click.option(
    "--objective",
    default="latent_shift",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="One of loricate ls objectives.",
)
@click.option("--epsilon", type=PIXEL_LENGTH, default="8/255", show_default=True, help="Radius.")
@click.option(
    "--norm", type=click.Choice(["linf", "l2"]), default="linf", show_default=True, help="Ball."
)
@click.option(
    "--eot-samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Draws averaged where the model is random.",
)
@click.option("--prompt", default="", help="What the edit asks for.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Root of every draw.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where."
)
@json_option
def command(picture: Path, out: Path, as_json: bool, **flags: Any) -> None:
    """Attack IMAGE through everything deployed, and show what the model makes of it.

    IMAGE is 8-bit RGB; its central square is brought to the model's size. Writes the attacked
    picture, the perturbation, the edits of both, a sheet with all of them, and result.json with
    numbers measured on the saved file.
    """
    from loricate.recipes.attack import attack_image

    found = attack_image(_spec(flags), picture, out)
    if as_json:
        print_json(found)
        return
    rows = [(key.replace("_", " "), value) for key, value in found.items() if _is_number(value)]
    print_table(("measured", "value"), [(key, f"{value:.4g}") for key, value in rows])
    log(f"pictures: {out / 'sheet.png'}")


def _spec(flags: dict[str, Any]) -> Any:
    from loricate.basics.spec import from_text
    from loricate.core.attack import Attack
    from loricate.core.defense import InputDefense
    from loricate.core.objective import Objective
    from loricate.recipes.attack import ImageAttackSpec

    # Abstract on purpose: the text names the class.
    wings: dict[str, Any] = {"attack": Attack, "objective": Objective, "defense": InputDefense}
    named = {key: from_text(wings[key], flags[key], key=key) for key in ("attack", "objective")}
    defenses = [from_text(wings["defense"], text, key="defense") for text in flags["defenses"]]
    return ImageAttackSpec(**(flags | named | {"defenses": tuple(defenses)}))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
