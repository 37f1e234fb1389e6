"""The conformance suite itself: what cases declare, and how they are picked, run and reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from crib.cli import app
from crib.cli import conform as command
from crib.cli.conform_options import ConformOptions
from crib.cli.forms import Format
from crib.cli.session import CliSession
from crib.client import ClientError, Connection
from crib.client.errors import NotFound, NotOffered
from crib.conform import cgroups, page, reports, session
from crib.conform.case import Case, Level
from crib.conform.cases import every
from crib.conform.coverage import coverage, fields_of, rpcs
from crib.conform.expect import Mismatch, NotApplicable, equal, refused, shown
from crib.conform.running import CaseOutcome, CaseResult, picked, run_cases
from crib.conform.subject import LABEL, Subject
from crib.conform.trial import Trial
from tests.unit.client.fake_runtime import World, serve

COVERED = 219
"""Fields of requests that some case covers, at least. This number only grows."""
IMAGE = "localhost/busybox:1"


async def passes(trial: Trial) -> None:
    await trial.box()


async def mismatches(trial: Trial) -> None:
    await trial.pod()
    equal("the answer", 41, 42)


async def skips(trial: Trial) -> None:
    raise NotApplicable("this node has no moon")


async def is_not_offered(trial: Trial) -> None:
    raise NotOffered("no such call", "UNIMPLEMENTED")


async def breaks(trial: Trial) -> None:
    raise KeyError("field")


async def is_refused(trial: Trial) -> None:
    raise NotFound("no such image", "NOT_FOUND")


async def hangs(trial: Trial) -> None:
    await trial.pod()
    await asyncio.Event().wait()


def made(check: object, level: Level = Level.MUST) -> Case:
    name = check.__name__  # type: ignore[attr-defined]
    return Case("Version", name, "a title", level, "CRI <1>", frozenset(), check)  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World()
    world.add_image(IMAGE)
    server = await serve(f"{tmp_path}/s", world, node=False)
    yield world
    await server.stop(None)


@pytest.fixture
async def subject(world: World, tmp_path: Path) -> AsyncIterator[Subject]:
    async with Connection(f"{tmp_path}/s") as connection:
        yield Subject(connection, str(tmp_path / "run"), IMAGE)


async def outcomes(subject: Subject, *cases: Case, limit: float = 30) -> list[CaseResult]:
    return await run_cases(subject, cases, 2, limit, lambda _: None)


def test_every_declared_field_is_one_of_the_interface() -> None:
    known = {*fields_of("input_type"), *fields_of("output_type")}
    unknown = {f"{case.id}: {field}" for case in every() for field in case.fields - known}
    assert unknown == set()


def test_every_case_says_what_must_hold_and_where_that_is_written() -> None:
    cases = every()
    assert len(cases) >= 240
    assert [case.id for case in cases if not case.title or not case.source or not case.fields] == []
    assert [case.id for case in cases if case.rpc not in rpcs()] == []


def test_every_rpc_has_a_case() -> None:
    assert set(rpcs()) == {case.rpc for case in every()}


def test_fields_of_requests_without_a_case_only_become_fewer() -> None:
    covered, total = coverage(every()).share()
    assert covered >= COVERED
    assert total == len(fields_of("input_type"))


def test_cases_are_picked_by_rpc_name_and_field() -> None:
    cases = every()
    assert {case.rpc for case in picked(cases, ["version/"])} == {"Version"}
    assert {case.name for case in picked(cases, ["*/hostname_*"])} == {"hostname_is_the_pods"}
    assert [case.name for case in picked(cases, ["StartContainer/runs_a_container_once"])] == [
        "runs_a_container_once"
    ]
    by_field = picked(cases, ["Mount.readonly"])
    assert by_field
    assert all("Mount.readonly" in case.fields for case in by_field)
    assert picked(cases, []) == cases
    with pytest.raises(ClientError, match="no case is like 'no such case'; see --list"):
        session.cases(["no such case"])


async def test_each_end_of_a_case_has_its_outcome(subject: Subject) -> None:
    cases = [made(check) for check in (passes, mismatches, skips, is_not_offered, breaks, is_refused)]
    found = {result.case.name: result for result in await outcomes(subject, *cases)}
    assert found["passes"].outcome is CaseOutcome.PASSED
    wrong = found["mismatches"]
    assert (wrong.outcome, wrong.asked, wrong.expected, wrong.got) == (
        CaseOutcome.FAILED,
        "the answer",
        "42",
        "41",
    )
    assert (found["skips"].outcome, found["skips"].reason) == (CaseOutcome.SKIPPED, "this node has no moon")
    assert found["is_not_offered"].expected == "the call is offered"
    assert found["breaks"].got == "KeyError: 'field'"
    assert found["is_refused"].got == "NOT_FOUND: no such image"
    assert all(result.counts for name, result in found.items() if name not in ("passes", "skips"))


async def test_what_is_optional_and_not_offered_is_skipped_and_only_a_must_counts(subject: Subject) -> None:
    optional, should = made(is_not_offered, Level.OPTIONAL), made(mismatches, Level.SHOULD)
    skipped, failed = await outcomes(subject, optional, should)
    assert (skipped.outcome, skipped.reason) == (CaseOutcome.SKIPPED, "no such call")
    assert (failed.outcome, failed.counts) == (CaseOutcome.FAILED, False)


async def test_a_case_that_hangs_ends_at_its_limit_and_leaves_nothing(subject: Subject, world: World) -> None:
    (result,) = await outcomes(subject, made(hangs), limit=1)
    assert (result.expected, result.got) == ("an end within 1 s", "none")
    assert world.pods == {}


async def test_everything_is_labelled_and_removed_even_after_a_cancel(
    subject: Subject, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def begins(trial: Trial) -> None:
        await trial.box(pod=await trial.pod())
        await trial.box()
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(session, "every", lambda: [made(begins)])
    plan = session.Plan(IMAGE)
    running_all = asyncio.ensure_future(session.conform(subject.connection, plan, lambda _: None))
    await asyncio.wait_for(begun.wait(), 60)
    assert len(world.pods) == 2
    assert all(LABEL in pod.labels for pod in world.pods.values())
    running_all.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_all
    assert world.pods == {}


async def test_clean_removes_what_other_runs_left_and_nothing_else(
    subject: Subject, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path / "cgroup"))
    for name in ("crib-conform-left", "other", "cgroup/cpu/cribconform1/pod2", "cgroup/cpu/pods"):
        (tmp_path / name).mkdir(parents=True)
    left = Subject(subject.connection, subject.directory, IMAGE)
    pod = await Trial(left, "left").pod()
    config = Trial(left, "other").pod_config()
    del config.labels[LABEL]
    other = await Trial(left, "other").pod(config)
    assert await session.clean(subject.connection) == []
    assert set(world.pods) == {other.id}
    assert not (tmp_path / "crib-conform-left").exists()
    assert (tmp_path / "other").exists()
    assert [path.name for path in (tmp_path / "cgroup" / "cpu").iterdir()] == ["pods"]
    assert pod.id != other.id


async def test_an_expected_error_has_one_of_the_named_codes() -> None:
    async def fails() -> None:
        raise NotFound("gone", "NOT_FOUND")

    async def succeeds() -> None: ...

    assert (await refused("x", fails(), "NOT_FOUND")).message == "gone"
    with pytest.raises(Mismatch, match="expected INVALID_ARGUMENT, got NOT_FOUND: gone"):
        await refused("x", fails(), "INVALID_ARGUMENT")
    with pytest.raises(Mismatch, match="expected an error, got success"):
        await refused("x", succeeds())


def test_long_values_are_cut_in_the_middle() -> None:
    text = shown("a" * 500 + "b" * 500)
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert len(text) < 310


async def a_report(subject: Subject) -> session.ConformReport:
    await subject.prepare()
    cases = (made(passes), made(mismatches), replace(made(skips), rpc="Status"), made(hangs, Level.SHOULD))
    results = await outcomes(subject, *cases, limit=1)
    return session.ConformReport("unix:///x", subject.version, results, 1.5)


async def test_reports_say_what_was_asked_expected_and_got(subject: Subject) -> None:
    report = await a_report(subject)
    assert not report.passed
    assert [row[:5] for row in reports.summary(report.results)] == [
        ["Version", "1", "1", "1", "-"],
        ["Status", "-", "-", "-", "1"],
        ["all", "1", "1", "1", "1"],
    ]
    assert reports.line(report.results[1]).startswith("FAIL Version/mismatches (")
    assert reports.line(report.results[2]).endswith(": this node has no moon")
    assert reports.line(report.results[3]).startswith("warn Version/hangs (")
    markdown = reports.markdown(report)
    assert "| Version/mismatches | must | the answer | 42 | 41 | CRI <1> |" in markdown
    assert "CRI &lt;1&gt;" in page.html(report)
    assert "does not conform" in page.html(report)
    found = reports.document(report)
    assert (found["runtime"], found["passed"], found["cases"][1]["got"]) == ("fake", False, "41")


async def test_junit_has_failures_of_must_cases_only(subject: Subject) -> None:
    suite = ElementTree.fromstring(reports.junit(await a_report(subject)))
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["skipped"]) == ("4", "1", "2")
    kinds = {case.attrib["name"]: [child.tag for child in case] for case in suite}
    assert kinds == {"passes": [], "mismatches": ["failure"], "skips": ["skipped"], "hangs": ["skipped"]}


async def test_the_command_exits_with_one_if_a_must_case_fails(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "every", lambda: [made(passes), made(mismatches)])
    files: dict[str, Any] = {kind: f"{tmp_path}/report.{kind}" for kind in ("junit", "html", "markdown")}
    here = CliSession(f"{tmp_path}/s")
    assert await command.run(here, ConformOptions(image=IMAGE, **files)) == 1
    out, err = capsys.readouterr()
    assert "    expected  42\n    got       41\n    source    CRI <1>\n" in out
    assert out.splitlines()[-1].startswith("fake 1.0 does not conform: 1 of 2 cases passed in ")
    assert "ok   Version/passes" in err
    assert all(Path(path).stat().st_size > 300 for path in files.values())
    options = ConformOptions(image=IMAGE, only=["passes"], output=Format.JSON)
    assert await command.run(here, options) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


async def test_a_missing_image_is_told_with_what_to_do(world: World, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"image missing:1 is not there; name a busybox with --image \(no"):
        await command.run(CliSession(f"{tmp_path}/s"), ConformOptions(image="missing:1"))


def test_the_commands_defaults_are_those_of_a_run() -> None:
    options, plan = ConformOptions(), session.Plan()
    for name in ("image", "pull_image", "handler", "parallel", "limit"):
        assert getattr(options, name) == getattr(plan, name)


def test_lists_need_no_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending(["conform", "--list", "--only", "Version"]) == 0
    assert "Version/names_itself" in capsys.readouterr().out
    assert app._ending(["conform", "--coverage"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("fields of requests are covered")
    assert app._ending(["conform", "--coverage", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"]["Mount.readonly"]
