"""Models that come with the package, in diffusers layout: a name leads to a local folder."""

from importlib.resources import files
from pathlib import Path

from loricate.basics.errors import ConfigError, ConfigProblem, nearest

__all__ = ["names", "path"]

_ROOT = Path(str(files(__name__)))


def names() -> tuple[str, ...]:
    """Names of the embedded models, sorted."""
    return tuple(sorted(index.parent.name for index in _ROOT.glob("*/model_index.json")))


def path(name: str = "emoji-sd") -> Path:
    """Folder of an embedded model.

    Args:
        name: One of ``names()``.

    Returns:
        A folder that ``from_pretrained`` loads; ``images/`` and the judges lie beside the model.

    Raises:
        ConfigError: No such model is embedded.
    """
    known = names()
    if name not in known:
        expected = f"an embedded model, one of {', '.join(known) or 'none'}"
        hint = nearest(name, known)
        raise ConfigError(ConfigProblem(key="model", expected=expected, got=name, nearest=hint))
    return _ROOT / name
