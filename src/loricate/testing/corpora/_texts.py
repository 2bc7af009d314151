"""Texts that begin with letters that are opcodes of pickles, as models have them beside them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from loricate.adapters.tensors import save_tensors
from loricate.testing.corpora._case import Build, Case

__all__ = ["TEXTS"]

_FILES: Mapping[str, tuple[str, str | bytes]] = {
    "copyright": ("LICENSE", "(c) 2024 Foo\nBar\n\nPermission is granted.\n"),
    "colors": ("colors.txt", "color\nred\nblue\n"),
    "sentence_by_lines": ("caption.txt", "cats\nare\nfine.\n"),
    "list_of_ignored": (".gitignore", "coverage\ndist\n.env\n.venv\n"),
    "list_of_ignored_caches": (".dockerignore", "core\ncache\n.vscode\n"),
    "class": ("pipeline.py", "class Pipeline:\n    def __call__(self):\n        return None\n"),
    "imports": ("pipeline.py", "import os\nimport sys\n\nos.getcwd()\n"),
    "from_imports": ("pipeline.py", "from diffusers import X\n\nX()\n"),
    "only_import": ("setup.py", "import\nos\n.\n"),
    "lisp": ("a.scm", "(import\n(rnrs)\n)\n"),
    "shell": ("run.sh", "(cd src\nls\n)\n"),
    "conditions": ("a.txt", "(if\nthen\nelse)\n"),
    "initials": ("a.txt", "(i) first\n(ii) second\nRest.\n"),
    "included": ("a.txt", "(incl. taxes)\nfoo\nbar\n"),
    "quoted": ("a.txt", "S'\nis the letter of a string\n"),
    "quotation": ("a.txt", "'S' stands for string\n"),
    "number": ("a.txt", "I01\nI02\nI03\n"),
    "integers": ("labels.txt", "I1\nI2\n"),
    "none": ("a.txt", "N.\nThe rest is silence.\n"),
    "none_and_more": ("a.txt", "N. B. This was\nwritten in haste.\n"),
    "full_stop": ("a.txt", "."),
    "brackets": ("a.txt", ")\n]\n}\n"),
    "bracket_face": ("a.txt", "]: a list of things\n"),
    "title": ("README.md", "V\nis a letter\n\ncos\nsin\ntan\n"),
    "trigonometry": ("a.txt", "cos\nsin\ntan\n"),
    "prompt": ("prompt.txt", "portrait of a cat\ncinematic\n(masterpiece:1.2)\n"),
    "get": ("a.txt", "g0\np0\nq\n"),
    "get_well": ("a.txt", "get well soon\nput\n"),
    "persistent": ("a.txt", "P\nQ\nR\n"),
    "long_line": ("a.txt", "V" + "very " * 50_000 + "\nlong\n"),
    "german": ("a.txt", "Vögel\nfliegen\nüber\n"),
    "japanese": ("a.txt", "(猫\nかわいい\n)"),
    "latin": ("a.txt", "(caf\u00e9\n\u00e0 la carte)\n".encode("latin-1")),
    "windows": ("a.txt", "cats\r\nand\r\ndogs\r\n"),
    "utf_16": ("a.txt", "cats\nand\ndogs\n".encode("utf-16")),
    "yaml": ("config.yaml", "class_name: Model\nlayers:\n- conv\n- 'S'\n"),
    "yaml_list": ("a.yaml", "- a\n- b\n"),
    "table": ("labels.csv", "class,name\n1,cat\n2,dog\n"),
    "ini": ("a.toml", "[model]\nname = 'x'\n"),
    "markdown": ("README.md", "---\nlicense: mit\n---\n# Model\n"),
    "page": ("index.html", "<!doctype html><html></html>"),
    "merges": ("merges.txt", "#version: 0.2\ni n\nt h\na n\n"),
    "merges_without_version": ("merges.txt", "i n\nt h\nc o\nR e\n"),
    "vocabulary": ("vocab.txt", "in\nthe\ncat\n.\n"),
    "lines_of_json": ("metadata.jsonl", '{"file_name": "a.png"}\n{"file_name": "b.png"}\n'),
    "json_list": ("tags.json", json.dumps(["cat", "dog"])),
    "json_text": ("x.json", '"cat"'),
    "json_number": ("x.json", "17\n"),
    "json_with_a_mark": ("x.json", b'\xef\xbb\xbf{"a": 1}'),
    "picture": ("a.png", b"\x89PNG\r\n\x1a\nPNG" + bytes(range(256)) * 4),
    "zlib_by_chance": ("a.txt", "x^2 + y^2 = 1\n"),
    "gzip_by_chance": ("a.txt", "BZh is how bzip2 begins\n"),
}


def _beside_weights(name: str, content: str | bytes) -> Build:
    """A folder as it is downloaded: weights and a text."""

    def build(folder: Path) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        save_tensors(folder / "model.safetensors", {"x": np.ones((2, 2), np.float32)})
        return folder

    return build


TEXTS = tuple(
    Case(name=f"text_{name}", build=_beside_weights(*file)) for name, file in _FILES.items()
)
"""Folders in which nothing is to be found."""
