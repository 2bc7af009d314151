"""What the training of a text encoder works on."""

from dataclasses import dataclass
from typing import final

from torch import nn

from loricate.core.prompt_surface import PromptSurface
from loricate.defenses._target import Target

__all__ = ["PromptTarget"]


@final
@dataclass(frozen=True)
class PromptTarget:
    """What is protected, and where the adapter goes.

    Args:
        module: The text encoder; frozen. Its token embeddings stay as they are.
        surface: Prompts to hidden states, through ``module`` as it stands.
        is_dense: Update every layer at full rank instead: the upper line adapters are held to.
    """

    module: nn.Module
    surface: PromptSurface
    is_dense: bool = False

    def as_target(self) -> Target:
        """The same for what knows no prompts."""
        return Target(self.module, self.surface.embeddings(), is_dense=self.is_dense)
