"""The configuration beside PEFT's factors: what it may say, and the scale it implies."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from loricate.adapters.keys import HEADER_KEY, PLAIN_INITS
from loricate.adapters.names import without_tower
from loricate.adapters.tensors import TensorFile, bounded_json
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    HostileFileError,
    UnsupportedError,
)

__all__ = [
    "PEFTConfig",
    "config_table",
    "header_config",
    "header_table",
    "read_config",
]

_MAX_BYTES = 10_000_000

# The only patterns read are plain names and lists of them, so that no regex of a file ever runs.
_PATTERN = re.compile(r"(?P<anchor>\^?)(?:\(\?:(?P<list>[^()]+)\)|(?P<name>[^()|]+))")
_LITERAL = re.compile(r"\w+(?:\\?\.\w+)*", re.ASCII)

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
_PLAIN_INITS = (True, False, None, *PLAIN_INITS)


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
        patterns: dict[str, float] = {}
        for rank in sorted(set(ranks.values()) - {common}):
            modules = [module for module, k in ranks.items() if k == rank]
            patterns |= dict.fromkeys(_patterns(modules), float(rank))
        return cls(common, common, patterns, patterns)

    @classmethod
    def parse(cls, table: Mapping[str, Any], file: Path) -> "PEFTConfig":
        """Config from its JSON form.

        Raises:
            ConfigError: A rank or alpha is not a finite number, or a rank is below 1.
        """
        problems: list[ConfigProblem] = []
        rank = _number("r", table.get("r"), problems)
        alpha = _number("lora_alpha", table.get("lora_alpha"), problems)
        ranks = _numbers("rank_pattern", table, problems)
        alphas = _numbers("alpha_pattern", table, problems)
        problems += [
            ConfigProblem(key=key, expected="a rank of at least 1", got=number)
            for key, number in (("r", rank), *ranks.items())
            if number < 1
        ]
        if problems:
            raise ConfigError(problems, file=file)
        rooted = bool(table.get("use_rslora", False))
        return cls(rank, alpha, ranks, alphas, rooted, file)

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
            UnsupportedError: A pattern is more than a plain name, or a dot of it stands for
                another character of this module.
        """
        rank = self._rank_index.find(module, self.rank)
        if rank != stored_rank:
            expected = f"rank {stored_rank}, as stored"
            raise ConfigError(
                ConfigProblem(key=module, expected=expected, got=rank), file=self.file
            )
        return self._alpha_index.find(module, self.alpha) / (rank**0.5 if self.rooted else rank)

    @cached_property
    def _rank_index(self) -> "_Index":
        return _Index(self.ranks)

    @cached_property
    def _alpha_index(self) -> "_Index":
        return _Index(self.alphas)


class _Index:
    """Values by pattern, found by the name of a module; the first pattern that fits wins.

    Raises:
        UnsupportedError: A pattern is more than plain names.
    """

    def __init__(self, patterns: Mapping[str, float]) -> None:
        self._whole: dict[str, tuple[int, float]] = {}
        self._ends: dict[str, tuple[int, float]] = {}
        self._dotted: list[_Dotted] = []
        self._last = len(patterns)
        for order, (pattern, value) in enumerate(patterns.items()):
            is_anchored, names = _literals(pattern)
            for name in names:
                place = self._whole if is_anchored else self._ends
                place.setdefault(name.replace("\\", ""), (order, value))
                if name.count(".") > name.count("\\."):
                    self._dotted.append(_Dotted(pattern, name, is_anchored, order, value))

    def find(self, module: str, default: float) -> float:
        short = without_tower(module)
        spelled = (module,) if short is None else (short, f"text_model.{short}")
        found = [self._whole[name] for name in spelled if name in self._whole]
        for name in spelled:
            parts = name.split(".")
            ends = (".".join(parts[start:]) for start in range(len(parts)))
            found += [self._ends[end] for end in ends if end in self._ends]
        order, value = min(found, default=(self._last, default))
        earlier = (each for each in self._dotted if each.order < order)
        rival = next((each for each in earlier if any(map(each.fits, spelled))), None)
        if rival is not None and rival.value != value:
            raise _loose(rival.pattern, module)
        return value


