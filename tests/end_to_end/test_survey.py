"""``loricate survey``: one plan, several strategies, one record."""

import importlib
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch")

from loricate.basics.errors import ConfigError
from loricate.basics.spec import from_table, read_spec
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.recipes.survey import SurveySpec
from loricate.records.io import read_record
from loricate.records.names import STRONGEST, Metrics
from loricate.records.schema import Aggregate

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")

PLAN = """
[strategies.hardened]
seeds = [0, 5]
[[strategies.hardened.defense]]
name = "jpeg"
[[strategies.hardened.defense]]
name = "adversarial_lora"
inner = { name = "fgsm" }
schedule = { steps = 2, batch_size = 4 }
[[strategies.hardened.defense]]
name = "leaf_lora"
inner = { name = "random_characters" }
schedule = { steps = 2, batch_size = 4 }

[strategies.jpeg]
[[strategies.jpeg.defense]]
name = "jpeg"

[plan]
epsilon = "16/255"
n_images = 3
edit = { num_inference_steps = 2 }
[[plan.trials]]
attack = { name = "pgd", steps = 1 }
objective = { name = "latent_shift" }
epsilons = ["16/255"]
[[plan.trials]]
attack = { name = "pgd", steps = 2 }
objective = { name = "latent_target" }
epsilons = ["16/255"]

[[plan.trials]]
attack = { name = "pgd", steps = 1 }
objective = { name = "latent_shift" }
epsilons = ["16/255"]
variant = "5 draws"
eot_samples = 5

[plan.battery]
attack = { steps = 2 }
epsilon = "16/255"
unseen_epsilon = "24/255"
gradient_free = [{ name = "square", queries = 4 }]
steps = [1, 2]
scoring_draws = 1
runs = 1
n_images = 2

[prompts]
n_prompts = 2
sampling = { num_inference_steps = 1 }
[[prompts.trials]]
attack = { name = "random_characters" }
budget = { edits = 1 }
draws = true
"""

SAME_AGAIN = """
[[prompts.trials]]
attack = { name = "random_characters", n_restarts = 9 }
budget = { edits = 1 }
"""


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    (folder / "plan.toml").write_text(PLAN)
    arguments = ["survey", "--config", str(folder / "plan.toml"), "--out", str(folder / "out")]
    code = run(arguments)
    return folder / "out", code, arguments


def test_every_model_stands_in_one_record(surveyed) -> None:
    out, code, _ = surveyed
    record = read_record(out)
    trainings = {"hardened@0", "hardened@5"}
    assert {a.subject for a in record.aggregates} == {"base", "hardened", "jpeg"} | trainings
    assert code in (ExitCode.NEGATIVE, ExitCode.INCONCLUSIVE)
    assert (out / "report.html").is_file()
    assert "Defenses by attacks" in (out / "report.html").read_text()


def test_pictures_and_prompts_are_attacked(surveyed) -> None:
    record = read_record(surveyed[0])
    found = {(a.subject, a.surface, a.norm) for a in record.aggregates if a.attack != "none"}
    assert {a.variant for a in record.aggregates} == {"", "5 draws"}
    # A strategy that leaves the text encoder alone shares its rows with the base.
    assert ("hardened", "text_encoder", "characters") in found
    assert ("jpeg", "text_encoder", "characters") not in found
    assert {("jpeg", "vae_encoder", "linf"), ("hardened", "vae_encoder", "linf")} <= found
    assert Metrics.PROMPT_SUCCESS in {a.metric for a in record.aggregates}


def test_trainings_are_of_their_seeds_and_counted_together(surveyed) -> None:
    record = read_record(surveyed[0])
    drift = {a.subject: a for a in record.aggregates if _is_worst_drift(a)}
    singles = [drift["hardened@0"], drift["hardened@5"]]
    assert singles[0].value != singles[1].value
    assert drift["hardened"].value == pytest.approx(sum(a.value for a in singles) / 2)
    assert (drift["hardened"].n, drift["base"].n) == (3, 3)
    states = {a.subject for a in record.aggregates if a.metric == Metrics.EMBEDDING_SHIFT}
    assert {"hardened", "hardened@0", "hardened@5"} <= states


def _is_worst_drift(a: Aggregate) -> bool:
    return (a.metric, a.attack) == (Metrics.LATENT_DRIFT, STRONGEST)


def test_the_battery_checks_the_first_training(surveyed) -> None:
    checks = {c.name: c for c in read_record(surveyed[0]).checks if c.subject == "hardened@0"}
    assert {"active_test", "step_curve", "knowledge_order", "unseen_conditions"} <= checks.keys()


def test_a_finished_survey_is_not_done_again(surveyed) -> None:
    out, code, arguments = surveyed
    rows = (out / "rows.jsonl").read_bytes(), (out / "prompts.jsonl").read_bytes()
    assert run([*arguments, "--resume"]) == code
    assert ((out / "rows.jsonl").read_bytes(), (out / "prompts.jsonl").read_bytes()) == rows


def test_the_plan_of_the_page_is_a_plan() -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "survey.md"
    toml = page.read_text().partition("```toml\n")[2].partition("```")[0]
    spec = from_table(SurveySpec, tomllib.loads(toml))
    assert spec.names == ("hardened", "jpeg", "release")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("[strategies.jpeg]\n[[strategies.jpeg", "[strategies.base]\n[[strategies.base"), "base"),
        (('name = "leaf_lora"\n', 'name = "leaf_lroa"\n'), "leaf_lora"),
        (('name = "jpeg"\n[[strat', 'name = "plain_lora"\n[[strat'), "one adapter for vae"),
        (('["16/255"]', "[16]"), "16/255"),
        (("seeds = [0, 5]", "seeds = [5, 5]"), "every seed once"),
        (("[strategies.jpeg]\n", "[strategies.jpeg]\nseeds = [1]\n"), "nothing to train"),
        (("[strategies.jpeg]\n[[strategies.jpeg", '[strategies."a@1"]\n[[strategies."a@1"'), "@"),
        (("draws = true\n", "draws = true\n" + SAME_AGAIN), "another attack or budget"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(change, word, tmp_path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace(*change, 1))
    with pytest.raises(ConfigError, match=word):
        read_spec(SurveySpec, path)


def test_what_is_no_share_is_refused_before_anything_is_loaded(tmp_path, capsys) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    out = tmp_path / "out"
    arguments = ["survey", "--config", str(tmp_path / "plan.toml"), "--out", str(out)]
    assert run([*arguments, "--shard", "4/4"]) == ExitCode.USAGE
    assert "0/4" in capsys.readouterr().err
    assert not out.exists()
