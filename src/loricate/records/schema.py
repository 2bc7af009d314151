"""Schema of ``record.json`` and ``rows.jsonl``, version 1.

Every value is frozen and unknown keys are errors. Sequences are tuples, so a record that was read
cannot change under its reader. NaN and infinities are written as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, because JSON has no number for them.
"""

import math
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

__all__ = [
    "SCHEMA_VERSION",
    "Aggregate",
    "BenignChange",
    "Blob",
    "Check",
    "Criterion",
    "EditRule",
    "Environment",
    "Integrity",
    "RankRow",
    "RowKey",
    "RunRecord",
    "SampleRow",
    "SpectrumRow",
    "Training",
    "Verdict",
]

SCHEMA_VERSION: Final = 1


def _inside_the_run(path: str) -> str:
    """Refuse a path that leaves the folder of the record."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path:
        raise ValueError(f"expected a relative path inside the run folder, got {path!r}")
    return path


def _finite(value: JsonValue) -> JsonValue:
    """Refuse NaN and infinities, whose text form a free tree could not tell from a string."""
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"expected finite numbers in config, got {value!r}")
        case dict():
            for child in value.values():
                _finite(child)
        case list():
            for child in value:
                _finite(child)
    return value


RelativePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_inside_the_run)]
FiniteJson = Annotated[JsonValue, AfterValidator(_finite)]
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", protected_namespaces=()
    )


class Criterion(_Frozen):
    """One line of the verdict: what was asked, what was measured.

    Args:
        name: Stable key, such as ``"latent_drift_ratio"``.
        requirement: The requirement in words.
        measured: The measured value; ``None`` where the record holds no evidence.
        threshold: The floor that decides ``passed``.
        aim: What the project hopes for beyond the floor; never decides.
        unit: Unit of the three numbers: ``"ratio"``, ``"dB"``, ``"fraction"`` or ``""``.
        passed: ``None`` means undecided, which is not a pass.
        note: Why the outcome is what it is, where the numbers alone do not say.
    """

    name: str
    requirement: str
    measured: float | None = None
    threshold: float | None = None
    aim: float | None = None
    unit: Literal["", "ratio", "dB", "fraction"] = ""
    passed: bool | None = None
    note: str = ""


class Verdict(_Frozen):
    """Outcome of a run.

    Args:
        status: ``pass`` if every criterion passed, ``fail`` if one failed, else ``inconclusive``.
        criteria: The lines the status follows from.
        epsilon: Budget at which attack success was judged, in domain units.
        trained_epsilon: Budget at which latent drift was judged.
    """

    status: Literal["pass", "fail", "inconclusive"]
    criteria: tuple[Criterion, ...]
    epsilon: float | None = None
    trained_epsilon: float | None = None


class Environment(_Frozen):
    """Software, machine and time of a run.

    Args:
        loricate: Version of this package; the next five fields are versions too.
        python: Version of the interpreter.
        torch: ``None`` where the package was not loaded.
        diffusers: As ``torch``.
        transformers: As ``torch``.
        peft: As ``torch``.
        platform: Operating system and processor.
        cpu_count: Processors the run could see.
        threads: Threads it used for tensor arithmetic.
        device: Device of the model.
        seconds: Wall time of each phase.
    """

    loricate: str
    python: str
    torch: str | None = None
    diffusers: str | None = None
    transformers: str | None = None
    peft: str | None = None
    platform: str
    cpu_count: Count
    threads: Count
    device: str
    seconds: dict[str, float] = {}


class Aggregate(_Frozen):
    """One number over samples, with its interval.

    Args:
        subject: Which model: ``base``, ``hardened``, ``control_plain``, ...
        surface: What was attacked: ``vae_encoder``, ``edit``, ...
        attack: Registry key, or ``none`` (clean), ``strongest`` (worst case per sample).
        objective: Registry key; ``worst_case`` beside ``strongest``, ``none`` beside ``none``.
        epsilon: Radius in domain units, 0 on clean inputs.
        norm: ``linf``, ``l2`` or ``l1``.
        variant: Tells apart attacks that agree in everything else, such as ``5 draws``.
        metric: What was measured.
        n: Samples behind the value.
        value: Point estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Coverage of the interval.
        method: How the interval was made: ``wilson``, ``bootstrap``, ...
    """

    subject: str
    surface: str
    attack: str
    objective: str
    epsilon: float
    norm: str = "linf"
    variant: str = ""
    metric: str
    n: Count
    value: float
    low: float
    high: float
    level: float = 0.95
    method: str


class Check(_Frozen):
    """A sanity flag: does the evidence look like evidence?

    Args:
        name: Which check; ``docs/checks.md`` has a section for each.
        level: An ``error`` fails the verdict; ``skipped`` says the check could not be made.
        subject: The model it speaks about.
        message: One sentence with the finding.
        data: The numbers behind it.
    """

    name: str
    level: Literal["ok", "warning", "error", "skipped"]
    subject: str
    message: str
    data: dict[str, float] = {}


class BenignChange(_Frozen):
    """What one harmless change of the input does to an edit of the base model.

    Args:
        kind: ``random_noise``, ``jpeg_75``, ``shift_1px``, ...
        n: Edits measured.
        feature_distance: Percentile of the distance in the judge's feature space.
        ssim: The same percentile of dissimilarity, as the SSIM it leaves.
    """

    kind: str
    n: Count
    feature_distance: float
    ssim: float


class EditRule(_Frozen):
    """When an edit counts as broken; fixed on the base model before any defense is scored.

    Args:
        feature_threshold: Broken only above this distance in the judge's feature space.
        ssim_threshold: Broken only below this SSIM to the clean edit.
        visible_ssim: Broken only below this SSIM too: the change must be visible.
        percentile: Percentile of benign changes the thresholds come from.
        n: Benign edits behind the thresholds.
        benign: The same percentile for each kind of change.
    """

    feature_threshold: float
    ssim_threshold: float
    visible_ssim: float
    percentile: float
    n: Count
    benign: tuple[BenignChange, ...] = ()


class RankRow(_Frozen):
    """Rank of one adapted module, before and after re-allocation.

    Args:
        module: Dotted path inside the model.
        rank_start: Rank from the spectrum, under the parameter budget.
        rank_end: Rank the adapter is saved with.
        rank_max: Rank at which the update would be dense.
        importance: Robust importance behind the last re-allocation.
        parameters: Parameters of the saved factors.
    """

    module: str
    rank_start: Count
    rank_end: Count
    rank_max: Count
    importance: float
    parameters: Count


class Training(_Frozen):
    """How the adapter was trained.

    Args:
        curves: One row per logged step; every row has ``step``, the other keys are losses.
        ranks: The rank pattern.
        seconds: Wall time.
        parameters_adapter: Parameters of the adapter.
        parameters_target: Parameters of the modules it adapts.
    """

    curves: tuple[dict[str, float], ...] = ()
    ranks: tuple[RankRow, ...] = ()
    seconds: float
    parameters_adapter: Count
    parameters_target: Count


class Integrity(_Frozen):
    """Proof that the base was not touched and the adapter is what it claims to be.

    Args:
        base_digest_before: Digest of the base weights before training.
        base_digest_after: The same after it.
        gain_zero_identical: Whether gain 0 reproduces the base bit for bit.
        merged_max_difference: Largest difference of an output, merged against attached.
        merged_tolerance: Largest difference that rounding explains.
        adapter_digest: Digest of the adapter tensors.
    """

    base_digest_before: str
    base_digest_after: str
    gain_zero_identical: bool
    merged_max_difference: float
    merged_tolerance: float = 1e-4
    adapter_digest: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every claim is true; NaN is not."""
        return (
            self.base_digest_before == self.base_digest_after
            and self.gain_zero_identical
            and self.merged_max_difference <= self.merged_tolerance
        )


