"""Captioned emoji art for the embedded Stable Diffusion.

Reads the two npm packages (``npm pack`` fetches them when they are absent), keeps the concepts
drawn in both styles, splits them by concept, and writes one ``.npz`` without pickles.

    python embedded/make_data.py --out build/data
"""

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGES = {"noto": "emoji-datasource-google", "twemoji": "emoji-datasource-twitter"}
FOLDERS = {"noto": "google", "twemoji": "twitter"}
VERSION = "16.0.0"
HELD_OUT = 0.1
SIZE = 64


def package(style: str, cache: Path) -> Path:
    """Path of the style's npm archive, fetched once."""
    path = cache / f"{PACKAGES[style]}-{VERSION}.tgz"
    if not path.exists():
        subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGES[style]}@{VERSION}"], cwd=cache, check=True
        )
    return path


def members(path: Path, folder: str) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """The emoji table of an archive and its 64-pixel pictures by file name."""
    pictures: dict[str, bytes] = {}
    table: list[dict[str, object]] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.startswith(f"package/img/{folder}/64/"):
                pictures[Path(member.name).name] = archive.extractfile(member).read()
            elif member.name == "package/emoji.json":
                table = json.loads(archive.extractfile(member).read())
    return table, pictures


def caption(entry: dict[str, object]) -> str:
    """Plain-word name of a concept, as a prompt would say it."""
    name = str(entry["name"] or entry["short_name"]).lower()
    if entry["category"] == "Flags":
        name = "flag " + str(entry["short_name"]).removeprefix("flag-")
    words = name.replace("_", " ").replace("-", " ").replace("&", "and").replace(":", " ")
    return " ".join(words.replace(",", " ").split())


def is_held_out(concept: str) -> bool:
    """Whether a concept belongs to the test split; decided by its code points alone."""
    digest = hashlib.sha256(f"split-0/{concept}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < HELD_OUT


def picture(data: bytes) -> np.ndarray:
    """RGBA, 64 x 64, color premultiplied by nothing: as stored."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS), dtype=np.uint8)


def build(cache: Path) -> dict[str, np.ndarray]:
    """All pictures of concepts drawn in both styles, ordered by concept, then style."""
    archives = {style: members(package(style, cache), FOLDERS[style]) for style in PACKAGES}
    rows: dict[str, list[object]] = {
        "rgba": [],
        "caption": [],
        "concept": [],
        "style": [],
        "held_out": [],
    }
    for entry in archives["noto"][0]:
        if not all(str(entry["image"]) in pictures for _, pictures in archives.values()):
            continue
        for style, (_, pictures) in archives.items():
            rows["rgba"].append(picture(pictures[str(entry["image"])]))
            rows["caption"].append(caption(entry))
            rows["concept"].append(str(entry["unified"]))
            rows["style"].append(style)
            rows["held_out"].append(is_held_out(str(entry["unified"])))
    return {name: np.asarray(column) for name, column in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/data"))
    parser.add_argument("--cache", type=Path, help="folder of the npm archives; default: --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = build(args.cache or args.out)
    np.savez_compressed(args.out / "emoji.npz", **data)
    concepts = len(set(data["concept"]))
    held = len({c for c, h in zip(data["concept"], data["held_out"], strict=True) if h})
    print(f"{len(data['rgba'])} pictures of {concepts} concepts, {held} held out")


if __name__ == "__main__":
    main()
