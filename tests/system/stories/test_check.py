"""`crib check` and `crib wipe` over the real daemon, with it and without it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from crib.client import node
from crib.client.errors import WrongState
from crib.model.container import ContainerRecord, ContainerState
from crib.model.finding import WIPE_KINDS
from crib.stubs.node.v1.node_pb2 import Finding
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]
UNKNOWN = "e" * 64
"""An id that is nobody's."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


async def found(cri: Cri, *, repair: bool = False) -> list[Finding]:
    return [item async for item in node.check(cri.connection, repair=repair)]


def found_offline(cribd: Cribd, *arguments: str) -> tuple[int, list[dict[str, object]]]:
    done = cribd.run("--check", *arguments)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def litter(cribd: Cribd) -> list[str]:
    """One of each thing that can lie about; words by which each is told."""
    (cribd.state / "exits" / UNKNOWN).write_text("0")
    os.symlink("/nowhere", cribd.state / "s" / ("d" * 20))
    (cribd.state / "containers" / ("c" * 64) / "rootfs").mkdir(parents=True)
    (cribd.data / "containers" / ("b" * 64) / "upper").mkdir(parents=True)
    (cribd.state / "sandboxes" / ("a" * 64) / "ns").mkdir(parents=True)
    (cribd.data / "layers" / f"{'9' * 64}.erofs").write_bytes(b"no layer")
    return [UNKNOWN, "d" * 20, "c" * 64, "b" * 64, "a" * 64, "9" * 64]


async def test_a_node_at_work_has_nothing_to_find(shared: Cribd) -> None:
    async with shared.story() as cri:
        pod = await cri.run_pod("busy")
        await cri.run_container(pod, "sleep", "100")
        await cri.exited(await cri.run_container(pod, "true", name="done"))
        assert await found(cri) == []


async def test_what_lies_about_is_found_and_swept_and_what_runs_is_left_alone(shared: Cribd) -> None:
    async with shared.story() as cri:
        pod = await cri.run_pod("stays")
        box = await cri.run_container(pod, "sleep", "100")
        cgroup = next(_cgroups(shared, pod.id)) / ("f" * 64)
        cgroup.mkdir()
        wanted = [*litter(shared), "f" * 64]
        told = await found(cri)
        for word in wanted:
            assert any(word in item.subject and item.mend for item in told), f"{word} is not in {told}"
        assert all(item.mended for item in await found(cri, repair=True))
        assert await found(cri) == []
        assert not cgroup.exists()
        assert await cri.sh(box, "echo alive") == "alive"


async def test_a_monitor_without_a_record_is_found_and_ended(shared: Cribd) -> None:
    async with shared.story() as cri:
        with _monitor(f"{shared.state}/containers/{UNKNOWN}") as stray:
            told = [item.subject for item in await found(cri)]
            assert f"monitor {stray.pid}" in told
            await found(cri, repair=True)
            assert await asyncio.to_thread(stray.wait, 20) == -signal.SIGKILL


async def test_logs_that_are_nobodys_are_told_and_left(shared: Cribd) -> None:
    async with shared.story() as cri:
        pod = await cri.run_pod("logs")
        box = await cri.run_container(pod, "sleep", "100")
        directory = shared.logs / "logs"
        stray = directory / "stray"
        stray.write_text("whose?")
        (directory / "box.log").rename(directory / "box.log.20260101-000000")
        told = {item.subject: item for item in await found(cri, repair=True)}
        assert set(told) == {str(stray), str(directory / "box.log")}
        assert all(item.note for item in told.values())
        assert box in told[str(directory / "box.log")].problem
        assert stray.read_text() == "whose?"


async def test_the_command_line_tells_and_ends_with_what_is_left(shared: Cribd) -> None:
    command = ["-e", f"unix://{shared.socket}", "check"]
    (shared.state / "exits" / UNKNOWN).write_text("0")
    wrong = await asyncio.to_thread(_crib, *command)
    assert wrong.returncode == 1
    assert f"container {UNKNOWN}" in wrong.stdout
    assert wrong.stdout.splitlines()[-1] == "1 wrong"
    mended = await asyncio.to_thread(_crib, *command, "--repair", "-o", "json")
    assert (mended.returncode, [one["mended"] for one in json.loads(mended.stdout)]) == (0, [True])
    fine = await asyncio.to_thread(_crib, *command)
    assert (fine.returncode, fine.stdout) == (0, "nothing is wrong\n")
    refused = await asyncio.to_thread(_crib, *command, "--offline", "--config", str(shared.config))
    assert refused.returncode == 2
    assert "another cribd" in refused.stderr


