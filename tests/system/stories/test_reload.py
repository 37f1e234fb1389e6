"""The configuration changes under running pods: as a whole or not at all, and no call is lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import config, images, pods
from crib.client.errors import InvalidRequest, NotFound, RuntimeFailure
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.fault_proxy import running_proxy
from tests.registry import free_port
from tests.system.labs.daemon import START_SECONDS, Cri, Cribd, crib, running_cribd, until
from tests.system.labs.registry_lab import noise_image
from tests.upstreams import Shelf

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    """A story that leaves the configuration as it found it."""
    before = cribd.config.read_text()
    async with cribd.story() as connection:
        try:
            yield connection
        finally:
            cribd.config.write_text(before)
            assert not (await config.reload(connection.connection)).faults


async def settings(cri: Cri) -> dict[str, object]:
    return {one.key: json.loads(one.value) for one in (await config.show(cri.connection)).keys}


async def runtime_message(cri: Cri) -> str:
    status = (await cri.call(cri.runtime.Status, pb.StatusRequest())).status
    (ready,) = (one for one in status.conditions if one.type == "RuntimeReady")
    assert ready.status
    return ready.message


async def test_a_changed_mirror_is_asked_while_pods_run_on(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("web")
    container = await cri.run_container(pod, "sleep", "600")
    shelf = Shelf()
    name = "registry.example/team/thing:1"
    built = noise_image(1000)
    with running_proxy(shelf) as proxy:
        shelf.add("team/thing", built)
        text = cribd.config.read_text()
        cribd.config.write_text(f'{text}\n[images.mirrors]\n"registry.example" = ["{proxy.url}"]\n')
        done = await config.reload(cri.connection)
        assert [one.key for one in done.changed] == ['images.mirrors."registry.example"']
        assert not done.waiting
        pulled = await images.pull(cri.connection, name)
    assert (await cri.status(container)).state == pb.CONTAINER_RUNNING
    await images.remove(cri.connection, pulled)


async def test_what_is_wrong_changes_nothing_and_is_told_until_it_is_mended(cri: Cri, cribd: Cribd) -> None:
    before, text = await settings(cri), cribd.config.read_text()
    cribd.config.write_text(f"verb_timeout = 5\npids_limit = -1\nlog_fils = 3\n{text}")
    done = await config.reload(cri.connection)
    assert list(done.faults) == [
        f"{cribd.config}:2:1: pids_limit is -1, and must be at least 0",
        f"{cribd.config}:3:1: unknown key log_fils, did you mean log_files?",
    ]
    assert (list(done.changed), list(done.waiting)) == ([], [])
    assert await settings(cri) == before
    assert (await config.show(cri.connection)).faults == done.faults
    assert (
        f"the last reload was refused, and the old settings hold: {done.faults[0]}"
        in await runtime_message(cri)
    )
    assert done.faults[1] in cribd.log()
    pod = await cri.run_pod("made-all-the-same")
    await cri.remove_pod(pod)
    cribd.config.write_text(f"verb_timeout = 5\n{text}")
    done = await config.reload(cri.connection)
    assert [(one.key, one.before, one.after) for one in done.changed] == [("verb_timeout", "240.0", "5.0")]
    assert "refused" not in await runtime_message(cri)


async def test_what_takes_a_restart_keeps_its_value_and_is_told(cri: Cri, cribd: Cribd) -> None:
    text = cribd.config.read_text()
    cribd.config.write_text(f'conmon = "/elsewhere/conmon"\npids_limit = 99\n{text}')
    done = await config.reload(cri.connection)
    assert [one.key for one in done.changed] == ["pids_limit"]
    assert [(one.key, one.before, one.after) for one in done.waiting] == [
        ("conmon", '"conmon"', '"/elsewhere/conmon"')
    ]
    shown = {one.key: one for one in (await config.show(cri.connection)).keys}
    assert (shown["conmon"].value, shown["conmon"].origin) == ('"conmon"', "")
    assert shown["pids_limit"].origin == f"{cribd.config}:2:1"
    assert "a restart is needed for conmon" in await runtime_message(cri)
    pod = await cri.run_pod("limited")
    container = await cri.run_container(pod, "sleep", "600")
    reply = await cri.call(
        cri.runtime.ContainerStatus, pb.ContainerStatusRequest(container_id=container, verbose=True)
    )
    assert json.loads(reply.info["info"])["runtimeSpec"]["linux"]["resources"]["pids"]["limit"] == 99


async def test_a_metrics_endpoint_moves_and_one_that_cannot_be_had_refuses_all(
    cri: Cri, cribd: Cribd
) -> None:
    text, port = cribd.config.read_text(), free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        cribd.config.write_text(f'pids_limit = 7\n{text}\n[metrics]\nlisten = "127.0.0.1:{port}"\n')
        done = await config.reload(cri.connection)
        assert len(done.faults) == 1
        assert done.faults[0].startswith(f"metrics: cannot listen on 127.0.0.1:{port}: ")
        assert (await settings(cri))["pids_limit"] == 0
        assert (cribd.state / "metrics.sock").exists()
    done = await config.reload(cri.connection)
    assert {one.key for one in done.changed} == {"pids_limit", "metrics.listen"}

    def fetched() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics")
        return connection.getresponse().read()

    assert b"crib_build_info" in await asyncio.to_thread(fetched)
    assert not (cribd.state / "metrics.sock").exists()


async def test_an_audit_begins_and_ends_with_a_reload(cri: Cri, cribd: Cribd, tmp_path: Path) -> None:
    text, path = cribd.config.read_text(), tmp_path / "audit.jsonl"
    cribd.config.write_text(f'{text}\n[audit]\nenabled = true\nfile = "{path}"\n')
    assert not (await config.reload(cri.connection)).faults
    pod = await cri.run_pod("seen")
    cribd.config.write_text(text)
    assert not (await config.reload(cri.connection)).faults
    await cri.remove_pod(pod)
    calls = [json.loads(line)["call"] for line in path.read_text().splitlines()]
    assert "RunPodSandbox" in calls
    assert "RemovePodSandbox" not in calls


async def test_a_hangup_under_load_loses_no_call(cri: Cri, cribd: Cribd) -> None:
    """Each SIGHUP changes something; verbs, reads and commands go on through all of them."""
    text, rounds = cribd.config.read_text(), 6
    pod = await cri.run_pod("base")
    container = await cri.run_container(pod, "sleep", "600")
    ended = asyncio.Event()

    async def commands() -> int:
        count = 0
        while not ended.is_set():
            assert (await cri.execute(container, "echo", "still here")).out == "still here\n"
            count += 1
        return count

    async def lives() -> int:
        count = 0
        while not ended.is_set():
            one = await cri.run_pod(f"life-{count}")
            await cri.run_container(one, "sleep", "600")
            await cri.remove_pod(one)
            count += 1
        return count

    async def reads() -> int:
        count = 0
        while not ended.is_set():
            assert container in await cri.containers()
            count += 1
        return count

    async def hangups() -> None:
        try:
            for number in range(1, rounds + 1):
                level = "debug" if number % 2 else "info"
                cribd.config.write_text(f'pids_limit = {1000 + number}\n{text}\n[log]\nlevel = "{level}"\n')
                cribd.signal(signal.SIGHUP)
                await until(lambda number=number: held(1000 + number))
        finally:
            ended.set()

    async def held(limit: int) -> bool:
        return (await settings(cri))["pids_limit"] == limit

    async with asyncio.TaskGroup() as group:
        done = [group.create_task(work()) for work in (commands, lives, reads)]
        group.create_task(hangups())
    assert all(task.result() > 0 for task in done)
    assert cribd.log().count("configuration reloaded; changed: ") >= rounds


def catches_hangup(pid: int) -> bool:
    """Whether this process has a handler for SIGHUP (proc(5), SigCgt)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGHUP - 1))
    return False


