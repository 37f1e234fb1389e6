"""What `crib conform` does: lists, runs, reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from crib.cli import output
from crib.cli.forms import Format
from crib.cli.session import CliSession, say
from crib.conform import coverage, page, reports, session
from crib.conform.cases import every
from crib.conform.running import CaseOutcome

if TYPE_CHECKING:
    from crib.cli.conform_options import ConformOptions
    from crib.conform.session import ConformReport


def conform(here: CliSession, options: ConformOptions) -> int:
    """The program's exit code."""
    if options.show:
        _list(options)
        return 0
    if options.coverage:
        _coverage(options)
        return 0
    where = here if options.endpoint is None else CliSession(options.endpoint, here.pods_dir, here.timeout)
    if options.clean:
        return here.run(clean(where))
    return here.run(run(where, options))


def _list(options: ConformOptions) -> None:
    cases = session.cases(options.only or ())
    if options.output is Format.TABLE:
        output.table(("CASE", "LEVEL", "WHAT MUST HOLD"), [[c.id, str(c.level), c.title] for c in cases])
        return
    entries = [
        {"id": c.id, "level": str(c.level), "title": c.title, "source": c.source, "fields": sorted(c.fields)}
        for c in cases
    ]
    output.document(entries, options.output)


def _coverage(options: ConformOptions) -> None:
    found = coverage.coverage(every())
    if options.output is not Format.TABLE:
        both = {"requests": found.requests, "responses": found.responses}
        lists = {side: {name: list(ids) for name, ids in part.items()} for side, part in both.items()}
        output.document(lists, options.output)
        return
    output.table(("FIELD OF A REQUEST", "CASES", "FOR EXAMPLE"), reports.coverage_rows(found))
    covered, total = found.share()
    output.tell(f"{covered} of {total} fields of requests are covered")


async def clean(where: CliSession) -> int:
    """Remove what killed runs have left; the program's exit code."""
    async with where.connect() as connection:
        left = await session.clean(connection)
    for line in left:
        say(f"crib: {line}")
    return 1 if left else 0


async def run(where: CliSession, options: ConformOptions) -> int:
    """Run the cases and write every report; the program's exit code."""
    plan = session.Plan(
        image=options.image,
        pull_image=options.pull_image,
        handler=options.handler,
        only=options.only or (),
        parallel=options.parallel,
        limit=options.limit,
    )
    async with where.connect() as connection:
        report = await session.conform(connection, plan, lambda result: say(reports.line(result)))
    _write_files(report, options)
    if options.output is Format.TABLE:
        _show(report)
    else:
        output.document(reports.document(report), options.output)
    for line in report.left:
        say(f"crib: {line}")
    return 0 if report.passed else 1


def _write_files(report: ConformReport, options: ConformOptions) -> None:
    files: tuple[tuple[str, Callable[[ConformReport], str]], ...] = (
        (options.junit, reports.junit),
        (options.html, page.html),
        (options.markdown, reports.markdown),
    )
    for path, text_of in files:
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text_of(report))


def _show(report: ConformReport) -> None:
    for result in report.results:
        if result.outcome is CaseOutcome.FAILED:
            for line in reports.failure(result):
                output.tell(line)
            output.tell("")
    output.table(reports.SUMMARY_COLUMNS, reports.summary(report.results))
    runtime = f"{report.version.runtime_name} {report.version.runtime_version}"
    verdict = "conforms" if report.passed else "does not conform"
    passed = reports.count(report.results, CaseOutcome.PASSED)
    output.tell(
        f"{runtime} {verdict}: {passed} of {len(report.results)} cases passed in {report.seconds:.0f} s"
    )
