"""How the report names and prints what a record holds."""

import math
from dataclasses import dataclass
from typing import Final

from loricate.records.condition import Condition
from loricate.records.names import NO_ATTACK, NO_OBJECTIVE, Metrics, budget_text
from loricate.records.schema import Aggregate, Criterion

__all__ = [
    "CHECKS",
    "PICTURE_COLUMNS",
    "CheckMeaning",
    "condition_label",
    "criterion_number",
    "duration",
    "interval",
    "metric_label",
    "number",
    "percent",
    "plain",
    "subject_label",
]


_MINUS: Final = "\N{MINUS SIGN}"
_DASH: Final = "\N{EN DASH}"
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, kw_only=True)
class CheckMeaning:
    """What a sanity check asks and what to do when it fires.

    Args:
        question: What the check asks, in one sentence.
        remedy: What to do about a warning or an error.
    """

    question: str
    remedy: str


CHECKS: Final = {
    "zero_gradient": CheckMeaning(
        question="Does the gradient that the attack follows vanish?",
        remedy="Look for a rounding, clamping or detaching step on the way from the pixels to the "
        "objective, and give it a declared backward pass.",
    ),
    "stationary_start": CheckMeaning(
        question="Did a restart stay where it began?",
        remedy="Start at a random point of the ball: at the clean input an objective that "
        "measures displacement has no gradient.",
    ),
    "random_at_least_pgd": CheckMeaning(
        question="Does random noise do as much as the optimized attack?",
        remedy="The attack failed to optimize. Raise its steps and restarts, and compare its "
        "gradient with central differences.",
    ),
    "more_epsilon_not_stronger": CheckMeaning(
        question="Did a larger budget fail to make the attack stronger?",
        remedy="The attack is stuck at the larger budget. Scale its step size with epsilon, or "
        "start it from the best result of the smaller one.",
    ),
    "budget_after_rounding": CheckMeaning(
        question="Does an attacked picture leave its budget once rounded to 8 bits?",
        remedy="A fault of the harness, not of the model: do not trust this run, and report it.",
    ),
    "active_test": CheckMeaning(
        question="Does the attack miss a weakness that was planted behind everything deployed?",
        remedy="The attack cannot see through the preprocessing. Look at the declared backward "
        "pass, and average over more draws.",
    ),
    "gradient_mismatch": CheckMeaning(
        question="Does the gradient differ from central differences in float64?",
        remedy="Part of the path detaches, rounds or replaces its gradient without saying so.",
    ),
    "vanishing_gradient": CheckMeaning(
        question="Does the first gradient promise next to nothing?",
        remedy="Look for saturation on the way, and change the objective or its scale.",
    ),
    "rough_loss": CheckMeaning(
        question="Does the objective jump on the line from the clean to the attacked picture?",
        remedy="Gradients lead nowhere on such a surface: use a smoother surrogate backward, or "
        "attacks without gradients.",
    ),
    "knowledge_order": CheckMeaning(
        question="Does transfer or noise do more than the white box?",
        remedy="The white-box attack is being masked, or was not run to its end.",
    ),
    "gradient_free_beats_gradient": CheckMeaning(
        question="Does an attack without gradients do more than the one with them?",
        remedy="The gradient is masked. Judge the defense by the stronger of the two.",
    ),
    "single_step_beats_iterative": CheckMeaning(
        question="Does one step do more than many?",
        remedy="The iterative attack is stuck: sweep its step size and add restarts.",
    ),
    "survives_any_budget": CheckMeaning(
        question="Does a sample resist even without a budget?",
        remedy="With any picture allowed, any encoding can be reached: the attack is broken.",
    ),
    "step_curve": CheckMeaning(
        question="Did more steps gain less, or do they still gain at the end of the curve?",
        remedy="Run the attack that evaluates for as many steps as the curve needs to be flat.",
    ),
    "eot_curve": CheckMeaning(
        question="Did more averaged draws gain less, or do they still gain at the end?",
        remedy="Average over as many draws as the curve needs to be flat.",
    ),
    "radius_curve": CheckMeaning(
        question="Did a larger radius gain less?",
        remedy="The attack is stuck at the larger radius: scale its steps, and add restarts.",
    ),
    "unseen_conditions": CheckMeaning(
        question="Is the gain lost at a radius or a norm that training has not seen?",
        remedy="The defense fits the attack of its training. Quote the gain at the unseen "
        "conditions.",
    ),
    "resubmission": CheckMeaning(
        question="Does handing in the same picture again and again gain much?",
        remedy="Quote the worst of several submissions beside the single run.",
    ),
    "seed_dependence": CheckMeaning(
        question="Do runs of the attack with other seeds end differently?",
        remedy="Add restarts, and quote the best of them.",
    ),
}