async def test_a_hangup_in_the_middle_of_a_start_is_no_end_and_the_service_manager_is_told() -> None:
    with running_cribd(built=()) as cribd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        manager = cribd.root / "manager"
        cribd.stop()
        listener.bind(str(manager))
        listener.settimeout(START_SECONDS)
        began = time.monotonic_ns() // 1000
        cribd.begin(NOTIFY_SOCKET=str(manager))
        await until(lambda: catches_hangup(cribd.pid))
        cribd.signal(signal.SIGHUP)
        told = sorted([await asyncio.to_thread(listener.recv, 256) for _ in range(3)])
        manager.unlink()
        assert told[:2] == [b"READY=1", b"READY=1"]
        first, second = told[2].decode().split("\n")
        assert first == "RELOADING=1"
        assert began <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


async def test_crib_reload_tells_what_changed_and_ends_with_1_when_refused(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    text = cribd.config.read_text()
    cribd.config.write_text(f'pids_limit = 5\nconmon = "/x"\n{text}')
    done = await asyncio.to_thread(crib, cribd, tmp_path, "reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "changed        pids_limit: 0 → 5",
        'needs restart  conmon: "conmon" → "/x"',
    ]
    cribd.config.write_text(f"pids_limit = -5\n{text}")
    done = await asyncio.to_thread(crib, cribd, tmp_path, "reload")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{cribd.config}:1:1: pids_limit is -5, and must be at least 0",
        "crib: nothing was changed: the configuration has 1 fault",
    ]
    cribd.config.write_text(text)
    done = await asyncio.to_thread(crib, cribd, tmp_path, "reload")
    assert done.stdout.splitlines() == ["changed        pids_limit: 5 → 0"]
    done = await asyncio.to_thread(crib, cribd, tmp_path, "reload")
    assert done.stdout == "nothing has changed\n"


