"""A byte-level tokenizer written on the spot, for tiny models."""

import json
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

__all__ = ["tiny_tokenizer"]


def tiny_tokenizer(max_length: int = 16) -> CLIPTokenizer:
    """A CLIP tokenizer with one token a byte and no merges.

    Args:
        max_length: Tokens of a prompt, start and end included.

    Returns:
        The tokenizer.
    """
    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(f"{s}</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        table = {token: index for index, token in enumerate(vocabulary)}
        (path / "vocab.json").write_text(json.dumps(table))
        (path / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=max_length
        )
