"""Rebuild the report of a finished run from its record and blobs, without weights or torch."""

from pathlib import Path

from loricate.report.build import build_report

__all__ = ["report"]


def report(directory: Path) -> Path:
    """A new ``report.html`` in the folder of a run.

    Args:
        directory: Folder that holds ``record.json``.

    Returns:
        Path of the report.

    Raises:
        PrerequisiteError: The folder holds no record.
        ConfigError: The record does not follow the schema.
        IntegrityError: A picture is missing or was changed since the run.
    """
    return build_report(directory)
