"""Rank rules by part."""

import pytest

from loricate.basics.errors import ConfigError
from loricate.lowrank.rule_set import RuleSet
from loricate.lowrank.rules import EnergyRank, FixedRank


@pytest.mark.parametrize(
    "text",
    ["energy:0.9", "unet=fixed:8,text_encoder=energy:0.9", "fixed:8,unet=kohya:sv_fro:0.9"],
)
def test_written_form_parses_back(text):
    assert str(RuleSet.parse(text)) == text
    assert RuleSet.parse(str(RuleSet.parse(text))) == RuleSet.parse(text)


def test_a_named_part_goes_before_the_rest():
    rules = RuleSet.parse("rank:8, unet = energy:0.9")
    assert rules.of("unet") == EnergyRank(0.9)
    assert rules.of("vae") == FixedRank(8)
    rules.check_parts(["unet", "vae"])


@pytest.mark.parametrize("text", ["rank:8,rank:9", "unet=rank:1,unet=rank:2", "=rank:1", "", "a="])
def test_what_is_ambiguous_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        RuleSet.parse(text)
    assert caught.value.problems[0].key.startswith("rule")


def test_rules_and_parts_must_match():
    rules = RuleSet.parse("unet=rank:8")
    with pytest.raises(ConfigError, match="'vae'"):
        rules.of("vae")
    with pytest.raises(ConfigError) as caught:
        rules.check_parts(["une", "vae"])
    assert caught.value.problems[0].got == "unet"
    with pytest.raises(ConfigError, match="without a name"):
        rules.check_parts(["unet", "vae"])
