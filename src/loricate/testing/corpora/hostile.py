"""Files a scan has to flag, each with the rule that has to fire and how severe it is."""

from loricate.testing.corpora import pickles
from loricate.testing.corpora._archives import ARCHIVES, POLYGLOTS
from loricate.testing.corpora._case import Case
from loricate.testing.corpora._configs import CONFIGS
from loricate.testing.corpora._headers import CONTENTS, HEADERS, METADATA
from loricate.testing.corpora._held_out import HELD_OUT
from loricate.testing.corpora._names import NAMES
from loricate.testing.corpora._protocols import PROTOCOLS
from loricate.testing.corpora._weights import WEIGHTS

__all__ = ["HOSTILE", "Case"]

HOSTILE: tuple[Case, ...] = (
    *pickles.TABLE,
    *pickles.DISGUISED,
    *PROTOCOLS,
    *ARCHIVES,
    *POLYGLOTS,
    *HEADERS,
    *METADATA,
    *CONTENTS,
    *CONFIGS,
    *NAMES,
    *WEIGHTS,
    *HELD_OUT,
)
"""Every hostile case."""
