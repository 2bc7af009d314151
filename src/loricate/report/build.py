"""From a run folder to one self-contained ``report.html``."""

import base64
import hashlib
import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loricate import models
from loricate.basics.files import write_atomically
from loricate.records.io import read_blob, read_record
from loricate.records.names import (
    NO_ATTACK,
    RANDOM_NOISE,
    STRONGEST,
    Metrics,
    epsilon_text,
)
from loricate.records.schema import Aggregate, Blob, RunRecord
from loricate.report import charts, words
from loricate.report.figures import clean_table, draw_figures, subject_order
from loricate.report.matrix import matrices, unreliable
from loricate.report.svg import SvgSheet

__all__ = ["REPORT_FILE", "build_report", "render_report"]

REPORT_FILE: Final = "report.html"
_POLICY: Final = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the record, ready to be shown.

    Args:
        uri: The picture as a data URI.
        blob: Its caption and numbers.
    """

    uri: str
    blob: Blob


def build_report(directory: Path) -> Path:
    """Write ``report.html`` beside the record of a run, from the record and its blobs alone.

    Args:
        directory: The run folder.

    Returns:
        Path of the report.

    Raises:
        IntegrityError: a blob is missing or was changed.
    """
    record = read_record(directory)
    pictures = {
        blob.role: Picture(uri=_data_uri(blob.media_type, read_blob(directory, blob)), blob=blob)
        for blob in record.blobs
        if blob.media_type == "image/png"
    }
    path = directory / REPORT_FILE
    write_atomically(path, render_report(record, pictures).encode())
    return path


def render_report(record: RunRecord, pictures: dict[str, Picture]) -> str:
    """The page as text.

    Args:
        record: What to show.
        pictures: By role, such as ``row/0/clean``.

    Returns:
        HTML that asks for nothing from anywhere.
    """
    environment = Environment(
        loader=PackageLoader("loricate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(_vocabulary())
    sheet = SvgSheet()
    page = {
        "record": record,
        "slots": charts.slots_of([a.subject for a in record.aggregates]),
        "figures": draw_figures(record, sheet),
        "rows": _numbered(pictures, "row"),
        "thresholds": _numbered(pictures, "threshold"),
        "grids": [p for role, p in pictures.items() if role.startswith("grid/")],
        "matrices": matrices(record),
        "unreliable": unreliable(record),
        "tables": _tables(record),
        "clean_table": clean_table(record),
        "headline": _headline(record),
        "model_source": _source(record.model),
        "config": json.dumps(record.config, indent=2, ensure_ascii=False),
    }
    style = environment.get_template("style.css.j2").render() + sheet.css()
    return environment.get_template("report.html.j2").render(
        page, style=Markup(style), policy=_policy(style)
    )


def _source(model: str) -> str:
    """What a loader of pipelines is given: the folder of an embedded model, or the user's words."""
    if model in models.names():
        return f"loricate.models.path({model!r})"
    return repr(model)


def _vocabulary() -> dict[str, Any]:
    return {
        "columns": words.PICTURE_COLUMNS,
        "check_meanings": words.CHECKS,
        "criterion_number": words.criterion_number,
        "duration": words.duration,
        "epsilon_text": epsilon_text,
        "glyphs": {slot: glyph for slot, (_, glyph) in charts.MARKERS.items()},
        "interval": words.interval,
        "metric_label": words.metric_label,
        "number": words.number,
        "percent": words.percent,
        "plain": words.plain,
        "subject_label": words.subject_label,
    }


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"{_POLICY}; style-src 'sha256-{digest}'"


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _numbered(pictures: dict[str, Picture], kind: str) -> list[dict[str, Picture]]:
    """Pictures with roles ``kind/<i>/<column>``, one dict of columns for each i."""
    rows: dict[int, dict[str, Picture]] = {}
    for role, picture in pictures.items():
        parts = role.split("/")
        if len(parts) == 3 and parts[0] == kind and parts[1].isdecimal():
            rows.setdefault(int(parts[1]), {})[parts[2]] = picture
    return [rows[index] for index in sorted(rows)]


def _headline(record: RunRecord) -> dict[str, Aggregate]:
    """The few numbers of the banner, as far as the record holds them."""
    verdict = record.verdict
    wanted = {
        "base": ("base", Metrics.ATTACK_SUCCESS, STRONGEST, verdict.epsilon),
        "hardened": ("hardened", Metrics.ATTACK_SUCCESS, STRONGEST, verdict.epsilon),
        "noise": ("base", Metrics.ATTACK_SUCCESS, RANDOM_NOISE, verdict.epsilon),
        "base_drift": ("base", Metrics.LATENT_DRIFT, STRONGEST, verdict.trained_epsilon),
        "hardened_drift": ("hardened", Metrics.LATENT_DRIFT, STRONGEST, verdict.trained_epsilon),
        "base_psnr": ("base", Metrics.PSNR, NO_ATTACK, 0.0),
        "hardened_psnr": ("hardened", Metrics.PSNR, NO_ATTACK, 0.0),
    }
    have = {(a.subject, a.metric, a.attack, a.epsilon): a for a in record.aggregates}
    return {name: have[key] for name, key in wanted.items() if key in have}


def _tables(record: RunRecord) -> list[tuple[str, list[Aggregate]]]:
    """Every aggregate, grouped by metric, in an order that puts comparable rows together."""

    def place(a: Aggregate) -> tuple[Any, ...]:
        return (
            a.metric,
            a.surface,
            a.attack,
            a.objective,
            a.norm,
            a.epsilon,
            a.variant,
            subject_order(a.subject),
        )

    ordered = sorted(record.aggregates, key=place)
    return [(metric, list(group)) for metric, group in groupby(ordered, key=lambda a: a.metric)]
