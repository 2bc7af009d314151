"""Old and new spellings of module names.

Files keep the names of the library version that wrote them; a module is found under any of them.
"""

__all__ = ["spellings"]

# diffusers before 0.17 named the parts of an autoencoder's attention differently, and the files
# of Stable Diffusion 1.x and 2.x still do.
_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

# transformers 5.6 removed this level from CLIPTextModel.
_TEXT = "text_model."


def spellings(module: str) -> tuple[str, ...]:
    """Names a module may have in a file, the given one first."""
    names = [module]
    for new, old in _ATTENTION.items():
        for here, there in ((new, old), (old, new)):
            if module.endswith(f".{here}"):
                names.append(module.removesuffix(here) + there)
    names.append(module.removeprefix(_TEXT) if module.startswith(_TEXT) else _TEXT + module)
    return tuple(names)