async def test_without_a_daemon_all_is_found_and_a_repair_leaves_nothing(cribd: Cribd) -> None:
    before = cribd.leftovers()
    async with cribd.connect() as cri:
        pod = await cri.run_pod("torn")
        box = await cri.run_container(pod, "sleep", "100")
        other = await cri.run_container(pod, "sleep", "100", name="other")
    cribd.stop()
    half = _change_row(cribd, other, ContainerState.CREATING)
    wanted = {*litter(cribd), half}
    os.kill(_monitor_of(cribd, box), signal.SIGKILL)
    code, told = await asyncio.to_thread(found_offline, cribd)
    assert code == 1
    words = " ".join(str(one["subject"]) for one in told)
    assert [word for word in (*wanted, box) if word not in words] == []
    code, again = await asyncio.to_thread(found_offline, cribd)
    assert (code, again) == (1, told), "a look changes nothing"
    code, mended = await asyncio.to_thread(found_offline, cribd, "--repair")
    assert code == 0
    assert {one["subject"] for one in mended} >= {one["subject"] for one in told}
    code, after = await asyncio.to_thread(found_offline, cribd)
    assert (code, [one["area"] for one in after]) == (0, ["logs"]), "of the container that was half-made"
    cribd.start()
    async with cribd.connect() as cri:
        assert (await cri.containers()).keys() == {box}
        await cri.remove_pod(pod)
    cribd.settle(before)


