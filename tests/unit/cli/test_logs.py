"""`crib logs`: whose lines, which of them, in which order, with which prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import app, logs
from crib.cli.labels import selector
from crib.cli.log_options import LogsOptions, LogStream
from crib.cli.session import CliSession, CommandError
from crib.client.errors import NotFound
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.cli.command_world import add_container, add_pod, served
from tests.unit.client.fake_runtime import World

Output = pytest.CaptureFixture[bytes]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    async with served(world, tmp_path) as made:
        yield made


def log(path: Path, *lines: str) -> str:
    """A log of lines that each begin with their second."""
    path.write_text("".join(f"2026-01-02T03:04:{line[:2]}Z stdout F {line[3:]}\n" for line in lines))
    return str(path)


@pytest.fixture
def two(world: World, tmp_path: Path) -> str:
    """Pod `web` of two containers, and `api` of one."""
    web = add_pod(world, "web", labels={"app": "shop"})
    add_container(world, web, "server", log_path=log(tmp_path / "a", "01 one", "03 three", "05 five"))
    add_container(world, web, "side", log_path=log(tmp_path / "b", "02 two", "04 four"))
    api = add_pod(world, "api", labels={"app": "shop", "tier": "back"})
    add_container(world, api, "main", log_path=log(tmp_path / "c", "06 six"))
    return web


async def test_lines_of_several_containers_come_by_their_times_with_prefixes(
    session: CliSession, two: str, capfdbinary: Output
) -> None:
    await logs.logs(session, LogsOptions(["web", "api"], all_containers=True))
    assert capfdbinary.readouterr().out.decode().splitlines() == [
        "[web/server] one",
        "[web/side] two",
        "[web/server] three",
        "[web/side] four",
        "[web/server] five",
        "[api/main] six",
    ]
    await logs.logs(session, LogsOptions(["web", "api"], all_containers=True, prefix=False, tail=1))
    assert capfdbinary.readouterr().out == b"four\nfive\nsix\n"


async def test_containers_are_told_apart_by_colours_where_there_are_colours(
    session: CliSession, two: str, capfdbinary: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("CLICOLOR_FORCE", "1")
    await logs.logs(session, LogsOptions(["web"], all_containers=True, tail=1))
    first, second = capfdbinary.readouterr().out.splitlines()
    assert (first, second) == (b"\x1b[33m[web/side]\x1b[0m four", b"\x1b[36m[web/server]\x1b[0m five")
    await logs.logs(session, LogsOptions(["web"], container="side", tail=1))
    assert capfdbinary.readouterr().out == b"four\n"
    monkeypatch.setenv("NO_COLOR", "1")
    await logs.logs(session, LogsOptions(["web"], all_containers=True, tail=1))
    assert capfdbinary.readouterr().out == b"[web/side] four\n[web/server] five\n"


async def test_pods_are_chosen_by_their_labels(session: CliSession, two: str, capfdbinary: Output) -> None:
    await logs.logs(session, LogsOptions(selector="app=shop,tier=back"))
    assert capfdbinary.readouterr().out == b"six\n"
    await logs.logs(session, LogsOptions(selector="app==shop,!tier", container="side", prefix=True))
    assert capfdbinary.readouterr().out == b"[web/side] two\n[web/side] four\n"
    with pytest.raises(NotFound, match="no pod has the labels app=other"):
        await logs.logs(session, LogsOptions(selector="app=other"))
    with pytest.raises(NotFound):
        await logs.logs(session, LogsOptions(selector="app=shop", namespace="other"))


async def test_namespaces_are_told_where_there_are_several(
    session: CliSession, world: World, two: str, tmp_path: Path, capfdbinary: Output
) -> None:
    other = add_pod(world, "web", "test")
    add_container(world, other, "server", log_path=log(tmp_path / "d", "07 seven"))
    await logs.logs(session, LogsOptions(["default/web/side", "test/web"], tail=1))
    assert capfdbinary.readouterr().out == b"[default/web/side] four\n[test/web/server] seven\n"


async def test_the_log_of_the_attempt_before(
    session: CliSession, world: World, two: str, tmp_path: Path, capfdbinary: Output
) -> None:
    add_container(world, two, "server", attempt=1, log_path=log(tmp_path / "d", "08 again"))
    await logs.logs(session, LogsOptions(["web"], "server", previous=True, tail=1))
    assert capfdbinary.readouterr().out == b"five\n"
    await logs.logs(session, LogsOptions(["web"], all_containers=True, previous=True, tail=1))
    assert capfdbinary.readouterr().out == b"five\n"
    with pytest.raises(NotFound, match=r"of container default/web/side \(.*\) no earlier attempt is kept"):
        await logs.logs(session, LogsOptions(["web"], "side", previous=True))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"until": "2026-01-02T03:04:03Z"}, b"one\nthree\n"),
        ({"until": "2026-01-02T03:04:03Z", "tail": 1}, b"three\n"),
        ({"since": "2026-01-02T03:04:02Z", "until": "2026-01-02T03:04:04Z"}, b"three\n"),
        ({"tail": 0}, b""),
        ({"tail": -1}, b"one\nthree\nfive\n"),
        ({"stream": LogStream.STDERR}, b""),
    ],
)
async def test_lines_are_limited_by_time_number_and_stream(
    session: CliSession, two: str, capfdbinary: Output, limits: dict[str, object], expected: bytes
) -> None:
    await logs.logs(session, LogsOptions(["web"], "server", **limits))  # type: ignore[arg-type]
    assert capfdbinary.readouterr().out == expected


async def test_several_logs_are_followed_until_all_have_ended(
    session: CliSession, world: World, two: str, capfdbinary: Output
) -> None:
    for status in world.containers.values():
        status.state = cri.CONTAINER_EXITED
    async with asyncio.timeout(60):
        await logs.logs(session, LogsOptions(["web", "api"], all_containers=True, follow=True, tail=1))
    assert sorted(capfdbinary.readouterr().out.decode().splitlines()) == [
        "[api/main] six",
        "[web/server] five",
        "[web/side] four",
    ]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_log_that_is_not_there_spoils_no_other(
    session: CliSession, world: World, two: str, tmp_path: Path, capfdbinary: Output, follow: bool
) -> None:
    for status in world.containers.values():
        status.state = cri.CONTAINER_EXITED
    (tmp_path / "a").unlink()
    wanted = LogsOptions(["web"], all_containers=True, follow=follow)
    with pytest.raises(CommandError, match="1 of 2 logs could not be read"):
        await logs.logs(session, wanted)
    said = capfdbinary.readouterr()
    assert said.out == b"[web/side] two\n[web/side] four\n"
    assert said.err == f"crib: there is no log file {tmp_path}/a\n".encode()
    with pytest.raises(NotFound, match="there is no log file"):
        await logs.logs(session, LogsOptions(["web"], "server", follow=follow))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logs"], "name pods or containers, or use --selector"),
        (["logs", "web", "-l", "a=b"], "name pods or containers, or use --selector"),
        (
            ["logs", "web", "--all-containers", "-c", "x"],
            "--all-containers and --container exclude each other",
        ),
        (
            ["logs", "web", "--until", "soon"],
            "--until 'soon' is neither a duration such as 90s, 10m or 2h, nor",
        ),
    ],
)
def test_wrong_usage_is_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending(words) == 2
    assert message in capsys.readouterr().err


def test_a_selector_that_is_none_is_wrong_usage() -> None:
    for text in ("", "a b", "=x", "!"):
        with pytest.raises(CommandError, match="is not KEY=VALUE"):
            selector(text, "-l")
