"""Checkpoints of running containers with the real cribd, runc and CRIU."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError, InvalidRequest, TimedOut, WrongState
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.criu import COUNTER, Gate, checkpoint, count, counter, counts_on, with_criu
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system, with_criu]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("criu"))


@pytest.fixture(scope="module")
def cribd(gate: Gate) -> Iterator[Cribd]:
    with running_cribd(extra=gate.settings()) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as story:
        yield story


async def test_a_checkpoint_is_an_archive_as_others_read_it_and_the_container_goes_on(
    cri: Cri, tmp_path: Path
) -> None:
    pod = await cri.run_pod("saved")
    container = await counter(cri, pod)
    location = tmp_path / "checkpoint.tar"
    before = await count(cri, container)
    await checkpoint(cri, container, location)
    assert os.listdir(tmp_path) == ["checkpoint.tar"]
    assert location.stat().st_mode & 0o777 == 0o600
    with tarfile.open(location) as archive:
        names = archive.getnames()
        config, status, deleted, spec = (
            json.loads(archive.extractfile(name).read())  # type: ignore[union-attr]
            for name in ("config.dump", "status.dump", "deleted.files", "spec.dump")
        )
        with tarfile.open(fileobj=archive.extractfile("rootfs-diff.tar")) as diff:
            changed = diff.getnames()
            at = int(diff.extractfile("count").read())  # type: ignore[union-attr]
        log = archive.extractfile("container.log").read().decode()  # type: ignore[union-attr]
    assert {"checkpoint/inventory.img", "checkpoint/descriptors.json", "stats-dump", "dump.log"} <= set(names)
    assert config["id"] == container
    assert (config["name"], config["runtime"]) == ("box", "runc")
    assert config["rootfsImageName"] == "docker.io/library/busybox:test"
    assert status["Pid"] > 0
    assert spec["annotations"]["io.kubernetes.cri.container-name"] == "box"
    assert {"count", "note"} <= set(changed)
    assert not [name for name in changed if ".wh." in name]
    assert deleted == ["/etc/group"]
    assert at >= before
    assert " 1\n" in log
    await counts_on(cri, container, at + 3)
    upper = cri.cribd.data / "containers" / container
    assert sorted(os.listdir(upper)) == ["upper", "work"], "what was captured is gone"


async def test_a_checkpoint_that_cannot_be_written_leaves_the_container_running_and_no_file(
    cri: Cri, tmp_path: Path
) -> None:
    pod = await cri.run_pod("unsaved")
    container = await counter(cri, pod)
    with pytest.raises(InvalidRequest, match="location"):
        await checkpoint(cri, container, tmp_path / "missing" / "checkpoint.tar")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ClientError, match="directory"):
        await checkpoint(cri, container, tmp_path / "directory")
    assert os.listdir(tmp_path) == ["directory"]
    await counts_on(cri, container, await count(cri, container))


async def test_a_checkpoint_that_takes_too_long_is_none_and_the_container_goes_on(
    cri: Cri, gate: Gate, tmp_path: Path
) -> None:
    pod = await cri.run_pod("slow")
    container = await counter(cri, pod)
    with gate.shut():
        asked = asyncio.ensure_future(checkpoint(cri, container, tmp_path / "late.tar", timeout=1))
        await gate.reached()
        await asyncio.sleep(1)  # the time that it has; more makes no difference
    with pytest.raises(TimedOut):
        await asked
    assert os.listdir(tmp_path) == []
    await counts_on(cri, container, await count(cri, container))


async def test_a_stop_comes_after_a_checkpoint_that_is_under_way(
    cri: Cri, gate: Gate, tmp_path: Path
) -> None:
    pod = await cri.run_pod("stopped")
    container = await counter(cri, pod)
    with gate.shut():
        asked = asyncio.ensure_future(checkpoint(cri, container, tmp_path / "whole.tar"))
        await gate.reached()
        stop = asyncio.ensure_future(cri.stop_container(container))
        removal = asyncio.ensure_future(cri.remove_container(container))
    await asked
    await asyncio.gather(stop, removal)
    assert os.listdir(tmp_path) == ["whole.tar"]


async def test_a_command_that_runs_in_the_container_is_left_out_and_goes_on(cri: Cri, tmp_path: Path) -> None:
    pod = await cri.run_pod("busy")
    container = await counter(cri, pod)
    await cri.sh(container, "mkfifo /gate")
    command = asyncio.ensure_future(cri.execute(container, "sh", "-c", "touch /began; cat /gate"))
    await cri.sh(container, "while [ ! -e /began ]; do sleep 0.05; done")
    await checkpoint(cri, container, tmp_path / "busy.tar")
    await cri.sh(container, "echo done >/gate")
    assert (await command).out == "done\n"


async def test_what_is_not_running_is_not_checkpointed(cri: Cri, tmp_path: Path) -> None:
    pod = await cri.run_pod("created")
    container = await cri.create(pod, *COUNTER)
    with pytest.raises(WrongState, match="created"):
        await checkpoint(cri, container, tmp_path / "created.tar")


async def test_what_shares_its_process_ids_is_refused(cri: Cri, tmp_path: Path) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    pod = await cri.run_pod("shared", namespaces=shared)
    container = await cri.run_container(pod, "sleep", "1000", namespaces=shared)
    with pytest.raises(WrongState, match="shares its process ids"):
        await checkpoint(cri, container, tmp_path / "shared.tar")