async def test_without_the_runtime_all_else_is_looked_at_and_what_could_not_be_is_told(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        pod = await cri.run_pod("stays")
        box = await cri.run_container(pod, "sleep", "100")
    cribd.stop()
    wanted = litter(cribd)
    good = cribd.config.read_text()
    gone = 'conmon = "/no/such/conmon"\n[handlers.crun]\npath = "/no/such/crun"\n[network]'
    cribd.config.write_text(good.replace("[network]", gone))
    code, told = await asyncio.to_thread(found_offline, cribd)
    assert code == 1
    problems = {str(one["subject"]): str(one["problem"]) for one in told}
    assert "/no/such/crun" in problems.pop("handler crun")
    assert [word for word in wanted if word not in " ".join(problems)] == []
    assert box not in problems, "its process is there"
    refused = await asyncio.to_thread(cribd.run, "--check", "--repair")
    assert refused.returncode == 2
    assert "/no/such/crun" in refused.stderr
    cribd.config.write_text(good)
    code, mended = await asyncio.to_thread(found_offline, cribd, "--repair")
    assert code == 0, mended
    cribd.start()
    async with cribd.connect() as cri:
        assert await cri.sh(box, "echo alive") == "alive"
        await cri.remove_pod(pod)


async def test_a_look_without_a_daemon_leaves_the_host_as_it_was(cribd: Cribd) -> None:
    cribd.stop()
    offline = ("--offline", "--config", str(cribd.config))
    wiped = await asyncio.to_thread(_crib, "wipe", "all", "--yes", *offline)
    assert (wiped.returncode, f"images     {IMAGE}" in wiped.stdout) == (0, True), wiped
    before = cribd.leftovers()
    assert before.mounts == frozenset()
    checked = await asyncio.to_thread(_crib, "check", *offline)
    assert (checked.returncode, checked.stdout) == (0, "nothing is wrong\n"), checked
    cribd.settle(before)
    cribd.start()


async def test_a_running_daemon_wipes_by_kind_and_asks_for_force(shared: Cribd) -> None:
    async with shared.story() as cri:
        pod = await cri.run_pod("wiped")
        box = await cri.run_container(pod, "sleep", "100")
        with pytest.raises(WrongState, match="box"):
            _ = [one async for one in node.wipe(cri.connection, ["pods"])]
        dry = [one.name async for one in node.wipe(cri.connection, ["pods"], dry_run=True)]
        assert (await cri.status(box)).id == box
        done = [one.name async for one in node.wipe(cri.connection, ["pods"], force=True)]
        assert dry == done == [f"stories/wiped {pod.id}"]
        assert await cri.sandboxes() == {}
        assert IMAGE in await cri.image_names()
        command = ["-e", f"unix://{shared.socket}", "wipe", "network"]
        refused = await asyncio.to_thread(_crib, *command)
        assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
        done_too = await asyncio.to_thread(_crib, *command, "--yes")
        assert done_too.stdout == f"removed      network    bridge {shared.bridge} and its rules\n"
        pod = await cri.run_pod("after")  # the bridge is made anew


def _no_database(cribd: Cribd) -> None:
    for path in (cribd.database, cribd.state / "records.db"):
        path.write_bytes(b"no database" * 1000)


def _a_directory_for_the_records(cribd: Cribd) -> None:
    for path in (cribd.database, cribd.state / "records.db"):
        path.unlink()
        path.mkdir()


def _nothing_that_a_start_needs(cribd: Cribd) -> None:
    """As far as cribd can see: programs, the worker's user, directories of the state."""
    note = cribd.state / "runtime" / "crun.json"
    note.write_text(json.dumps({"program": "/no/such/crun", "args": [], "systemd": False}))
    text = cribd.config.read_text()
    cribd.config.with_suffix(".good").write_text(text)
    top = 'conmon = "/no/such/conmon"\n[handlers.crun]\npath = "/no/such/crun"\n'
    images = '[images]\nworker_user = "nobody-of-that-name"\n'
    cribd.config.write_text(text.replace("[network]", f"{top}{images}[network]"))
    for name in ("exits", "s"):
        for entry in (cribd.state / name).iterdir():
            entry.unlink()
        (cribd.state / name).rmdir()


DAMAGES = (_no_database, _a_directory_for_the_records, _nothing_that_a_start_needs)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
async def test_a_damaged_node_is_wiped_to_the_ground(cribd: Cribd, damage: Callable[[Cribd], None]) -> None:
    async with cribd.connect() as cri:
        await cri.run_container(await cri.run_pod("one"), "sleep", "100")
        await cri.run_container(await cri.run_pod("two"), "sleep", "100")
    cribd.stop()
    damage(cribd)
    done = await asyncio.to_thread(cribd.run, "--wipe", *WIPE_KINDS)
    assert done.returncode == 0, done.stderr
    _undo(cribd)
    cribd.settle_empty()
    assert os.listdir(cribd.data / "containers") == []


async def test_a_start_that_fails_half_way_leaves_no_mount(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        [_ async for _ in node.wipe(cri.connection, ["images", "layers"])]
    cribd.stop()
    cribd.wipe()
    bad = cribd.root / "bad.toml"
    bad.write_text(cribd.config.read_text().replace("[network]", 'conmon = "/no/such/conmon"\n[network]'))
    refused = cribd.run(config=bad)
    assert refused.returncode == 1
    assert "conmon" in refused.stderr
    assert cribd.leftovers().mounts == frozenset()
    cribd.start()


def _crib(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("crib")
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def _monitor(bundle: str) -> subprocess.Popen[bytes]:
    """A process that was started as conmon is."""
    words = ("sh", "-c", "sleep 100 # $@", "conmon", "--bundle", bundle, "--exit-dir")
    return subprocess.Popen(words)


def _cgroups(cribd: Cribd, pod: str) -> Iterator[Path]:
    for tree in Path("/sys/fs/cgroup").iterdir():
        if (path := Path(f"{tree}{cribd.cgroup}/{pod}")).is_dir():
            yield path


def _change_row(cribd: Cribd, container: str, state: ContainerState) -> str:
    with contextlib.closing(sqlite3.connect(cribd.state / "records.db", isolation_level=None)) as connection:
        (blob,) = connection.execute("SELECT record FROM containers WHERE id = ?", (container,)).fetchone()
        record = replace(msgspec.msgpack.decode(blob, type=ContainerRecord), state=state)
        row = (msgspec.msgpack.encode(record), container)
        connection.execute("UPDATE containers SET record = ? WHERE id = ?", row)
    return container


def _monitor_of(cribd: Cribd, container: str) -> int:
    note = json.loads((cribd.state / "containers" / container / "crib.json").read_text())
    return int(note["monitor"][0])


def _undo(cribd: Cribd) -> None:
    """So that the daemon's own end can wipe."""
    good = cribd.config.with_suffix(".good")
    if good.exists():
        good.rename(cribd.config)
    for path in (cribd.database, cribd.state / "records.db"):
        if path.is_dir():
            path.rmdir()
