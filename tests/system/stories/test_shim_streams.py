"""What containers and commands of a shim write: when the daemon is killed, or flooded, or cannot write.

The container's numbers show what is missing: each line is written once, and has to be in the log once.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import streams
from crib.client.streams import StreamOptions
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.crilog import LineJoiner
from tests.patience import PATIENCE
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.leftovers import processes_of
from tests.system.labs.stream_lab import box_in, seen

pytestmark = [pytest.mark.root, pytest.mark.system]

BOUND = 60.0 * PATIENCE
SHIM = """default_handler = "shim"
[handlers.shim]
kind = "shim"
runtime = "io.containerd.runc.v2"
options = { BinaryName = "crun" }
"""
COUNT = 30_000
NUMBERS = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); done; echo over"
HELD = f"{NUMBERS}; until [ -e /gate/go ]; do sleep 0.02; done"
EXPECTED = [f"line {number}" for number in range(COUNT)] + ["over"]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra=SHIM) as daemon:
        yield daemon


@pytest.fixture
def own() -> Iterator[Cribd]:
    """For a test that kills it."""
    with running_cribd(extra=SHIM) as daemon:
        yield daemon


@pytest.fixture
async def own_cri(own: Cribd) -> AsyncIterator[Cri]:
    async with own.story() as connection:
        yield connection


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def lines(*logs: Path) -> list[str]:
    """Of files that are one log, the oldest first."""
    joiner = LineJoiner()
    found = [line for log in logs for line in joiner.receive(log.read_bytes())]
    return [line.text for line in [*found, *joiner.finish()]]


async def box_with_gate(cri: Cri, gate: Path, *command: str) -> tuple[str, Path]:
    """A container, and its log."""
    gate.mkdir()
    pod = await cri.run_pod("gated", log_directory=str(gate.parent / "logs"))
    mount = pb.Mount(container_path="/gate", host_path=str(gate))
    box = await cri.run_container(pod, *command, mounts=[mount])
    return box, gate.parent / "logs" / "box.log"


def words_of_processes(cribd: Cribd) -> str:
    """Of all that runs in containers."""
    return "\n".join(words for _, words in processes_of(cribd.root, cribd.cgroup))


async def test_a_daemon_that_is_killed_over_output_loses_no_line_and_repeats_none(
    own_cri: Cri, own: Cribd, tmp_path: Path
) -> None:
    box, log = await box_with_gate(own_cri, tmp_path / "gate", "sh", "-c", HELD)
    for kill in range(3):
        await until(lambda kill=kill: log.stat().st_size > (kill + 1) * 100_000)  # at any place
        own.kill()
        own.start()
    await until(lambda: log.read_bytes().endswith(b" over\n"))
    async with own.connect() as again:
        (tmp_path / "gate" / "go").touch()
        assert (await again.exited(box)).exit_code == 0
    assert lines(log) == EXPECTED


async def test_what_a_container_wrote_last_and_nobody_read_is_told_in_its_log(
    own_cri: Cri, own: Cribd, tmp_path: Path
) -> None:
    script = "echo first; until [ -e /gate/go ]; do sleep 0.02; done; echo last; exit 3"
    box, log = await box_with_gate(own_cri, tmp_path / "gate", "sh", "-c", script)
    await until(lambda: log.exists() and lines(log) == ["first"])
    own.kill()
    (tmp_path / "gate" / "go").touch()
    await until(lambda: "sh -c echo first" not in words_of_processes(own))
    own.start()
    async with own.connect() as again:
        assert (await again.exited(box)).exit_code == 3
    first, *told = lines(log)
    assert first == "first"
    assert told[-1] == "last" or "up to 64 KiB that it wrote last may be missing here" in told[-1]


async def test_a_log_that_is_rotated_again_and_again_has_every_line_once(cri: Cri, tmp_path: Path) -> None:
    box, log = await box_with_gate(cri, tmp_path / "gate", "sh", "-c", HELD)
    asides: list[Path] = []
    for number in itertools.count():
        await until(lambda: log.stat().st_size > 0)
        asides.append(log.with_name(f"box.log.{number}"))
        log.rename(asides[-1])  # as a kubelet does it
        await cri.call(cri.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest(container_id=box))
        if lines(asides[-1])[-1:] == ["over"]:
            break
    (tmp_path / "gate" / "go").touch()
    await cri.exited(box)
    assert lines(*asides, log) == EXPECTED
    assert len(asides) > 1


async def test_a_flood_does_not_keep_the_daemon_from_answering(cri: Cri) -> None:
    pod = await cri.run_pod("flood")
    box = await cri.run_container(pod, "yes")
    took = []
    async with asyncio.timeout(BOUND):
        for _call in range(100):
            began = time.monotonic()
            await cri.call(cri.runtime.Version, pb.VersionRequest())
            took.append(time.monotonic() - began)
    print(f"Version within a flood: median {sorted(took)[50] * 1e3:.1f} ms, worst {max(took) * 1e3:.1f} ms")
    assert await cri.sh(box, "echo fine") == "fine"
    await cri.stop_container(box)


async def test_a_killed_daemons_commands_are_ended_or_go_on_without_waiting_for_a_reader(
    own_cri: Cri, own: Cribd
) -> None:
    _, box = await box_in(own_cri, "box")

    def running() -> set[str]:
        words = words_of_processes(own)
        return {number for number in ("4101", "4102", "4103") if f"sleep {number}" in words}

    script = "head -c 1000000 /dev/zero; echo ready; sleep 4102; exec head -c 1000000 /dev/zero"
    call = asyncio.ensure_future(own_cri.execute(box, "sh", "-c", "sleep 4101 & exec sleep 4101"))
    loose = streams.exec(own_cri.connection, box, ["sh", "-c", script], StreamOptions(stdin=True))
    terminal = ["sh", "-c", "echo ready; exec sleep 4103"]
    tty = streams.exec(own_cri.connection, box, terminal, StreamOptions(tty=True, stdin=True))
    async with loose as one, tty as other:
        await seen(one.stdout, b"ready")
        await seen(other.stdout, b"ready")
        await until(lambda: running() == {"4101", "4102", "4103"})
        own.kill()
        await asyncio.wait([call])
        assert call.exception() is not None
    own.start()
    await until(lambda: running() == {"4102"})
    async with own.connect() as again:
        await again.sh(box, "kill $(pgrep -f 'sleep 4102$' || busybox pidof sleep)")
        await until(lambda: "head -c 1000000" not in words_of_processes(own))


async def test_a_hundred_commands_that_begin_at_once_all_run(cri: Cri) -> None:
    _, box = await box_in(cri, "box")
    outcomes = await asyncio.gather(
        *(cri.execute(box, "sh", "-c", f"echo {n}; exit {n}") for n in range(100))
    )
    assert [(one.code, one.out) for one in outcomes] == [(n, f"{n}\n") for n in range(100)]
