"""The manifest of a folder: which bytes belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.integrity.contents import Contents, contents_of
from loricate.integrity.hashing import measure
from loricate.integrity.manifest import MANIFEST, FileEntry, Manifest, manifest_of, write_manifest
from loricate.integrity.signing import SIGNATURE

__all__ = ["OUTSIDE", "Survey", "manifest", "require_apart", "survey"]

OUTSIDE: Final = frozenset({MANIFEST, SIGNATURE})
"""Files that say something of the others, and so cannot be listed among them."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in a folder.

    Args:
        files: Every file, the manifest among them, but not the signature.
        contents: Adapters and record.
    """

    files: dict[str, FileEntry]
    contents: Contents

    @property
    def listed(self) -> dict[str, FileEntry]:
        """Files that a manifest lists."""
        return {path: each for path, each in self.files.items() if path not in OUTSIDE}

    @property
    def manifest(self) -> Manifest:
        """Manifest of what was found."""
        return manifest_of(self.listed, self.contents)


def survey(folder: Path, *, strict: bool = True) -> Survey:
    """Read every file of a folder, once.

    Args:
        folder: The folder.
        strict: Whether malformed safetensors files are refused.

    Raises:
        LoricateError: A file cannot be read or is malformed.
    """
    files = measure(folder, skip=frozenset({SIGNATURE}), strict=strict)
    return Survey(files=files, contents=contents_of(folder, files))


def require_apart(key: Path, folder: Path, why: str) -> None:
    """Refuse a key inside the folder it is for.

    Args:
        key: The key.
        folder: The folder.
        why: What a key elsewhere is like, and why this one is not.

    Raises:
        ConfigError: It lies in the folder.
    """
    # By the path it was named by: a link in the folder is no better than a file.
    for path in (key.absolute(), key.resolve()):
        if path.is_relative_to(folder.resolve()) or path.is_relative_to(folder.absolute()):
            expected = f"a key outside the folder {str(folder)!r}, {why}"
            raise ConfigError(ConfigProblem(key="key", expected=expected, got=str(key)))


def manifest(folder: Path) -> tuple[Path, Manifest]:
    """Write the manifest of a folder into it, in place of one that is there.

    Args:
        folder: Any folder of files: a run, an adapter, a model.

    Returns:
        Path of the manifest, and what it says.

    Raises:
        PrerequisiteError: A file cannot be read, or nothing can be written.
        HostileFileError: A link leads to a folder or nowhere, or a safetensors file is malformed.
        UnsupportedError: A tensor has an unknown dtype.
    """
    found = survey(folder).manifest
    return write_manifest(folder, found), found
