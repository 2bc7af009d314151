"""Models as they are deployed: a base, adapters on its parts, preprocessing in front."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, final, get_args

from loricate.adapters.files import open_adapter
from loricate.basics.errors import ConfigProblem, nearest
from loricate.basics.spec import Spec
from loricate.core.defense import InputDefense
from loricate.core.family import Component, Family
from loricate.evaluation.subjects import Subject
from loricate.surfaces.attach import load
from loricate.surfaces.gated import is_gated, load_gated

__all__ = ["Deployment", "adapted", "deploy"]

_COMPONENTS = get_args(Component)


@final
@dataclass(frozen=True, kw_only=True)
class Deployment(Spec):
    """A model to evaluate.

    Args:
        name: What the record calls it.
        adapters: Adapter file or folder of any form, a gated one among them, by the part of the
            pipeline it goes on.
        defenses: Preprocessing in front of the encoder, in order.
    """

    name: str
    adapters: dict[str, Path] = field(default_factory=dict)
    defenses: tuple[InputDefense, ...] = ()

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Parts that a pipeline does not have."""
        for component in self.adapters.keys() - set(_COMPONENTS):
            expected, close = f"some of {', '.join(_COMPONENTS)}", nearest(component, _COMPONENTS)
            yield ConfigProblem(key="adapters", expected=expected, got=component, nearest=close)


def deploy(base: Family, deployment: Deployment) -> Subject:
    """The subject of a deployment; what has no adapter is shared with the base.

    Args:
        base: The pipeline without adapters.
        deployment: What is put on it.

    Returns:
        A model that answers for pictures and prompts.

    Raises:
        LoricateError: An adapter cannot be read, or does not fit the base.
    """
    family = base
    for component, path in deployment.adapters.items():
        family = adapted(family, cast(Component, component), path)
    return Subject(deployment.name, family, deployment.defenses)


def adapted(base: Family, component: Component, path: Path) -> Family:
    """A pipeline with an adapter on a copy of one of its parts.

    Args:
        base: The pipeline.
        component: The part.
        path: Adapter file or folder of any form, or a gated adapter.

    Raises:
        LoricateError: The adapter cannot be read, or does not fit the part.
    """
    module = copy.deepcopy(base.module(component))
    if is_gated(path):
        load_gated(module, path)
    else:
        load(module, open_adapter(path, component=component).adapter, component)
    return base.with_module(component, module)
