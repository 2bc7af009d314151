"""Matplotlib figures as inline SVG that follows the theme of the page.

A figure is drawn in signal colors, one for each role; they become CSS variables here, so one
drawing serves light, dark and print. Style attributes become classes, because the content policy
of the page allows no inline style, and ids get a prefix, because a page holds many figures.
"""

import io
import re
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

__all__ = ["INK", "MUTED", "RULE", "SLOTS", "STYLE", "SvgSheet", "slot_color"]

SLOTS: Final = (
    "base",
    "hardened",
    "part_adapter",
    "part_preprocessing",
    "control_plain",
    "control_noise",
    "control_truncation",
    "control_full",
    "other_1",
    "other_2",
    "other_3",
)
_ROLES: Final = ("ink", "muted", "rule", *SLOTS)
_SIGNALS: Final = {role: f"#fe01{index:02x}" for index, role in enumerate(_ROLES)}
INK: Final = _SIGNALS["ink"]
MUTED: Final = _SIGNALS["muted"]
RULE: Final = _SIGNALS["rule"]

_TAG: Final = re.compile(r"<[a-zA-Z][^<>]*>")
STYLE: Final[dict[Any, Any]] = {
    "font.size": 8.0,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    # A dollar sign in a module name must not start a formula.
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "ytick.major.size": 0.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "loricate",
}
"""How matplotlib draws; needed when a figure is made and again when it is written."""


def slot_color(slot: str) -> str:
    """Signal color of a subject; the page turns it into the color of the theme."""
    return _SIGNALS[slot]


@dataclass
class SvgSheet:
    """The figures of one page and the style rules they share."""

    _classes: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def add(self, figure: Figure, description: str) -> Markup:
        """Inline SVG of a figure.

        Args:
            figure: Drawn in signal colors only.
            description: What a person who cannot see the figure should know.

        Returns:
            An element that needs the rules of ``css`` on its page.
        """
        self._count += 1
        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        # Only inside tags: text that a record brought along must never become style or id.
        text = _TAG.sub(self._tag, _strip(buffer.getvalue()))
        label = escape(description)
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))

    def css(self) -> str:
        """Rules for every class used so far."""
        return "\n".join(f".{name}{{{rule}}}" for rule, name in self._classes.items())

    def _tag(self, match: re.Match[str]) -> str:
        tag = _prefix_ids(match[0], f"f{self._count}-")
        return re.sub(r' style="([^"]*)"', self._as_class, tag)

    def _as_class(self, match: re.Match[str]) -> str:
        rule = re.sub(r"font: (\S+px) [^;]*", r"font-size: \1", match[1])
        for role, signal in _SIGNALS.items():
            rule = rule.replace(signal, f"var(--{role.replace('_', '-')})")
        name = self._classes.setdefault(rule, f"v{len(self._classes)}")
        return f' class="{name}"'


def _strip(text: str) -> str:
    """The svg element alone: no prolog, metadata or style, and a size that the page decides."""
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)


def _prefix_ids(tag: str, prefix: str) -> str:
    tag = tag.replace(' id="', f' id="{prefix}')
    tag = re.sub(r'(xlink:)?href="#', f'href="#{prefix}', tag)
    return tag.replace("url(#", f"url(#{prefix}")
