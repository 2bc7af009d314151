"""``loricate attack``: one attack on one input, with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from loricate.cli.helpers import PIXEL_LENGTH, json_option, log, print_json, print_table

__all__ = ["command"]

_TEXT = "NAME[:FIELD=VALUE,...]"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_ADAPTER = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("target", metavar="IMAGE|PROMPT")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--model", default="emoji-sd", show_default=True, help="What is attacked.")
@click.option(
    "--adapter", type=_ADAPTER, help="Adapter of the autoencoder (IMAGE) or text encoder (PROMPT)."
)
@click.option("--attack", metavar=_TEXT, help="One of loricate ls attacks.")
@click.option("--objective", metavar=_TEXT, help="One of loricate ls objectives.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Root of every draw.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where."
)
@click.option("--epsilon", type=PIXEL_LENGTH, help="IMAGE: radius.  [default: 8/255]")
@click.option("--norm", type=click.Choice(["linf", "l2"]), help="IMAGE: ball.  [default: linf]")
@click.option(
    "--eot-samples", type=click.IntRange(min=1), help="IMAGE: draws averaged.  [default: 1]"
)
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    metavar=_TEXT,
    help="IMAGE: preprocessing in front, such as jpeg:quality=75. Repeatable, in order.",
)
@click.option("--prompt", help="IMAGE: what the edit asks for.")
@click.option("--edits", type=click.IntRange(min=1), help="PROMPT: characters to change.")
@click.option("--tokens", type=click.IntRange(min=1), help="PROMPT: free tokens in front.")
@json_option
def command(target: str, out: Path, as_json: bool, **flags: Any) -> None:
    """Attack IMAGE or PROMPT through everything deployed, and show what it does.

    An existing file is an image, 8-bit RGB; its central square is brought to the model's size and
    attacked with pgd:steps=100 on latent_shift by default. Anything else is a prompt, attacked
    with charmer on embedding_shift. Writes pictures, a sheet of them, and result.json.
    """
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    found = (
        _on_image(Path(target), out, given) if _is_file(target) else _on_prompt(target, out, given)
    )
    if as_json:
        print_json(found)
        return
    print_table(("measured", "value"), list(_rows(found)))
    log(f"pictures: {out / 'sheet.png'}")


def _is_file(target: str) -> bool:
    """Whether an image is meant; a path without a file is a mistake and no prompt."""
    is_path, is_file = Path(target).suffix.lower() in _PICTURES, False
    with suppress(OSError, ValueError):  # a long prompt is no path that a file system would take
        is_file = Path(target).is_file()
    if is_path and not is_file:
        raise click.BadParameter(f"there is no file {target!r}", param_hint="IMAGE|PROMPT")
    return is_file


def _on_image(path: Path, out: Path, given: dict[str, Any]) -> Mapping[str, object]:
    from loricate.basics.spec import from_text
    from loricate.core.attack import Attack
    from loricate.core.defense import InputDefense
    from loricate.recipes.attack import ImageAttackSpec, attack_image

    _refuse(given, ("edits", "tokens"), "a prompt")
    # Abstract on purpose: the text names the class.
    wing: Any = InputDefense
    if "defenses" in given:
        texts = given["defenses"]
        given["defenses"] = tuple(from_text(wing, text, key="defense") for text in texts)
    return attack_image(ImageAttackSpec(**_named(given, Attack)), path, out)


def _on_prompt(prompt: str, out: Path, given: dict[str, Any]) -> Mapping[str, object]:
    from loricate.core.prompt_attack import PromptAttack
    from loricate.core.text_budgets import CharBudget, TokenBudget
    from loricate.recipes.attack import PromptAttackSpec, attack_prompt

    _refuse(given, ("epsilon", "norm", "eot_samples", "defenses", "prompt"), "an image")
    edits, tokens = given.pop("edits", None), given.pop("tokens", None)
    if edits and tokens:
        raise click.UsageError("--edits and --tokens are two budgets; give one")
    if tokens:
        given["budget"] = TokenBudget(tokens=tokens)
    elif edits:
        given["budget"] = CharBudget(edits=edits)
    return attack_prompt(PromptAttackSpec(**_named(given, PromptAttack)), prompt, out)


def _named(given: dict[str, Any], attack: Any) -> dict[str, Any]:
    """The flags, with attack and objective read."""
    from loricate.basics.spec import from_text
    from loricate.core.objective import Objective

    wings: dict[str, Any] = {"attack": attack, "objective": Objective}
    read = {key: from_text(wings[key], given[key], key=key) for key in wings if key in given}
    return given | read


def _refuse(given: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in names:
        if name in given:
            flag = "--" + name.replace("_", "-").replace("defenses", "defense")
            raise click.UsageError(f"{flag} is for {what}")


def _rows(found: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in found.items():
        if isinstance(value, int | float | str):
            yield key.replace("_", " "), value if isinstance(value, str) else f"{value:.4g}"
