"""Logs that block: a pod's FIFO or link in their place, a log directory that does not answer.

The daemon answers meanwhile, exits are told, and it can be started again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.hung_mount import hung_mount
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

BOUND = 20.0
"""Seconds for what takes milliseconds, or waits for ever."""
LAST = "until [ -e /gate/go ]; do sleep 0.02; done; exit 1"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
def own() -> Iterator[Cribd]:
    """For a test that starts it again."""
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def answers(cri: Cri) -> None:
    await asyncio.wait_for(cri.call(cri.runtime.Version, pb.VersionRequest()), BOUND)


async def box_that_ends(cri: Cri, gate: Path, logs: Path) -> str:
    """A container that ends with 1 once `gate/go` is there, whose log is at `logs/box.log`."""
    gate.mkdir()
    pod = await cri.run_pod(gate.name, log_directory=str(logs))
    mount = pb.Mount(container_path="/gate", host_path=str(gate))
    return await cri.run_container(pod, "sh", "-c", LAST, mounts=[mount])


def replace_by_fifo(log: Path) -> None:
    log.unlink()
    os.mkfifo(log)


async def test_a_container_that_ends_with_a_fifo_as_its_log_is_told_and_all_goes_on(
    cri: Cri, tmp_path: Path
) -> None:
    box = await box_that_ends(cri, tmp_path / "gate", tmp_path / "logs")
    replace_by_fifo(tmp_path / "logs" / "box.log")
    (tmp_path / "gate" / "go").touch()
    status = await cri.exited(box, BOUND)
    assert (status.exit_code, status.reason) == (1, "Error")
    await answers(cri)


async def test_a_log_directory_that_does_not_answer_costs_the_last_words_only(
    cribd: Cribd, tmp_path: Path
) -> None:
    gate, logs = tmp_path / "gate", tmp_path / "logs"
    async with cribd.story() as cri:
        box = await box_that_ends(cri, gate, logs)
        with hung_mount(logs):
            (gate / "go").touch()
            assert (await cri.exited(box, BOUND)).exit_code == 1
            await answers(cri)
        assert f"reading the log {logs}/box.log: takes more than" in cribd.log()


async def test_a_daemon_comes_up_though_the_logs_of_what_ended_do_not_answer(
    own: Cribd, tmp_path: Path
) -> None:
    async with own.story() as cri:
        boxes = [await box_that_ends(cri, tmp_path / name, tmp_path / f"{name}.logs") for name in "ab"]
        own.kill()
        replace_by_fifo(tmp_path / "a.logs" / "box.log")
        with hung_mount(tmp_path / "b.logs"):
            for name, box in zip("ab", boxes, strict=True):
                (tmp_path / name / "go").touch()
                await until((own.state / "exits" / box).exists, BOUND)
            own.start()
            async with own.connect() as again:
                for box in boxes:
                    assert (await again.exited(box, BOUND)).exit_code == 1


@pytest.mark.parametrize("inside", ["", "pod"])
async def test_a_log_on_a_file_system_that_does_not_answer_is_not_opened_anew_and_that_is_said(
    cri: Cri, tmp_path: Path, inside: str
) -> None:
    gate, hung, logs = tmp_path / "gate", tmp_path / "logs", tmp_path / "logs" / inside
    box = await box_that_ends(cri, gate, logs)
    reopen = pb.ReopenContainerLogRequest(container_id=box)
    with hung_mount(hung):
        with pytest.raises(ClientError, match=f"the log {logs}/box.log: takes more than") as caught:
            await asyncio.wait_for(cri.call(cri.runtime.ReopenContainerLog, reopen), BOUND)
        assert caught.value.code == "UNAVAILABLE"
        await answers(cri)
    await cri.call(cri.runtime.ReopenContainerLog, reopen)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
async def test_a_container_whose_log_would_not_be_a_file_is_refused(
    cri: Cri, tmp_path: Path, kind: str
) -> None:
    """conmon, which is root, would follow the link, and wait for a reader of the FIFO."""
    log = tmp_path / "logs" / "box.log"
    pod = await cri.run_pod("pod", log_directory=str(log.parent))
    match kind:
        case "link":
            log.symlink_to(tmp_path / "victim")
        case "fifo":
            os.mkfifo(log)
        case "directory":
            log.mkdir()
    with pytest.raises(ClientError, match=r"config\.log_path: .*box\.log.* not a regular file") as caught:
        await cri.create(pod, "true")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert not (tmp_path / "victim").exists()
