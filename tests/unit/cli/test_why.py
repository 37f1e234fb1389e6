"""`crib why`: sentences that say what is known, and no more."""

from __future__ import annotations

import json

import pytest

from crib.cli import why
from crib.cli.output import clean
from crib.cli.session import CliSession
from crib.cli.usage_options import WhyOptions
from crib.client import node
from crib.stubs.node.v1.node_pb2 import ContainerEnd, OomKill, StopRequest

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND
STOP = StopRequest(
    call="StopContainer",
    caller="kubelet/1.36 (request 1f)",
    at=NOW - 40 * SECOND,
    grace_seconds=30,
    signal=15,
    killed=True,
)


def end(**fields: object) -> ContainerEnd:
    made = ContainerEnd(
        container_id="c" * 64,
        pod_sandbox_id="p" * 64,
        pod="default/web",
        name="server",
        state="exited",
        started_at=NOW - 62 * SECOND,
        finished_at=NOW - 10 * SECOND,
    )
    made.MergeFrom(ContainerEnd(**fields))  # type: ignore[arg-type]
    return made


HEAD = "container server of pod default/web (cccccccccccc)"
ENDED = "  ended 10s ago (2027-01-15 07:59:50 UTC), after 52.0 s"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (end(cause="exited", exit_code=3), [f"{ENDED}: its first process ended by itself", "  exit code 3"]),
        (
            end(cause="signal", exit_code=139, signal=11),
            [f"{ENDED}: a signal that crib did not send", "  exit code 139, as after SIGSEGV"],
        ),
        (
            end(cause="stopped", exit_code=137, signal=9, stop=STOP),
            [
                f"{ENDED}: crib was asked to end it",
                "  exit code 137, as after SIGKILL",
                "  StopContainer of kubelet/1.36 (request 1f) 40s ago (2027-01-15 07:59:20 UTC): "
                "SIGTERM first, a grace of 30 s, SIGKILL was sent",
            ],
        ),
        (
            end(
                cause="oom",
                exit_code=137,
                signal=9,
                oom=OomKill(
                    level="pod",
                    cgroup="/kubepods/pod1",
                    limit_bytes=64 << 20,
                    pid=812,
                    process="java\x1b",
                    process_bytes=60 << 20,
                    logged=True,
                ),
            ),
            [
                f"{ENDED}: it was out of memory",
                "  the kernel killed java? (pid 812, with 60.0 MiB of its own): "
                "the limit of its pod of 64.0 MiB, /kubepods/pod1",
                "  exit code 137, as after SIGKILL",
            ],
        ),
        (
            end(cause="oom", exit_code=0, oom=OomKill(level="host")),
            [
                f"{ENDED}: it was out of memory",
                "  the kernel killed a process of it: the whole machine was out of memory "
                "(going by the counters of the cgroups)",
                "  exit code 0",
            ],
        ),
        (
            end(cause="oom", exit_code=1, oom=OomKill()),
            [
                f"{ENDED}: it was out of memory",
                "  the kernel killed a process of it; whose limit was hit is not known",
                "  exit code 1",
            ],
        ),
        (
            end(cause="monitor-lost", exit_code=255, message="the monitor died", pod_problem="it is lost"),
            [
                f"{ENDED}: its monitor had gone: nobody knows what ended it",
                "  message: the monitor died",
                "  its pod: it is lost",
            ],
        ),
        (
            end(
                cause="stopped",
                exit_code=143,
                signal=15,
                stop=StopRequest(
                    call="eviction",
                    caller="cribd",
                    reason="NRI plugin 10-hot: too hot",
                    at=NOW,
                    signal=15,
                    grace_seconds=30,
                ),
            ),
            [
                f"{ENDED}: crib was asked to end it",
                "  exit code 143, as after SIGTERM",
                "  eviction (NRI plugin 10-hot: too hot) 0s ago (2027-01-15 08:00:00 UTC): "
                "SIGTERM first, a grace of 30 s",
            ],
        ),
        (end(exit_code=4), [f"{ENDED}: why is not known", "  exit code 4"]),
        (
            end(cause="stopped", stop=StopRequest(at=NOW), removed_at=NOW, removal=StopRequest(at=NOW)),
            [
                f"{ENDED}: crib was asked to end it",
                "  exit code 0",
                "  crib ended it by itself 0s ago (2027-01-15 08:00:00 UTC)",
                "  removed 0s ago (2027-01-15 08:00:00 UTC), by crib itself",
            ],
        ),
    ],
)
def test_an_end_is_told_in_sentences(found: ContainerEnd, expected: list[str]) -> None:
    assert [clean(line) for line in why.lines(found, NOW)] == [HEAD, *expected]


def test_one_that_runs_has_not_ended() -> None:
    found = ContainerEnd(container_id="c", pod="default/web", name="server", attempt=2, state="running")
    assert list(why.lines(found, NOW)) == [
        "container server of pod default/web (c, attempt 2)",
        "  has not ended: it is running",
    ]


FOUND = [end(attempt=1, exit_code=1), end(attempt=0, exit_code=2), end(name="other")]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> CliSession:
    """One whose node answers with `FOUND`."""

    async def answer(*_: object) -> list[ContainerEnd]:
        return FOUND

    monkeypatch.setattr(node, "ends", answer)
    monkeypatch.setattr("crib.client.Connection._check_socket", lambda connection: None)
    return CliSession("unix:///nowhere")


async def test_of_each_container_the_last_attempt_is_shown_or_all(
    session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    await why.why(session, WhyOptions("web"))
    text = capsys.readouterr().out
    assert text.count("\ncontainer ") + text.startswith("container ") == 2
    assert "exit code 2" not in text
    await why.why(session, WhyOptions("web", every=True, json=True))
    found = json.loads(capsys.readouterr().out)
    assert [one["exitCode"] for one in found] == [1, 2, 0]