@dataclass(frozen=True, slots=True)
class _Dotted:
    """A name with bare dots, each of which is any character to PEFT."""

    pattern: str
    name: str
    is_anchored: bool
    order: int
    value: float

    def fits(self, module: str) -> bool:
        mask = self.name.replace("\\.", "\\")
        start = len(module) - len(mask)
        if start < 0 or (start > 0 and (self.is_anchored or module[start - 1] != ".")):
            return False
        pairs = zip(mask, module[start:], strict=True)
        return all(m == "." or c == ("." if m == "\\" else m) for m, c in pairs)


def config_table(ranks: Mapping[str, int]) -> dict[str, Any]:
    """The JSON form of a config of plain LoRA factors, with alpha == rank everywhere.

    Args:
        ranks: Rank of each module.
    """
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
        **_scales(ranks),
    }


def header_table(ranks: Mapping[str, int], prefix: str) -> dict[str, Any]:
    """The part of a config that loaders need in a header.

    Args:
        ranks: Rank of each module.
        prefix: What stands in front of every key, and of the names of all tensors.
    """
    return {f"{prefix}{key}": value for key, value in _scales(ranks).items()}


def header_config(file: TensorFile, prefix: str) -> PEFTConfig | None:
    """Config in the header of a file for the tensors with a prefix, if there is one.

    Raises:
        ConfigError: The header is no JSON object, or a rank or alpha does not make sense.
        UnsupportedError: It describes more than plain factors.
    """
    text = file.metadata.get(HEADER_KEY)
    if text is None:
        return None
    try:
        table = bounded_json(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        problem = ConfigProblem(key=HEADER_KEY, expected="a JSON object", got=text)
        raise ConfigError(problem, file=file.path)
    own = {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}
    if not own:
        return None
    _refuse_variants({"peft_type": "LORA", "init_lora_weights": True, **own})
    return PEFTConfig.parse(own, file.path)


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
        table = bounded_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise HostileFileError(path, reason=f"config is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise HostileFileError(path, reason="config is not an object")
    _refuse_variants(table)
    return PEFTConfig.parse(table, path)


def _scales(ranks: Mapping[str, int]) -> dict[str, Any]:
    # A list of names would match by their ends, and attach to modules that merely end alike.
    targets = "|".join(map(_target, ranks))
    return {**PEFTConfig.of_ranks(ranks).to_table(), "target_modules": f"(?:{targets})"}


def _target(module: str) -> str:
    short = without_tower(module)
    return re.escape(module) if short is None else rf"(?:text_model\.)?{re.escape(short)}"


def _patterns(modules: Sequence[str]) -> Iterator[str]:
    # PEFT matches a pattern against the end of names, so that an unanchored "conv1" would also hit
    # every "...conv1", and the first hit wins. Names of a text encoder end alike only if they are
    # the same module, which older versions of its library have below another level. One pattern
    # for many modules, because PEFT compares every module with every pattern.
    tower = [short for module in modules if (short := without_tower(module)) is not None]
    others = [module for module in modules if without_tower(module) is None]
    for anchor, names in (("^", others), ("", tower)):
        if names:
            listed = "|".join(map(re.escape, names))
            yield anchor + (listed if len(names) == 1 else f"(?:{listed})")


def _literals(pattern: str) -> tuple[bool, list[str]]:
    match = _PATTERN.fullmatch(pattern)
    names = [] if match is None else (match["list"] or match["name"]).split("|")
    if match is None or not all(map(_LITERAL.fullmatch, names)):
        hint = "replace the pattern by full module names"
        raise UnsupportedError(f"the pattern {pattern!r}", by="format 'peft'", hint=hint)
    return bool(match["anchor"]), names


def _loose(pattern: str, module: str) -> UnsupportedError:
    what = f"the pattern {pattern!r}, a dot of which stands for another character of {module!r},"
    hint = r"write \. for each dot, or name that module"
    return UnsupportedError(what, by="format 'peft'", hint=hint)


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


def _numbers(key: str, table: Mapping[str, Any], problems: list[ConfigProblem]) -> dict[str, float]:
    """The numbers of one setting by pattern; what is not a number becomes a problem."""
    given = table.get(key) or {}
    if isinstance(given, dict):
        return {pattern: _number(pattern, number, problems) for pattern, number in given.items()}
    problems.append(ConfigProblem(key=key, expected="a table of numbers", got=given))
    return {}


def _number(key: str, given: object, problems: list[ConfigProblem]) -> float:
    try:
        if isinstance(given, int | float) and type(given) is not bool and math.isfinite(given):
            return given
    except OverflowError:
        given = math.inf  # an integer of hundreds of digits
    problems.append(ConfigProblem(key=key, expected="a finite number", got=given))
    return 1.0
