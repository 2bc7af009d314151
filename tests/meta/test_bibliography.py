"""Every work a docstring cites is in the bibliography, and nothing else is."""

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_CITED = re.compile(r"\[([a-z]+(?:19|20)\d{2})\]")
_LISTED = re.compile(r"^\| ([a-z]+\d{4}) \|", re.MULTILINE)


def test_cited_and_listed_works_are_the_same() -> None:
    sources = (_ROOT / "src").rglob("*.py")
    cited = {key for path in sources for key in _CITED.findall(path.read_text(encoding="utf-8"))}
    page = (_ROOT / "docs" / "bibliography.md").read_text(encoding="utf-8")
    assert sorted(cited) == sorted(_LISTED.findall(page))
