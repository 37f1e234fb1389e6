"""Shims and daemons that are killed: every exit is told, once and truly, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from crib.backends.known_processes import is_alive
from crib.backends.shim import containers as containers_module
from crib.backends.shim import infra as infra_module
from crib.backends.shim import shims as shims_module
from crib.backends.shim.handler import ShimHandler
from crib.backends.shim.nouns import Connected
from crib.backends.shim.processes import find_shims, shims_of
from crib.backends.shim.shim_log import ShimLog
from crib.backends.shim.shim_notes import ShimNote, read_note
from crib.backends.shim.task_client import ShimTasks
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.model.sandbox import NamespaceMode, ProcessIdentity, SandboxRecord
from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded
from tests.system.labs.oci_streams import comes_true
from tests.system.labs.shim_setup import ShimLab, shim_lab

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
async def real() -> AsyncIterator[ShimLab]:
    async with shim_lab() as made:
        yield made


@pytest.fixture
async def lab(real: ShimLab) -> AsyncIterator[HandlerLab]:
    made = HandlerLab(real.handler, real.logs)
    yield made
    await made.close()


async def next_daemon(real: ShimLab, lab: HandlerLab) -> HandlerLab:
    """As after a kill -9: the handler of before does nothing more, the next knows nothing."""
    await lab.close()
    return HandlerLab(await real.again(), real.logs)


def note_of(real: ShimLab, pod: SandboxRecord) -> ShimNote:
    found = read_note(real.paths.container(ContainerId(pod.id)))
    assert found is not None
    return found


def shim_of(real: ShimLab, pod: SandboxRecord) -> ProcessIdentity:
    process = note_of(real, pod).process
    assert process is not None
    return process


def kill_shim(real: ShimLab, pod: SandboxRecord) -> None:
    os.kill(shim_of(real, pod).pid, signal.SIGKILL)


def let_go(record: ContainerRecord) -> None:
    assert record.process is not None
    Path(f"/proc/{record.process.pid}/root/go").touch()


UNTIL_TOLD = ("/bin/sh", "-c", "until [ -e /go ]; do sleep 0.02; done; exit 3")


async def test_a_pods_containers_share_its_shim_which_ends_with_the_pod(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    one, two = await lab.running(pod), await lab.running(pod)
    shim = shim_of(real, pod)
    assert one.monitor == two.monitor == shim
    assert list(shims_of(real.handler.tools.environment.program)) == [(pod.id, shim)]
    await lab.gone(one)
    await lab.gone(two)
    assert is_alive(shim), "the pod may get another container"
    socket = note_of(real, pod).address.path
    async with bounded():
        await lab.handler.pods.remove(pod)
    assert not is_alive(shim)
    assert not os.path.exists(socket)


async def test_nobody_but_root_may_connect_to_a_shim(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    socket = note_of(real, pod).address.path
    assert os.stat(socket).st_mode & 0o077 == 0
    await lab.gone(record)
    await lab.handler.pods.remove(pod)


async def test_a_new_shim_has_the_time_of_a_verb_to_answer(
    lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shims_module, "CONNECT_TIME", 0.0)
    pod = await lab.pod(pid=NamespaceMode.POD)
    async with bounded():
        await lab.handler.pods.remove(pod)


async def test_with_a_killed_shim_its_containers_end_and_the_pod_can_go_on(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    records = [await lab.running(pod), await lab.running(pod)]
    socket = note_of(real, pod).address.path
    kill_shim(real, pod)
    for record, told in zip(records, await lab.exits_of(*records), strict=True):
        assert (told.code, told.lost) == (137, True)
        assert "shim died" in told.why
        assert not is_alive(record.process)
    assert not os.path.exists(socket)
    again = await lab.running(pod)
    await lab.gone(again)
    async with bounded():
        for record in records:
            await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_a_pod_that_shares_its_pids_is_lost_with_its_shim(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod(pid=NamespaceMode.POD)
    stream = lab.handler.pods.losses(lambda: [pod])
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    kill_shim(real, pod)
    async with bounded():
        assert await first == pod.id
        assert not await lab.handler.pods.alive(pod)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        await lab.handler.pods.remove(pod)


async def test_what_ends_while_there_is_no_daemon_has_its_code(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, *UNTIL_TOLD)
    await lab.close()
    await real.handler.close()
    let_go(record)
    async with bounded():
        await comes_true(lambda: not is_alive(record.process))
        real.handler = await ShimHandler.open(real.opening)
        seen = await real.handler.containers.observe(record)
        assert seen.exit is not None
        assert (seen.exit.code, seen.exit.lost) == (3, False)
        await real.handler.containers.delete(record)
        await real.handler.pods.remove(pod)


async def test_the_next_daemon_waits_for_what_still_runs(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, *UNTIL_TOLD)
    again = await next_daemon(real, lab)
    async with bounded():
        seen = await again.handler.containers.observe(record)
        assert (seen.status, seen.exit, seen.monitor_alive) == ("running", None, True)
        let_go(record)
        assert (await again.exit_of(record)).code == 3
        await again.handler.containers.delete(record)
        await again.handler.pods.remove(pod)
    await again.close()


async def test_a_shim_that_is_killed_while_there_is_no_daemon_is_noticed(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    await lab.close()
    await real.handler.close()
    kill_shim(real, pod)
    real.handler = await ShimHandler.open(real.opening)
    async with bounded():
        seen = await real.handler.containers.observe(record)
        assert seen.exit is not None
        assert (seen.exit.code, seen.exit.lost) == (137, True)
        assert not is_alive(record.process)
        await real.handler.containers.delete(record)
        await real.handler.pods.remove(pod)


async def test_a_shim_that_does_not_answer_holds_up_no_removal(
    real: ShimLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers_module, "UNDO_TIME", 0.2)
    monkeypatch.setattr(shims_module, "SHUTDOWN_TIME", 0.2)
    monkeypatch.setattr(infra_module, "END_TIME", 0.2)
    pod = await lab.pod()
    record = await lab.running(pod)
    shim = shim_of(real, pod)
    os.kill(shim.pid, signal.SIGSTOP)
    async with bounded():
        await lab.handler.containers.delete(replace(record, state=ContainerState.REMOVING))
        await lab.handler.pods.remove(pod)
    assert not is_alive(shim)
    assert not is_alive(record.process)


async def test_a_shim_whose_start_nobody_heard_of_is_ended_with_its_pod(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    await lab.gone(record)
    socket = note_of(real, pod).address.path
    os.unlink(f"{real.paths.container(ContainerId(pod.id))}/shim.json")
    again = await next_daemon(real, lab)
    async with bounded():
        await again.handler.pods.remove(pod)
    assert find_shims(real.handler.tools.environment.program, pod.id) == []
    assert not os.path.exists(socket)
    await again.close()


async def test_a_daemon_that_has_no_descriptor_left_takes_no_shim_for_lost(
    real: ShimLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    shim = shim_of(real, pod)
    again = await next_daemon(real, lab)

    async def no_room(_instance: str, _bundle: str) -> ShimLog:
        raise OSError(errno.EMFILE, "Too many open files")

    async with bounded():
        with monkeypatch.context() as patched:
            patched.setattr(ShimLog, "open", no_room)
            with pytest.raises(CribError, match="Too many open files"):
                await again.handler.containers.observe(record)
        assert is_alive(shim)
        assert (await again.handler.containers.observe(record)).status == "running"
        await again.gone(record)
        await again.handler.pods.remove(pod)
    await again.close()


async def test_the_shim_of_a_pod_that_cannot_be_looked_at_once_is_watched_all_the_same(
    real: ShimLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra_module, "RETRY_AFTER", 0.01)
    pod = await lab.pod(pid=NamespaceMode.POD)
    shim = shim_of(real, pod)
    again = await next_daemon(real, lab)
    asked = asyncio.Event()

    async def no_room(_instance: str, _bundle: str) -> ShimLog:
        asked.set()
        raise OSError(errno.EMFILE, "Too many open files")

    async with bounded():
        with monkeypatch.context() as patched:
            patched.setattr(ShimLog, "open", no_room)
            stream = again.handler.pods.losses(lambda: [pod])
            first = asyncio.ensure_future(anext(stream))
            await asked.wait()
        os.kill(shim.pid, signal.SIGKILL)
        assert await first == pod.id
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        await again.handler.pods.remove(pod)
    await again.close()


async def test_who_gives_up_on_a_shim_that_does_not_answer_leaves_nothing_open(
    real: ShimLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    again = await next_daemon(real, lab)
    asked = asyncio.Event()

    async def silent(_tasks: ShimTasks, _container: str) -> Connected:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async with bounded():
        with monkeypatch.context() as patched:
            patched.setattr(ShimTasks, "connect", silent)
            finding = asyncio.ensure_future(real.handler.tools.shims.find(pod.id))
            await asked.wait()
            assert open_logs(real, pod) == 1
            finding.cancel()
            await asyncio.wait([finding])
        assert open_logs(real, pod) == 0
        assert (await again.handler.containers.observe(record)).status == "running"
        await again.gone(record)
        await again.handler.pods.remove(pod)
    await again.close()


def open_logs(real: ShimLab, pod: SandboxRecord) -> int:
    """How often we have the fifo of the pod's shim open."""
    fifo = os.stat(f"{real.paths.container(ContainerId(pod.id))}/log").st_ino
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the listing itself
            found += os.stat(f"/proc/self/fd/{name}").st_ino == fifo
    return found


