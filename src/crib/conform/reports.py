"""The results of a run as rows, JSON, JUnit XML and markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from crib.conform.running import CaseOutcome, CaseResult

if TYPE_CHECKING:
    from crib.conform.coverage import Coverage
    from crib.conform.session import ConformReport

SUMMARY_COLUMNS = ("RPC", "PASSED", "FAILED (MUST)", "FAILED (OTHER)", "SKIPPED", "SECONDS")


def line(result: CaseResult) -> str:
    """One case's end in one line, as it is told while a run goes on."""
    word = {CaseOutcome.PASSED: "ok", CaseOutcome.SKIPPED: "skip", CaseOutcome.FAILED: "FAIL"}[result.outcome]
    if result.outcome is CaseOutcome.FAILED and not result.counts:
        word = "warn"
    text = f"{word:4} {result.case.id} ({result.seconds:.1f} s)"
    return f"{text}: {result.reason}" if result.reason else text


def failure(result: CaseResult) -> list[str]:
    """A failure in full."""
    return [
        f"{result.case.id} ({result.case.level}): {result.case.title}",
        f"    asked     {result.asked}",
        f"    expected  {result.expected}",
        f"    got       {result.got}",
        f"    source    {result.case.source}",
    ]


def summary(results: Sequence[CaseResult]) -> list[list[str]]:
    """A row for each RPC, in the order of the cases, and one for all."""
    by_rpc: dict[str, list[CaseResult]] = {}
    for result in results:
        by_rpc.setdefault(result.case.rpc, []).append(result)
    return [_row(rpc, found) for rpc, found in by_rpc.items()] + [_row("all", results)]


def _row(name: str, results: Sequence[CaseResult]) -> list[str]:
    counts = [
        count(results, CaseOutcome.PASSED),
        sum(result.counts for result in results),
        count(results, CaseOutcome.FAILED) - sum(result.counts for result in results),
        count(results, CaseOutcome.SKIPPED),
    ]
    seconds = sum(result.seconds for result in results)
    return [name, *(str(number) if number else "-" for number in counts), f"{seconds:.1f}"]


def count(results: Iterable[CaseResult], outcome: CaseOutcome) -> int:
    """How many ended so."""
    return sum(result.outcome is outcome for result in results)


def document(report: ConformReport) -> dict[str, Any]:
    """For programs."""
    return {
        "endpoint": report.endpoint,
        "runtime": report.version.runtime_name,
        "version": report.version.runtime_version,
        "passed": report.passed,
        "seconds": round(report.seconds, 3),
        "left": list(report.left),
        "cases": [_case(result) for result in report.results],
    }


def _case(result: CaseResult) -> dict[str, Any]:
    case = result.case
    found: dict[str, Any] = {
        "id": case.id,
        "rpc": case.rpc,
        "title": case.title,
        "level": str(case.level),
        "source": case.source,
        "fields": sorted(case.fields),
        "outcome": str(result.outcome),
        "seconds": round(result.seconds, 3),
    }
    if result.outcome is CaseOutcome.FAILED:
        found |= {"asked": result.asked, "expected": result.expected, "got": result.got}
    if result.reason:
        found["reason"] = result.reason
    return found


def junit(report: ConformReport) -> str:
    """JUnit's XML: only must-cases are failures, the others' are skips with what was found."""
    failed, skipped = sum(r.counts for r in report.results), 0
    lines = []
    for result in report.results:
        case = result.case
        head = f"  <testcase classname={_attribute(case.rpc)} name={_attribute(case.name)}"
        head += f' time="{result.seconds:.3f}"'
        if result.outcome is CaseOutcome.PASSED:
            lines.append(f"{head}/>")
            continue
        what = "failure" if result.counts else "skipped"
        skipped += what == "skipped"
        message = result.reason or f"expected {result.expected}, got {result.got}"
        body = "\n".join(failure(result)) if result.outcome is CaseOutcome.FAILED else ""
        lines += [
            f"{head}>",
            f"    <{what} message={_attribute(message)}>{_text(body)}</{what}>",
            "  </testcase>",
        ]
    name = f"crib conform {report.version.runtime_name} {report.version.runtime_version}"
    head = f"<testsuite name={_attribute(name)} tests={_attribute(str(len(report.results)))}"
    head += f' failures="{failed}" errors="0" skipped="{skipped}" time="{report.seconds:.3f}">'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *lines, "</testsuite>", ""])


def _text(text: str) -> str:
    """What XML 1.0 can hold."""
    return escape("".join(char if char.isprintable() or char in "\n\t" else "?" for char in text))


def _attribute(text: str) -> str:
    return quoteattr("".join(char if char.isprintable() else " " for char in text))


def markdown(report: ConformReport) -> str:
    """A page: the summary by RPC, then every case that did not pass."""
    lines = [
        f"# {report.version.runtime_name} {report.version.runtime_version}",
        "",
        _table(SUMMARY_COLUMNS, summary(report.results)),
    ]
    for title, level in (("Failed", True), ("Failed, not binding", False)):
        found = [r for r in report.results if r.outcome is CaseOutcome.FAILED and r.counts is level]
        rows = [[r.case.id, str(r.case.level), r.asked, r.expected, r.got, r.case.source] for r in found]
        if rows:
            columns = ("case", "level", "asked", "expected", "got", "source")
            lines += ["", f"## {title}", "", _table(columns, rows)]
    rows = [[r.case.id, r.reason] for r in report.results if r.outcome is CaseOutcome.SKIPPED]
    if rows:
        lines += ["", "## Skipped", "", _table(("case", "reason"), rows)]
    return "\n".join([*lines, ""])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def coverage_rows(found: Coverage) -> list[list[str]]:
    """Each request field with how many cases cover it, those without a case first."""
    fields = sorted(found.requests.items(), key=lambda entry: bool(entry[1]))
    return [[field, str(len(cases)) if cases else "none", ", ".join(cases[:2])] for field, cases in fields]
