"""Every hostile file is flagged by its rule, as severely as it is; no benign one is above low."""

import pytest

from loricate import models
from loricate.adapters.tensors import TensorFile
from loricate.cli.main import run
from loricate.integrity.finding import Severity
from loricate.integrity.scan import all_rules, scan
from loricate.integrity.subject import Content
from loricate.testing.corpora import pickles
from loricate.testing.corpora._held_out import HELD_OUT, OPEN
from loricate.testing.corpora.benign import BENIGN
from loricate.testing.corpora.hostile import HOSTILE


@pytest.fixture(scope="module")
def rules():
    return all_rules()


def words(findings):
    return [f"{each.rule} {each.severity}: {each.message}" for each in findings]


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile_files_are_flagged_by_the_rule_that_has_to_fire(case, rules, tmp_path):
    base = models.path() if case.needs_base else None
    report = scan([case.build(tmp_path)], base=base, rules=rules)
    for rule, severity in case.expects.items():
        # The gravest comes first.
        found = next((each.severity for each in report.findings if each.rule == rule), None)
        assert found == severity, (rule, words(report.findings))


@pytest.mark.parametrize("base", [None, models.path()], ids=["alone", "with base"])
@pytest.mark.parametrize("case", OPEN, ids=lambda case: case.name)
def test_what_no_rule_can_judge_stays_open_module_by_module(case, base, rules, tmp_path):
    path = case.build(tmp_path)
    report = scan([path], base=base, rules=rules)
    assert report.outcome() == "inconclusive"
    modules = {name.partition(".")[0] for name in TensorFile(path)}
    listed = [each for each in report.not_verified if each.rule == "unjudged_updates"]
    assert {each.where for each in listed} == modules
    assert all(each.why.startswith(("OFT, ", "GLoRA, ")) for each in listed)


def test_rows_in_another_order_take_a_base_to_be_seen(rules, tmp_path):
    (case,) = (each for each in HELD_OUT if each.name == "rows_permuted")
    path = case.build(tmp_path)
    assert scan([path], rules=rules).outcome(Severity.MEDIUM) == "pass"  # as the page says
    assert scan([path], base=models.path(), rules=rules).outcome() == "fail"


ALONE = [(case, None) for case in BENIGN]
WITH_BASE = [(case, models.path()) for case in BENIGN if case.needs_base]


@pytest.mark.parametrize(
    ("case", "base"),
    [*ALONE, *WITH_BASE],
    ids=[*(case.name for case, _ in ALONE), *(f"{case.name} with base" for case, _ in WITH_BASE)],
)
def test_benign_files_have_no_finding_of_medium_or_above(case, base, rules, tmp_path):
    report = scan([case.build(tmp_path)], base=base, rules=rules)
    grave = [each for each in report.findings if each.severity.level >= Severity.MEDIUM.level]
    assert not grave, (case.name, words(grave))
    # What a pickle imports is judged, and its numbers are not.
    pickled = [each.path for each in report.subjects if each.content is Content.PICKLE]
    has_pickle = any(not path.endswith(".npz") for path in pickled)
    assert report.outcome() == ("inconclusive" if has_pickle else "pass"), case.name


@pytest.mark.parametrize("case", [*pickles.TABLE, *pickles.BENIGN], ids=lambda case: case.name)
def test_the_command_fails_on_each_pickle_of_the_table(case, tmp_path, capsys):
    code = run(["scan", str(case.build(tmp_path))])
    assert code == (1 if case.rules else 4), capsys.readouterr()
