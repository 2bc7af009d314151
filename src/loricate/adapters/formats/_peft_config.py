"""The configuration beside PEFT's factors: what it may say, and the scale it implies."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    HostileFileError,
    UnsupportedError,
)

__all__ = ["PEFTConfig", "read_config"]

_MAX_BYTES = 10_000_000

# The only patterns read are plain names, anchored or not, so that no regex of a file ever runs.
_LITERAL = re.compile(r"(?P<anchor>\^?)(?P<name>\w+(?:\\?\.\w+)*)", re.ASCII)

_SCALE_KEYS = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"})
_CHECKED_KEYS = frozenset({"peft_type", "init_lora_weights", "bias"})
# Settings that change nothing about what stored factors mean. Any other has to be unset.
_HARMLESS_KEYS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "target_modules",
        "task_type",
    }
)
# Other initializations rewrite the base, so that the factors alone do not say what they do.
_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


@final
@dataclass(frozen=True)
class PEFTConfig:
    """Rank and alpha of each module, as a config states them.

    Args:
        rank: Rank of modules that no pattern names.
        alpha: Alpha of modules that no pattern names.
        ranks: Rank by pattern.
        alphas: Alpha by pattern.
        rooted: Whether alpha is divided by the root of the rank (rsLoRA).
        file: Where it was read, for errors.
    """

    rank: float
    alpha: float
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rooted: bool = False
    file: Path | None = None

    @classmethod
    def of_ranks(cls, ranks: Mapping[str, int]) -> "PEFTConfig":
        """Config with alpha == rank everywhere; the commonest rank becomes the default."""
        common = Counter(ranks.values()).most_common(1)[0][0]
        # PEFT matches a pattern against the end of names, so that an unanchored "conv1" would
        # also hit every "...conv1", and the first hit wins.
        patterns = {f"^{re.escape(m)}": float(k) for m, k in ranks.items() if k != common}
        return cls(common, common, patterns, patterns)

    @classmethod
    def parse(cls, table: Mapping[str, Any], file: Path) -> "PEFTConfig":
        """Config from its JSON form.

        Raises:
            ConfigError: A rank or alpha is not a finite number, or a rank is below 1.
        """
        problems: list[ConfigProblem] = []
        ranks = _numbers(table, "rank_pattern", "r", problems)
        alphas = _numbers(table, "alpha_pattern", "lora_alpha", problems)
        problems += [
            ConfigProblem(key=key, expected="a rank of at least 1", got=number)
            for key, number in ranks.items()
            if number < 1
        ]
        if problems:
            raise ConfigError(problems, file=file)
        rooted = bool(table.get("use_rslora", False))
        return cls(ranks.pop("r"), alphas.pop("lora_alpha"), ranks, alphas, rooted, file)

    def to_table(self) -> dict[str, Any]:
        """The part of the JSON form that sets ranks and scales."""
        return {
            "r": int(self.rank),
            "lora_alpha": int(self.alpha),
            "rank_pattern": {pattern: int(k) for pattern, k in self.ranks.items()},
            "alpha_pattern": {pattern: int(k) for pattern, k in self.alphas.items()},
        }

    def scale(self, module: str, stored_rank: int) -> float:
        """Factor in front of ``B @ A`` for a module.

        Raises:
            ConfigError: The stated rank is not the stored one.
            UnsupportedError: A pattern is more than a plain name.
        """
        rank = self._match(self.ranks, module, self.rank)
        if rank != stored_rank:
            expected = f"rank {stored_rank}, as stored"
            raise ConfigError(
                ConfigProblem(key=module, expected=expected, got=rank), file=self.file
            )
        return self._match(self.alphas, module, self.alpha) / (rank**0.5 if self.rooted else rank)

    def _match(self, table: Mapping[str, float], module: str, default: float) -> float:
        """Value of the first pattern that names a module, or the default."""
        for pattern, value in table.items():
            literal = _LITERAL.fullmatch(pattern)
            if literal is None:
                hint = "replace the pattern by full module names"
                raise UnsupportedError(f"the pattern {pattern!r}", by="format 'peft'", hint=hint)
            name = literal["name"].replace("\\", "")
            if module == name or (not literal["anchor"] and module.endswith(f".{name}")):
                return value
        return default


def read_config(path: Path) -> PEFTConfig:
    """Config of plain LoRA factors from ``adapter_config.json``.

    Raises:
        HostileFileError: The file is oversize or not a JSON object.
        UnsupportedError: It describes more than plain factors.
        ConfigError: A rank or alpha does not make sense.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise HostileFileError(path, reason=f"config exceeds {_MAX_BYTES} bytes")
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise HostileFileError(path, reason=f"config is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise HostileFileError(path, reason="config is not an object")
    _refuse_variants(table)
    return PEFTConfig.parse(table, path)


def _refuse_variants(table: Mapping[str, Any]) -> None:
    known = _SCALE_KEYS | _CHECKED_KEYS | _HARMLESS_KEYS
    unfit = {key: value for key, value in table.items() if key not in known and value}
    if table.get("peft_type") != "LORA":
        unfit["peft_type"] = table.get("peft_type")
    if table.get("bias", "none") != "none":
        unfit["bias"] = table["bias"]
    if table.get("init_lora_weights") not in _PLAIN_INITS:
        unfit["init_lora_weights"] = table["init_lora_weights"]
    if unfit:
        listed = ", ".join(f"{key}={value!r}" for key, value in sorted(unfit.items()))
        raise UnsupportedError(f"a config with {listed}", by="format 'peft'")


def _numbers(
    table: Mapping[str, Any], patterns: str, default: str, problems: list[ConfigProblem]
) -> dict[str, float]:
    """The default and all patterns of one setting; what is not a number becomes a problem."""
    given = table.get(patterns) or {}
    if not isinstance(given, dict):
        problems.append(ConfigProblem(key=patterns, expected="a table of numbers", got=given))
        given = {}
    numbers = {default: table.get(default), **given}
    for key, number in numbers.items():
        if type(number) not in (int, float) or not math.isfinite(number):
            problems.append(ConfigProblem(key=key, expected="a finite number", got=number))
            numbers[key] = 1.0
    return numbers
