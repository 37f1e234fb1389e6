"""The results of a run as one page of HTML, without anything to load."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from crib.conform.reports import SUMMARY_COLUMNS, count, summary
from crib.conform.running import CaseOutcome, CaseResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.conform.session import ConformReport

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .6rem; text-align: left; }
th { border-bottom: 2px solid #8888; } td { border-bottom: 1px solid #8883; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: .9em; }
.passed { color: #1a7f37; } .failed { color: #c4161c; font-weight: 600; } .other { color: #9a6700; }
.skipped { color: #777; } dl { display: grid; grid-template-columns: 6rem 1fr; margin: .3rem 0; }
dd { margin: 0; } @media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd; } }
"""


def html(report: ConformReport) -> str:
    """The whole page."""
    name = f"{report.version.runtime_name} {report.version.runtime_version}"
    passed = count(report.results, CaseOutcome.PASSED)
    verdict = "conforms" if report.passed else "does not conform"
    head = f"<h1>{escape(name)} {verdict}</h1>"
    head += f"<p>{passed} of {len(report.results)} cases passed in {report.seconds:.0f} s, "
    head += f"{count(report.results, CaseOutcome.SKIPPED)} were skipped.</p>"
    rows = "".join(_summary_row(row) for row in summary(report.results))
    columns = "".join(f"<th>{escape(column.capitalize())}</th>" for column in SUMMARY_COLUMNS)
    by_rpc = f"<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(name)}</title>"
        f"<style>{_STYLE}</style>{head}{by_rpc}<h2>Cases</h2>{_cases(report.results)}</html>\n"
    )


def _summary_row(row: Sequence[str]) -> str:
    numbers = "".join(f"<td class=number>{escape(cell)}</td>" for cell in row[1:])
    return f"<tr><td>{escape(row[0])}</td>{numbers}</tr>"


def _cases(results: Sequence[CaseResult]) -> str:
    """Failures first."""
    order = (CaseOutcome.FAILED, CaseOutcome.SKIPPED, CaseOutcome.PASSED)
    ordered = sorted(results, key=lambda result: (order.index(result.outcome), not result.counts))
    rows = "".join(_case(result) for result in ordered)
    head = "<tr><th>Case</th><th>Level</th><th>CaseResult</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _case(result: CaseResult) -> str:
    case = result.case
    kind = "other" if result.outcome is CaseOutcome.FAILED and not result.counts else str(result.outcome)
    details = ""
    if result.outcome is CaseOutcome.FAILED:
        pairs = (("asked", result.asked), ("expected", result.expected), ("got", result.got))
        details = "<dl>" + "".join(f"<dt>{name}<dd>{escape(text)}" for name, text in pairs) + "</dl>"
    elif result.reason:
        details = f"<br>{escape(result.reason)}"
    return (
        f"<tr><td><code>{escape(case.id)}</code><br>{escape(case.title)}<br><small>{escape(case.source)}</small>"
        f"<td>{case.level}<td><span class={kind}>{result.outcome}</span>{details}</tr>"
    )
