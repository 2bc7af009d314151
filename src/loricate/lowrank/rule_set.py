"""One rank rule for everything, or one for each named part."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self, final

from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.lowrank.rules import RankRule, parse

__all__ = ["RuleSet"]


@final
@dataclass(frozen=True)
class RuleSet:
    """Rank rules by part, and one for all other parts.

    Args:
        default: Rule of every part that is not named; ``None`` if each must be.
        by_part: Rule of each named part.
    """

    default: RankRule | None = None
    by_part: Mapping[str, RankRule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_part", MappingProxyType(dict(self.by_part)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Rules from their written form, the inverse of ``str``.

        Args:
            text: ``"energy:0.9"``, ``"unet=rank:8,text_encoder=energy:0.9"``, or both kinds, as
                in ``"rank:8,unet=rank:16"``.

        Raises:
            ConfigError: A rule does not parse, or two are given for the same.
        """
        rules: dict[str | None, RankRule] = {}
        for entry in text.split(","):
            part, named, rule = entry.rpartition("=")
            key = part.strip() if named else None
            if key in rules or key == "":
                expected = "one rule for each part, such as 'unet=rank:8,text_encoder=energy:0.9'"
                raise ConfigError(ConfigProblem(key="rule", expected=expected, got=text))
            rules[key] = parse(rule)
        default = rules.pop(None, None)
        return cls(default, {part: rule for part, rule in rules.items() if part is not None})

    def __str__(self) -> str:
        named = [f"{part}={rule}" for part, rule in self.by_part.items()]
        return ",".join([str(self.default), *named] if self.default else named)

    def of(self, part: str) -> RankRule:
        """Rule of one part.

        Raises:
            ConfigError: It has none.
        """
        rule = self.by_part.get(part, self.default)
        if rule is None:
            expected = f"a rule for {part!r}, or one without a name for the rest"
            raise ConfigError(ConfigProblem(key="rule", expected=expected, got=str(self)))
        return rule

    def check_parts(self, parts: Collection[str]) -> None:
        """Refuse rules for parts that do not exist, and parts without a rule.

        Args:
            parts: Names of the parts there are.

        Raises:
            ConfigError: Some rule or part is left over.
        """
        for unknown in sorted(set(self.by_part) - set(parts)):
            expected = f"rules for {', '.join(sorted(parts))}"
            raise ConfigError(
                ConfigProblem(
                    key="rule", expected=expected, got=unknown, nearest=nearest(unknown, parts)
                )
            )
        for part in parts:
            self.of(part)
