"""Running cases: several at a time, each with a limit, and what became of each."""

from __future__ import annotations

import asyncio
import fnmatch
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from crib.client.errors import ClientError, NotOffered
from crib.conform.case import Case, Level
from crib.conform.expect import Mismatch, NotApplicable, shown
from crib.conform.subject import Subject
from crib.conform.trial import Trial

CLEAN_SECONDS = 60.0
"""For the removal of one case's pods and containers."""


class CaseOutcome(StrEnum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case's end. The three texts are those of a failure, `reason` is that of a skip."""

    case: Case
    outcome: CaseOutcome
    seconds: float = 0.0
    asked: str = ""
    expected: str = ""
    got: str = ""
    reason: str = ""

    @property
    def counts(self) -> bool:
        """Whether the run has failed because of it."""
        return self.outcome is CaseOutcome.FAILED and self.case.level is Level.MUST


def picked(cases: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """Those that a pattern names: by the whole id, by a part of the id or of a field, or with * and ?."""
    cases = list(cases)
    ids = {case.id for case in cases}

    def fits(case: Case, pattern: str) -> bool:
        if pattern in ids:
            return case.id == pattern
        wanted = (pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*").lower()
        return any(fnmatch.fnmatchcase(name.lower(), wanted) for name in (case.id, *case.fields))

    return [case for case in cases if not patterns or any(fits(case, pattern) for pattern in patterns)]


async def run_cases(
    subject: Subject, cases: Sequence[Case], parallel: int, limit: float, tell: Callable[[CaseResult], None]
) -> list[CaseResult]:
    """All of them, `parallel` at a time; results in the order of the cases. `limit` is in seconds."""
    results: dict[str, CaseResult] = {}
    left = iter(cases)

    async def worker() -> None:
        for case in left:  # which all workers draw from
            results[case.id] = await run_case(subject, case, limit)
            tell(results[case.id])

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, min(parallel, len(cases)))):
            group.create_task(worker())
    return [results[case.id] for case in cases]


async def run_case(subject: Subject, case: Case, limit: float) -> CaseResult:
    """One of them; all that it made is removed before this returns."""
    trial = Trial(subject, case.name)
    began = time.monotonic()
    try:
        result = await _judged(case, case.check(trial), limit)
    finally:
        await asyncio.shield(_cleaned(trial))
    seconds = time.monotonic() - began
    return CaseResult(case, result.outcome, seconds, result.asked, result.expected, result.got, result.reason)


async def _cleaned(trial: Trial) -> None:
    try:
        async with asyncio.timeout(CLEAN_SECONDS):
            await trial.clean()
    except (ClientError, OSError, TimeoutError):
        pass  # the removal at the end of the run tries again, and tells


async def _judged(case: Case, work: Awaitable[None], limit: float) -> CaseResult:
    try:
        async with asyncio.timeout(limit):
            await work
    except NotApplicable as reason:
        return CaseResult(case, CaseOutcome.SKIPPED, reason=str(reason))
    except NotOffered as error:
        if case.level is not Level.MUST:
            return CaseResult(case, CaseOutcome.SKIPPED, reason=error.message)
        return _failed(case, "the call is offered", f"{error.code}: {error.message}")
    except Mismatch as found:
        return CaseResult(case, CaseOutcome.FAILED, asked=found.asked, expected=found.expected, got=found.got)
    except ClientError as error:
        return _failed(case, "every call of the case succeeds", f"{error.code or 'ERROR'}: {error.message}")
    except TimeoutError:
        return _failed(case, f"an end within {limit:g} s", "none")
    except Exception as error:
        return _failed(case, "an answer that can be read", f"{type(error).__name__}: {error}")
    return CaseResult(case, CaseOutcome.PASSED)


def _failed(case: Case, expected: str, got: str) -> CaseResult:
    return CaseResult(case, CaseOutcome.FAILED, asked=case.title, expected=expected, got=shown(got))