async def test_crib_config_shows_what_holds_and_what_a_reload_would_change(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    def run(*arguments: str) -> tuple[int, list[list[str]]]:
        done = crib(cribd, tmp_path, "config", *arguments)
        assert done.stderr == ""
        return done.returncode, [line.split() for line in done.stdout.splitlines()]

    assert await asyncio.to_thread(run, "diff") == (0, [["no", "difference"]])
    text = cribd.config.read_text()
    cribd.config.write_text(f"pids_limit = 5\nnice = -5\n{text}")
    code, rows = await asyncio.to_thread(run, "diff")
    assert code == 1
    assert rows[1:] == [["pids_limit", "0", "5", "reload"], ["nice", "-10", "-5", "restart"]]
    await config.reload(cri.connection)
    code, rows = await asyncio.to_thread(run, "show", "pids_limit", "network.mode", "log")
    assert rows == [
        ["KEY", "VALUE", "ORIGIN"],
        ["log.level", '"info"', "default"],
        ["log.format", '"text"', "default"],
        ["network.mode", '"bridge"', f"{cribd.config}:9:1"],
        ["pids_limit", "5", f"{cribd.config}:1:1"],
        ["needs", "restart:", "nice:", "-10", "→", "-5"],
    ]
    code, rows = await asyncio.to_thread(run, "show", "--file", str(cribd.config), "nice")
    assert rows[1:] == [["nice", "-5", f"{cribd.config}:2:1"]]
    code, rows = await asyncio.to_thread(run, "check", str(cribd.config))
    assert (code, rows) == (0, [[f"{cribd.config}:", "ok"]])


@pytest.fixture
async def runc_was_here(cribd: Cribd) -> None:
    """What is known of a handler's containers has a place below `state`, and stays when the handler goes."""
    text = cribd.config.read_text()
    async with cribd.connect() as cri:
        for more in ("[handlers.crun]\n[handlers.runc]\n", ""):
            cribd.config.write_text(f"{text}\n{more}")
            assert not (await config.reload(cri.connection)).faults


@pytest.mark.usefixtures("runc_was_here")
async def test_a_handler_comes_and_goes_and_comes_back_while_its_pods_run(cri: Cri, cribd: Cribd) -> None:
    text = cribd.config.read_text()
    with_runc = f"{text}\n[handlers.crun]\n[handlers.runc]\n[handlers.broken]\npath = '/nosuch'\n"
    old = await cri.run_container(await cri.run_pod("old"), "sleep", "600")
    with pytest.raises(InvalidRequest, match="no handler 'runc' is configured here"):
        await pods.run_sandbox(cri.connection, cri.pod_config("early"), "runc")
    cribd.config.write_text(with_runc)
    done = await config.reload(cri.connection)
    assert not done.faults
    assert not done.waiting
    assert await handlers(cri) == {"crun", "runc", "broken"}
    with pytest.raises(RuntimeFailure, match="handler broken cannot be used"):
        await pods.run_sandbox(cri.connection, cri.pod_config("broken"), "broken")
    pod = await pods.run_sandbox(cri.connection, cri.pod_config("new"), "runc")
    first, second = [await cri.run_container(pod, "sleep", "600", name=name) for name in ("a", "b")]

    cribd.config.write_text(f"{text}\n[handlers.crun]\n")
    assert not (await config.reload(cri.connection)).waiting
    assert await handlers(cri) == {"crun"}
    with pytest.raises(InvalidRequest, match="no handler 'runc' is configured here"):
        await pods.run_sandbox(cri.connection, cri.pod_config("late"), "runc")
    assert (await cri.execute(first, "true")).code == 0
    await cri.stop_container(first)
    assert (await cri.status(first)).state == pb.CONTAINER_EXITED
    assert (await cri.execute(second, "sh", "-c", "kill -9 1; exit 3")).code in (3, 137)

    cribd.config.write_text(with_runc)
    assert not (await config.reload(cri.connection)).waiting
    third = await cri.run_container(pod, "sleep", "600", name="c")
    await cri.remove_pod(pod)
    with pytest.raises(NotFound):
        await cri.status(third)
    cribd.config.write_text(with_runc.replace("[handlers.runc]", "[handlers.runc]\nargs = ['--debug']"))
    waiting = (await config.reload(cri.connection)).waiting
    assert [one.key for one in waiting] == ["handlers.runc.args"]
    assert (await cri.status(old)).state == pb.CONTAINER_RUNNING


async def test_the_default_handler_cannot_go_without_a_restart(cri: Cri, cribd: Cribd) -> None:
    text = cribd.config.read_text()
    cribd.config.write_text(f'default_handler = "runc"\n{text}\n[handlers.runc]\n')
    done = await config.reload(cri.connection)
    assert "default_handler is 'crun', which is not one of the handlers (runc)" in done.faults[0]
    assert await handlers(cri) == {"crun"}


async def handlers(cri: Cri) -> set[str]:
    reply = await cri.call(cri.runtime.Status, pb.StatusRequest())
    return {one.name for one in reply.runtime_handlers if one.name}
