"""``loricate report`` on a made-up run: exit codes, and facts about the page."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loricate.cli import helpers  # noqa: F401 - rich moves the global generator when imported
from loricate.cli.main import run
from loricate.records.io import write_record
from loricate.records.schema import Aggregate, Blob, Check, RunRecord, Verdict
from loricate.report import words
from loricate.testing.records import made_up_record, write_made_up_run


class _Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def _report(directory: Path) -> str:
    assert run(["report", str(directory)]) == 0
    return (directory / "report.html").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def record(folder: Path) -> RunRecord:
    return write_made_up_run(folder)


@pytest.fixture(scope="module")
def text(folder: Path, record: RunRecord) -> str:
    return _report(folder)


@pytest.fixture(scope="module")
def page(text: str) -> _Page:
    return _Page(text)


def test_nothing_external_is_requested(text: str, page: _Page) -> None:
    loading = {"src", "srcset", "poster", "action", "formaction", "background", "data", "style"}
    for tag, attributes in page.tags:
        for name in loading & attributes.keys():
            assert (attributes[name] or "").startswith("data:image/png;base64,"), (tag, name)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, name)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in page.tags)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert not re.search(r"@import|@font-face|url\((?!#)", "".join(styles))


def test_the_policy_allows_exactly_the_inline_style(text: str, page: _Page) -> None:
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{digest}'"
    )


def test_ids_are_unique_and_links_arrive(page: _Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for a in page.all("a")}
    assert targets
    assert targets <= set(ids)


def test_the_verdict_comes_first(page: _Page, record: RunRecord) -> None:
    assert "✓ Pass" in page.text
    assert "breaks 16 % of edits on the hardened model, against 71 % on the base" in page.text
    assert page.text.index("✓ Pass") < page.text.index("What the attack does")
    for criterion in record.verdict.criteria:
        sentence = criterion.requirement[:1].upper() + criterion.requirement[1:]
        assert sentence in page.text


def test_every_aggregate_is_present(text: str, record: RunRecord) -> None:
    rows = re.findall(r'<tr class="aggregate">(.*?)</tr>', text, re.DOTALL)
    shown = sorted(re.sub(r"<[^>]+>", "|", html.unescape(row)) for row in rows)
    assert len(shown) == len(record.aggregates)
    for a in record.aggregates:
        parts = [words.subject_label(a.subject), words.plain(a.attack), words.plain(a.objective)]
        parts += [words.interval(a), f"|{a.n}|", a.method, a.norm]
        assert any(all(part in row for part in parts) for row in shown), a


def test_every_check_and_module_is_present(page: _Page, record: RunRecord) -> None:
    assert record.training is not None
    expected = [check.message for check in record.checks]
    expected += [row.module for row in (*record.training.ranks, *record.spectra)]
    assert [word for word in expected if word not in page.text] == []


def test_every_picture_is_shown_once(page: _Page, record: RunRecord, folder: Path) -> None:
    shown = sorted((image["src"] or "").partition(",")[2] for image in page.all("img"))
    stored = [(folder / blob.path).read_bytes() for blob in record.blobs]
    assert shown == sorted(base64.b64encode(content).decode() for content in stored)
    assert all(image["alt"] for image in page.all("img"))


def test_the_report_is_the_same_every_time(folder: Path, text: str) -> None:
    assert _report(folder) == text


def test_json_names_the_report(folder: Path, text: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["report", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "report": str(folder / "report.html"),
        "size_bytes": (folder / "report.html").stat().st_size,
    }


def test_an_evaluation_has_no_training(tmp_path: Path) -> None:
    write_made_up_run(tmp_path, kind="evaluate", pictures=0)
    page = _Page(_report(tmp_path))
    assert page.all("img") == []
    assert "Training" not in page.text
    assert "Under attack" in page.text


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("pass", "All 0 criteria are met"),
        ("fail", "0 of 0 criteria are missed"),
        ("inconclusive", "an open question is not a pass"),
    ],
)
def test_a_record_with_nothing_but_a_verdict_survives(
    tmp_path: Path, status: str, sentence: str
) -> None:
    full = made_up_record()
    bare = RunRecord(
        kind="evaluate",
        created=full.created,
        title="bare",
        model="m",
        quick=True,
        verdict=Verdict.model_validate({"status": status, "criteria": []}),
        environment=full.environment,
    )
    write_record(tmp_path, bare)
    page = _Page(_report(tmp_path))
    assert sentence in page.text
    assert "did not measure how often" in page.text
    assert "quick run" in page.text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)></style><script>$x_{$ {{ 7*7 }}'
    record = write_made_up_run(tmp_path, pictures=1)
    aggregate = record.aggregates[0].model_copy(
        update=dict.fromkeys(("subject", "surface", "objective", "metric", "method"), evil)
    )
    training = record.training
    assert training is not None
    rank = training.ranks[0].model_copy(update={"module": evil})
    curve = {"step": 0.0, evil: 1.0}
    hostile = record.model_copy(
        update={
            "title": evil,
            "model": evil,
            "config": {evil: evil},
            "aggregates": (*record.aggregates, aggregate),
            "checks": (Check(name=evil, level="error", subject=evil, message=evil),),
            "training": training.model_copy(update={"ranks": (rank,), "curves": (curve, curve)}),
            "spectra": (record.spectra[0].model_copy(update={"module": evil}),),
            "blobs": tuple(_with_caption(blob, evil) for blob in record.blobs),
        }
    )
    write_record(tmp_path, hostile)
    text = _report(tmp_path)
    page = _Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert len(page.all("img")) == len(record.blobs)
    assert "{{ 7*7 }}" in page.text
    assert text.count("</style>") == 1


def _with_caption(blob: Blob, caption: str) -> Blob:
    return blob.model_copy(update={"caption": caption})


def test_numbers_that_are_not_finite_are_printed(tmp_path: Path) -> None:
    record = made_up_record()
    odd = record.aggregates[0].model_copy(
        update={"value": float("nan"), "low": float("-inf"), "high": float("inf")}
    )
    write_record(tmp_path, record.model_copy(update={"aggregates": (odd, *record.aggregates[1:])}))
    assert "undefined [\N{MINUS SIGN}∞, ∞]" in _Page(_report(tmp_path)).text


def test_a_strange_subject_has_a_legend_entry(tmp_path: Path) -> None:
    record = made_up_record()
    extra: list[Aggregate] = [
        a.model_copy(update={"subject": "jpeg_75"})
        for a in record.aggregates
        if a.subject == "base"
    ]
    write_record(tmp_path, record.model_copy(update={"aggregates": (*record.aggregates, *extra)}))
    text = _report(tmp_path)
    assert re.search(r'<li><span class="key other-1" [^>]*>jpeg 75</span>', text)


def test_a_tampered_picture_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_made_up_run(tmp_path, pictures=1)
    (tmp_path / record.blobs[0].path).write_bytes(b"other")
    assert run(["report", str(tmp_path)]) == 1
    assert record.blobs[0].path in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("content", "code"), [(None, 3), ("{}", 2), ("nonsense", 2)])
def test_what_is_no_record_is_refused(tmp_path: Path, content: str | None, code: int) -> None:
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    assert run(["report", str(tmp_path)]) == code
