"""Files and folders held to every rule; nothing in them is run, unpickled or trusted."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, final

from loricate.basics import registry
from loricate.basics.errors import LoricateError
from loricate.integrity._base_model import Base
from loricate.integrity._keys import is_adapter
from loricate.integrity._walk import Found, files_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["Judged", "ScanReport", "Verdict", "all_rules", "scan"]

Verdict: TypeAlias = Literal["pass", "fail", "inconclusive"]

_BY_SCAN = "scan"
_NO_PICKLE = "pickle"


@final
@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one file.

    Args:
        path: The file, as it was reached.
        content: What is in it.
        sha256: Digest of its bytes, or ``None`` where it could not be read.
        findings: What was found, the most severe first.
        not_verified: What could not be judged.
        passed: Keys of the rules that looked at all of it and found nothing.
        not_applicable: Keys of the rules that had nothing to look at in it.
        is_open: Whether it could not be read, a rule broke down, or an essential one could not
            judge something, so that it does not pass.
    """

    path: str
    content: Content
    sha256: str | None
    findings: tuple[Finding, ...]
    not_verified: tuple[NotVerified, ...]
    passed: tuple[str, ...]
    not_applicable: tuple[str, ...] = ()
    is_open: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether anything can be said of the file; that it is no pickle is not enough."""
        is_known = self.content is not Content.OTHER
        said = set(self.passed) - ({_NO_PICKLE} if self.content is Content.JSON else set())
        return bool(self.findings or (said and is_known))


@final
@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """What became of all files.

    Args:
        subjects: One entry for each file, in the order of their paths.
    """

    subjects: tuple[Judged, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings in all files, the most severe first."""
        return _gravest_first(each for subject in self.subjects for each in subject.findings)

    @property
    def not_verified(self) -> tuple[NotVerified, ...]:
        """What could not be judged in all files."""
        return tuple(each for subject in self.subjects for each in subject.not_verified)

    def outcome(self, fail_on: Severity = Severity.HIGH) -> Verdict:
        """Verdict on all files together.

        Args:
            fail_on: The least severity that fails.

        Returns:
            ``inconclusive`` where no rule could judge anything, an essential one not all, one broke
            down, or a file or folder could not be read.
        """
        if any(each.severity.level >= fail_on.level for each in self.findings):
            return "fail"
        if any(each.is_open for each in self.subjects):
            return "inconclusive"
        return "pass" if any(each.is_judged for each in self.subjects) else "inconclusive"


def all_rules() -> tuple[Rule, ...]:
    """Every registered rule with its defaults."""
    return tuple(registry.get("rules", name)() for name in registry.names("rules"))


def scan(
    paths: Sequence[Path],
    *,
    base: Path | None = None,
    rules: Sequence[Rule] | None = None,
    observer: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> ScanReport:
    """Check files and everything in folders.

    Args:
        paths: Files and folders that exist.
        base: Model that adapters are held to.
        rules: What to check for; every registered rule by default.
        observer: Called with (stage, done, total) after every file.

    Raises:
        LoricateError: The base cannot be read.
    """
    checks = all_rules() if rules is None else tuple(rules)
    model = None if base is None else Base(base)
    found = files_of(paths)
    judged = []
    # The digest is taken beside the rules; hashing gives up Python's lock.
    with ThreadPoolExecutor(1) as pool:
        for each in found:
            subject = Subject(each.path, base=model)
            is_read = each.trouble is None
            judged.append(_judge(subject, checks, pool) if is_read else _troubled(subject, each))
            observer("scan", len(judged), len(found))
    return ScanReport(subjects=tuple(judged))


def _troubled(subject: Subject, found: Found) -> Judged:
    why = found.trouble or ""
    return Judged(
        path=str(subject.path),
        content=subject.content,
        sha256=None,
        findings=(),
        not_verified=(NotVerified(rule=_BY_SCAN, path=str(subject.path), why=why),),
        passed=(),
        is_open=found.is_hidden,
    )


def _judge(subject: Subject, rules: Sequence[Rule], pool: ThreadPoolExecutor) -> Judged:
    hashed = pool.submit(_sha256, subject)
    results: list[Finding | NotVerified] = []
    passed, moot = [], []
    is_open = False
    for rule in rules:
        own, is_broken = _checked(rule, subject)
        if own is None:
            moot.append(registry.key_of(type(rule)))
        else:
            results += own
            is_unjudged = any(isinstance(each, NotVerified) for each in own)
            is_open |= is_broken or (rule.is_essential and is_unjudged)
            passed += [registry.key_of(type(rule))] if rule.looks_inside and not own else []
    if not results and not passed:
        why = "no rule judges files of this kind"
        results.append(NotVerified(rule=_BY_SCAN, path=str(subject.path), why=why))
    return Judged(
        path=str(subject.path),
        content=subject.content,
        sha256=hashed.result(),
        findings=_gravest_first(each for each in results if isinstance(each, Finding)),
        not_verified=tuple(each for each in results if isinstance(each, NotVerified)),
        passed=tuple(passed),
        not_applicable=tuple(moot),
        is_open=is_open,
    )


def _applies(rule: Rule, subject: Subject) -> bool:
    # Of what is no adapter, nobody has to hear that a base is missing.
    is_moot = rule.needs_base and subject.base is None and not is_adapter(subject.tensors or ())
    return subject.content in rule.applies_to and not is_moot and rule.concerns(subject)


def _checked(rule: Rule, subject: Subject) -> tuple[list[Finding | NotVerified] | None, bool]:
    """What a rule says, or ``None`` where it does not apply; and whether it broke down."""
    found: list[Finding | NotVerified] = []
    try:
        if not _applies(rule, subject):
            return None, False
        if rule.needs_base and subject.base is None:
            return [rule.not_verified(subject, "needs the base model: --base MODEL")], False
        found.extend(rule.check(subject))
    except (LoricateError, OSError) as error:
        found.append(rule.not_verified(subject, str(error)))
    except Exception as error:
        # A file may be made to break a rule, which must not hide what the others say of it.
        why = f"the rule broke down at this file: {type(error).__name__}: {error}"
        return [*found, rule.not_verified(subject, why)], True
    return found, False


def _sha256(subject: Subject) -> str | None:
    try:
        return subject.sha256
    except OSError:
        return None


def _gravest_first(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: -each.severity.level))