PICTURE_COLUMNS: Final = {
    "clean": "Clean input",
    "attacked": "Attacked input",
    "perturbation": "Perturbation, magnified",
    "edit_clean_base": "Edit of clean, base",
    "edit_clean_hardened": "Edit of clean, hardened",
    "edit_attacked_base": "Edit of attacked, base",
    "edit_attacked_hardened": "Edit of attacked, hardened",
}

_SUBJECTS: Final = {
    "base": "Base",
    "hardened": "Hardened",
    "part_adapter": "Adapter alone",
    "part_preprocessing": "Preprocessing alone",
    "control_plain": "Plain LoRA",
    "control_noise": "Noise-augmented LoRA",
    "control_truncation": "Spectral truncation",
    "control_full": "Full fine-tuning",
}

_METRICS: Final = {
    Metrics.ATTACK_SUCCESS: "Edit attack success rate",
    Metrics.LATENT_DRIFT: "Latent drift",
    Metrics.PSNR: "Reconstruction PSNR",
    Metrics.SSIM: "Reconstruction SSIM",
    Metrics.EDIT_SSIM: "SSIM to the clean edit",
    Metrics.GENERATION_SSIM: "SSIM of generated pictures to the base's",
    Metrics.ALIGNMENT: "Prompt alignment",
    Metrics.EMBEDDING_SHIFT: "Shift of the hidden states of a prompt, in spreads",
    Metrics.PROMPT_SUCCESS: "Prompt attack success rate",
    Metrics.GENERATION_ALIGNMENT: "Agreement of generated pictures with the clean prompt",
    Metrics.DRIFT_REDUCTION: "Latent drift, base over hardened, paired",
    Metrics.SUCCESS_REDUCTION: "Edit attack success, base minus hardened, paired",
    Metrics.PSNR_LOSS: "Reconstruction PSNR, base minus hardened, paired",
    Metrics.ALIGNMENT_LOSS: "Prompt alignment, base minus hardened, paired",
}


def subject_label(subject: str) -> str:
    """Name of a model in running text and legends."""
    return _SUBJECTS.get(subject, plain(subject))


def metric_label(metric: str) -> str:
    """Name of a metric in headings and on axes."""
    return _METRICS.get(metric, plain(metric))


def plain(key: str) -> str:
    """A key as words."""
    return key.replace("_", " ")


def condition_label(condition: Condition) -> str:
    """Attack, objective and budget in words."""
    if condition.attack == NO_ATTACK:
        return "clean"
    keys = (key for key in (condition.attack, condition.objective) if key != NO_OBJECTIVE)
    words = [*map(plain, keys), condition.variant, budget_text(condition.epsilon, condition.norm)]
    return ", ".join(filter(None, words))


def number(value: float, digits: int = 3) -> str:
    """A number with a few significant digits, and words for what is not finite."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    text = f"{value:.{digits}g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.1e}"
    return text.replace("-", _MINUS, 1) if text.startswith("-") else text


def percent(value: float) -> str:
    """A fraction in percent, with a decimal only where it says something."""
    if not math.isfinite(value):
        return number(value)
    hundred = 100 * value
    digits = 0 if abs(hundred) >= 10 or hundred == round(hundred) else 1
    return f"{hundred:.{digits}f} %".replace("-", _MINUS)


_UNITS: Final = {
    Metrics.ATTACK_SUCCESS: (100.0, " %"),
    Metrics.PROMPT_SUCCESS: (100.0, " %"),
    Metrics.ALIGNMENT: (100.0, " %"),
    Metrics.GENERATION_ALIGNMENT: (100.0, " %"),
    Metrics.PSNR: (1.0, " dB"),
}


def interval(aggregate: Aggregate) -> str:
    """Value of an aggregate with its interval, to the digits that the interval supports."""
    scale, unit = _UNITS.get(aggregate.metric, (1.0, ""))
    value, low, high = (scale * x for x in (aggregate.value, aggregate.low, aggregate.high))
    decimals = _decimals(high - low)
    unit = unit if math.isfinite(value) else ""
    return f"{_fixed(value, decimals)}{unit} [{_fixed(low, decimals)}, {_fixed(high, decimals)}]"


def _decimals(width: float) -> int:
    """Decimals that print the width of an interval with two digits, between 0 and 4."""
    if not math.isfinite(width) or width <= 0:
        return 2
    return min(max(1 - math.floor(math.log10(width)), 0), 4)


def _fixed(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return number(value)
    # Adding 0.0 turns a negative zero, which rounding can leave behind, into a plain one.
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", _MINUS)


def criterion_number(criterion: Criterion, value: float | None) -> str:
    """A number of the verdict table in its unit; a dash where there is none."""
    if value is None:
        return _DASH
    match criterion.unit:
        case "fraction":
            return percent(value)
        case "dB":
            return f"{_fixed(value, 2)} dB"
        case "ratio":
            return f"{number(value)} {_TIMES}"
        case _:
            return number(value)


def duration(seconds: float) -> str:
    """A wall time for people."""
    if not math.isfinite(seconds):
        return number(seconds)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