class SpectrumRow(_Frozen):
    """Singular spectrum of one weight.

    Args:
        module: Dotted path inside the model.
        shape: Shape of the weight.
        singular_values: The largest ones, at most 64, descending.
        stable_rank: Squared Frobenius norm over squared spectral norm.
        effective_rank: Exponential of the entropy of the normalized spectrum.
    """

    module: str
    shape: tuple[Count, ...]
    singular_values: Annotated[tuple[float, ...], Field(max_length=64)]
    stable_rank: float
    effective_rank: float


class Blob(_Frozen):
    """A file beside the record.

    Args:
        name: Unique in the record.
        path: Where it lies, relative to the record.
        sha256: Digest of its bytes.
        media_type: Such as ``image/png``.
        role: Where the report shows it, such as ``row/0/attacked``.
        caption: Text under the picture.
        data: Numbers that belong to it.
    """

    name: Annotated[str, StringConstraints(min_length=1)]
    path: RelativePath
    sha256: Digest
    media_type: str
    role: str
    caption: str = ""
    data: dict[str, float] = {}


class RunRecord(_Frozen):
    """Everything a run found, and enough to show it again without weights, GPU or torch.

    Args:
        schema_version: Version of this schema.
        kind: The recipe that wrote the record.
        created: When, with time zone.
        quick: Whether the run was shortened; its intervals are wide.
        title: Headline of the report.
        model: What was hardened or evaluated.
        verdict: The outcome.
        config: The resolved configuration; finite numbers only.
        environment: Software, machine and time.
        aggregates: Every number over samples.
        checks: Sanity flags.
        edit_rule: When an edit counts as broken.
        training: How the adapter was trained.
        integrity: What was verified about the weights.
        spectra: Singular spectra of the base weights.
        blobs: Pictures and other files, by digest.
        outputs: Files and folders for the user, by purpose: ``adapter``, ``vae``, ``config``, ...
        rows_path: The per-sample rows.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["harden", "evaluate"]
    created: AwareDatetime
    quick: bool = False
    title: str
    model: str
    verdict: Verdict
    config: dict[str, FiniteJson] = {}
    environment: Environment
    aggregates: tuple[Aggregate, ...] = ()
    checks: tuple[Check, ...] = ()
    edit_rule: EditRule | None = None
    training: Training | None = None
    integrity: Integrity | None = None
    spectra: tuple[SpectrumRow, ...] = ()
    blobs: tuple[Blob, ...] = ()
    outputs: dict[str, RelativePath] = {}
    rows_path: RelativePath | None = None

    @model_validator(mode="after")
    def _blob_names_are_unique(self) -> Self:
        names = [blob.name for blob in self.blobs]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"expected unique blob names, got {doubled!r} more than once")
        return self


RowKey: TypeAlias = tuple[str | float | int | None, ...]


class SampleRow(_Frozen):
    """What one attack did to one sample of one model.

    Args:
        subject: As in ``Aggregate``; so are the next six fields.
        surface: What was attacked.
        attack: How.
        objective: Towards what.
        epsilon: Radius in domain units.
        norm: Norm of the ball.
        variant: As in ``Aggregate``.
        seed: Root seed of the trial.
        sample: Index of the sample.
        restart: Which restart, where rows are kept for each.
        values: The measurements.
    """

    subject: str
    surface: str
    attack: str
    objective: str
    epsilon: float
    norm: str = "linf"
    variant: str = ""
    seed: int
    sample: Count
    restart: int | None = None
    values: dict[str, float]

    @property
    def key(self) -> RowKey:
        """What makes the row unique, in sorting order."""
        trial = (self.subject, self.surface, self.attack, self.objective)
        restart = -1 if self.restart is None else self.restart
        budget = (self.norm, self.epsilon, self.variant)
        return (*trial, *budget, self.seed, self.sample, restart)
