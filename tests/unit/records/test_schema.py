import pytest
from pydantic import ValidationError

from loricate.records.schema import Blob, Check, Integrity, RunRecord, SampleRow, SpectrumRow
from loricate.testing.records import made_up_record

_DIGEST = "ab" * 32


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        Check(name="x", level="ok", subject="base", message="", surprise=1)


def test_a_record_is_frozen() -> None:
    record = made_up_record()
    with pytest.raises(ValidationError, match="frozen"):
        record.quick = True


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "a/../../x", "C:/x", "a\\b", ""])
def test_paths_stay_inside_the_run(path: str) -> None:
    with pytest.raises(ValidationError, match=r"relative path|at least 1 character"):
        Blob(name="x", path=path, sha256=_DIGEST, media_type="image/png", role="row/0/clean")


def test_blob_names_are_unique() -> None:
    blob = Blob(name="x", path="x.png", sha256=_DIGEST, media_type="image/png", role="r")
    document = made_up_record().model_dump() | {"blobs": [blob, blob]}
    with pytest.raises(ValidationError, match="unique blob names, got \\['x'\\]"):
        RunRecord.model_validate(document)


@pytest.mark.parametrize("value", [float("nan"), {"a": [1.0, float("inf")]}])
def test_config_holds_finite_numbers_only(value: object) -> None:
    document = made_up_record().model_dump() | {"config": {"key": value}}
    with pytest.raises(ValidationError, match="finite numbers in config"):
        RunRecord.model_validate(document)


def test_at_most_64_singular_values() -> None:
    with pytest.raises(ValidationError, match="at most 64"):
        SpectrumRow(
            module="m",
            shape=(80, 80),
            singular_values=(1.0,) * 65,
            stable_rank=1.0,
            effective_rank=1.0,
        )


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"base_digest_after": "other"}, False),
        ({"gain_zero_identical": False}, False),
        ({"merged_max_difference": 1e-4}, True),
        ({"merged_max_difference": 1.1e-4}, False),
        ({"merged_max_difference": float("nan")}, False),
    ],
)
def test_integrity_holds_only_if_every_claim_does(change: dict[str, object], holds: bool) -> None:
    claims = {
        "base_digest_before": "d",
        "base_digest_after": "d",
        "gain_zero_identical": True,
        "merged_max_difference": 0.0,
    }
    assert Integrity(**claims | change).holds is holds


def test_rows_with_and_without_restart_can_be_sorted() -> None:
    common = {"subject": "base", "surface": "edit", "attack": "pgd", "objective": "edit_shift"}
    rows = [
        SampleRow(**common, epsilon=0.1, seed=0, sample=1, restart=restart, values={})
        for restart in (1, None, 0)
    ]
    assert [row.restart for row in sorted(rows, key=lambda row: row.key)] == [None, 0, 1]
