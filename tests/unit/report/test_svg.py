import re

from matplotlib.figure import Figure

from loricate.report.charts import slots_of
from loricate.report.svg import INK, SvgSheet, slot_color


def _figure(text: str) -> Figure:
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots()
    axes.plot([0, 1], color=slot_color("hardened"))
    axes.fill_between([0, 1], [1, 2], clip_on=True, color=INK)
    axes.set_title(text)
    return figure


def test_two_figures_share_no_id() -> None:
    sheet = SvgSheet()
    svgs = [sheet.add(_figure("a"), "a") for _ in range(2)]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in svgs]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_references_point_into_their_own_figure() -> None:
    svg = SvgSheet().add(_figure("a"), "a")
    ids = set(re.findall(r' id="([^"]+)"', svg))
    references = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    assert references
    assert references <= ids


def test_colors_become_variables_and_styles_become_classes() -> None:
    sheet = SvgSheet()
    svg = sheet.add(_figure("a"), "a")
    assert "style" not in svg
    assert "var(--hardened)" in sheet.css()
    assert slot_color("hardened") not in svg + sheet.css()


def test_the_element_stands_alone() -> None:
    svg = SvgSheet().add(_figure("a"), 'say "a"')
    assert svg.startswith('<svg role="img" aria-label="say &quot;a&quot;" viewBox=')
    assert svg.rstrip().endswith("</svg>")
    assert not re.search(r"<\?xml|<!DOCTYPE|<metadata|<!--|http", svg)


def test_text_never_becomes_style() -> None:
    sheet = SvgSheet()
    hostile = '$x</text> style="fill: red" id="evil" <script>'
    svg = sheet.add(_figure(hostile), hostile)
    assert "red" not in sheet.css()
    assert "<script" not in svg
    assert 'style="fill: red"' in svg.partition(">")[2]


def test_the_same_figure_is_the_same_text() -> None:
    assert SvgSheet().add(_figure("a"), "a") == SvgSheet().add(_figure("a"), "a")


def test_subjects_keep_their_color_and_strangers_get_one() -> None:
    slots = slots_of(["zeta", "hardened", "base", "eta", "zeta"])
    assert slots == {
        "base": "base",
        "hardened": "hardened",
        "zeta": "other_1",
        "eta": "other_2",
    }