async def test_a_sweep_ends_shims_of_pods_that_nobody_knows(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    shim = shim_of(real, pod)
    async with bounded():
        told = await lab.handler.sweep(lambda: ())
    assert any(record.id in line for line in told)
    assert any(pod.id in line for line in told)
    assert not is_alive(shim)
    assert not is_alive(record.process)


async def test_a_sweep_ends_a_shim_whose_pod_has_left_no_trace(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    await lab.gone(record)
    shim, socket = shim_of(real, pod), note_of(real, pod).address.path
    again = await next_daemon(real, lab)
    shutil.rmtree(real.paths.container(ContainerId(pod.id)))
    async with bounded():
        await again.handler.pods.remove(pod)
        told = await again.handler.sweep(lambda: ())
    assert f"shim {shim.pid} of {pod.id}" in told
    assert not is_alive(shim)
    assert not os.path.exists(socket)
    await again.close()


async def test_a_handler_that_could_not_be_opened_removes_what_it_made(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod(pid=NamespaceMode.POD)
    record = await lab.running(pod)
    await lab.close()
    await real.handler.close()
    closed = ShimHandler.closed(real.opening, "its program is gone")
    try:
        async with bounded():
            assert not (await closed.readiness()).ready
            await closed.containers.delete(record)
            await closed.pods.remove(pod)
        assert not is_alive(record.process)
        assert not is_alive(pod.infra)
    finally:
        await closed.close()
        real.handler = await ShimHandler.open(real.opening)


async def test_the_end_of_a_container_that_a_wipe_kills_without_a_look_at_it_is_told(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    container = await lab.running(pod)
    anew = await real.again()
    async with bounded(), contextlib.aclosing(cast(Any, anew.containers.exits())) as exits:
        listening = asyncio.ensure_future(anext(exits))
        await anew.containers.signal(container, signal.SIGKILL, everyone=True)
        told = await listening
    assert (told.id, told.code) == (container.id, 128 + signal.SIGKILL)
    await anew.containers.delete(container)
    await anew.pods.remove(pod)


async def test_what_ends_while_nobody_listens_is_kept_once_and_told_once(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    first = await lab.running(pod)
    await lab.handler.containers.signal(first, signal.SIGKILL)
    await comes_true(lambda: not real.handler._exits._followers)
    second = await lab.running(pod)
    told = [first.id]
    async with bounded(), contextlib.aclosing(cast(Any, real.handler.containers.exits())) as exits:
        assert (await anext(exits)).id == first.id
        await lab.handler.containers.signal(second, signal.SIGKILL)
        while told[-1] != second.id:
            told.append((await anext(exits)).id)
    assert told == [first.id, second.id]
    for record in (first, second):
        await lab.handler.containers.delete(record)
    await lab.handler.pods.remove(pod)
