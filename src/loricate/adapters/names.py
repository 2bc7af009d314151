"""Old and new spellings of module names.

Files keep the names of the library version that wrote them; a module is found under any of them.
"""

import re

__all__ = ["canonical", "spellings", "without_tower"]

# diffusers before 0.17 named the parts of an autoencoder's attention differently, and the files
# of Stable Diffusion 1.x and 2.x still do.
_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_OLD_VAE = re.compile(rf"(?<=\.attentions\.0\.)({'|'.join(_ATTENTION.values())})$")
_NEW_VAE = {old: new for new, old in _ATTENTION.items()}

# Attention processors named the parts of a text encoder's attention like those of a denoiser.
_OLD_TEXT = re.compile(r"(?<=\.self_attn\.)to_(q|k|v|out)(\.0)?$")

# transformers 5.6 removed this level from CLIPTextModel.
_TEXT = "text_model."
_TOWER = ("encoder.layers.", "embeddings.", "final_layer_norm")


def spellings(module: str) -> tuple[str, ...]:
    """Names a module may have in a file, the given one first."""
    names = [module]
    for new, old in _ATTENTION.items():
        for here, there in ((new, old), (old, new)):
            if module.endswith(f".{here}"):
                names.append(module.removesuffix(here) + there)
    names.append(module.removeprefix(_TEXT) if module.startswith(_TEXT) else _TEXT + module)
    return tuple(names)


def canonical(component: str, module: str) -> str:
    """The one name an adapter knows a module by.

    Modules of a CLIP text encoder are below ``text_model``, and attention has its new names.

    Args:
        component: Part of the pipeline, such as ``vae``.
        module: Name in any spelling of diffusers or transformers.
    """
    if component == "vae":
        return _OLD_VAE.sub(lambda old: _NEW_VAE[old[1]], module)
    if component.startswith("text_encoder"):
        module = _OLD_TEXT.sub(r"\1_proj", module)
        return _TEXT + module if module.startswith(_TOWER) else module
    return module


def without_tower(module: str) -> str | None:
    """Name of a module of a CLIP text encoder without ``text_model``; ``None`` for others."""
    short = module.removeprefix(_TEXT)
    return short if short.startswith(_TOWER) else None
