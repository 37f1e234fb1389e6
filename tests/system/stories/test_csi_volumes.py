"""Volumes of a storage driver, by a real cribd: given to pods, kept or taken back when cribd is killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import volumes
from crib.client.errors import ClientError, NotFound, Unavailable
from crib.host.mount_table import mounts_below
from crib.stubs.node.v1.node_pb2 import PublishVolumesRequest, VolumeSpec, WantedVolume
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tasks.groups import Beside
from tests.csi_driver import NAME, Fault, Options, TestDriver, serving
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

SECRET = "s3cret of the driver"
STEPS = (
    "CreateVolume",
    "ControllerPublishVolume",
    "NodeStageVolume",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeUnstageVolume",
    "ControllerUnpublishVolume",
    "DeleteVolume",
)
TRIES = [
    step if step == "NodeStageVolume" else pytest.param(step, marks=pytest.mark.nightly) for step in STEPS
]
"""One for the ordinary suite."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short path, for a socket."""
    path = tmp_path_factory.mktemp("csi")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def settings(place: Path) -> str:
    (place / "password").write_text(SECRET)
    driver = f'[volumes.drivers."{NAME}"]\nsocket = "{place}/csi.sock"\ntimeout = 60\npod_info = true\n'
    kind = f'[volumes.classes.fast]\nkind = "csi"\ndriver = "{NAME}"\n'
    return f'{driver}{kind}secrets = {{ password = "{place}/password" }}\n'


@pytest.fixture(scope="module")
def cribd(settings: str) -> Iterator[Cribd]:
    with running_cribd(extra=settings) as daemon:
        yield daemon


@pytest.fixture
def mortal(settings: str) -> Iterator[Cribd]:
    """One that may be killed; it runs no pods."""
    with running_cribd(extra=settings, built=()) as daemon:
        yield daemon


@pytest.fixture
async def driver(place: Path, tmp_path: Path) -> AsyncIterator[TestDriver]:
    driver = TestDriver(tmp_path / "driver", Options(secrets={"password": SECRET}))
    async with serving(driver, str(place / "csi.sock")):
        yield driver
    assert driver.books.breaches() == []
    assert driver.books.data == {"volumes": {}, "snapshots": {}}


@pytest.fixture
async def cri(cribd: Cribd, driver: TestDriver) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection
        for sandbox in await connection.sandboxes():
            await connection.remove_pod(sandbox)
        for uid in ("uid-one", "uid-two"):
            await volumes.unpublish(connection.connection, uid)
        async for volume in volumes.list_volumes(connection.connection):
            await volumes.remove(connection.connection, f"{volume.namespace}/{volume.name}")


def asked(pod: str, **spec: object) -> PublishVolumesRequest:
    wanted = VolumeSpec(storage_class="fast", **spec)  # type: ignore[arg-type]  # fields of the message
    return PublishVolumesRequest(
        pod_uid=f"uid-{pod}",
        pod_namespace="default",
        pod_name=pod,
        volumes=[WantedVolume(volume="data", name="db", spec=wanted)],
    )


async def test_what_one_pod_writes_the_next_one_reads(cri: Cri, cribd: Cribd, driver: TestDriver) -> None:
    for pod, script, said in (("one", "echo kept > /data/row", ""), ("two", "cat /data/row", "kept")):
        (published,) = await volumes.publish(cri.connection, asked(pod))
        mount = pb.Mount(container_path="/data", host_path=published.path)
        sandbox = await cri.run_pod(pod)
        box = await cri.run_container(sandbox, "sleep", "600", mounts=[mount])
        assert await cri.sh(box, script) == said
        await cri.remove_pod(sandbox)
        await volumes.unpublish(cri.connection, f"uid-{pod}")
    (status,) = await volumes.drivers(cri.connection)
    assert (status.name, status.version, status.ready, status.node_id) == (NAME, "1.2.3", True, "node-1")
    assert status.calls > len(driver.books.calls()) / 2
    told = [one for name, one in driver.requests if name == "NodePublishVolume"]
    assert [one.volume_context["csi.storage.k8s.io/pod.name"] for one in told] == ["one", "two"]
    await volumes.remove(cri.connection, "db")
    for kept in (cribd.log(), cribd.database.read_bytes().decode(errors="replace")):
        assert SECRET not in kept


@pytest.mark.parametrize("call", TRIES)
async def test_a_daemon_that_is_killed_while_the_driver_works_finds_and_undoes_it(
    mortal: Cribd, driver: TestDriver, call: str
) -> None:
    """The driver goes on; the next daemon asks again for what was begun, or for what undoes it."""
    driver.options.faults.append(Fault(call, "slow"))

    async def live() -> None:
        async with mortal.connect() as cri:
            await volumes.publish(cri.connection, asked("one"))
            await volumes.unpublish(cri.connection, "uid-one")
            await volumes.remove(cri.connection, "db")

    async with Beside() as beside:
        living = beside.start("a volume's life", live())
        await driver.reached.wait()
        await asyncio.to_thread(mortal.kill)
        with pytest.raises(ClientError):
            await living
        starting = beside.start("the next daemon", asyncio.to_thread(mortal.start))
        driver.release.set()
        await starting
    async with mortal.connect() as cri:
        await volumes.unpublish(cri.connection, "uid-one")
        with contextlib.suppress(NotFound):
            await volumes.remove(cri.connection, "db")
        await until(lambda: not driver.books.volumes)

        async def none_is_left() -> bool:
            return not [row async for row in volumes.list_volumes(cri.connection)]

        await until(none_is_left)
    assert mounts_below(str(mortal.state / "volumes")) == []


@pytest.mark.nightly
async def test_a_driver_that_is_away_is_named_and_hurts_no_other_volume(
    cribd: Cribd, place: Path, tmp_path: Path
) -> None:
    (place / "csi.sock").unlink(missing_ok=True)
    async with cribd.story() as cri:
        with pytest.raises(Unavailable, match=rf"driver {NAME}: GetPluginInfo: .*csi\.sock"):
            await volumes.publish(cri.connection, asked("one"))
        (status,) = await volumes.drivers(cri.connection)
        assert (status.ready, status.problem.startswith(f"driver {NAME}: GetPluginInfo")) == (False, True)
        await volumes.create(cri.connection, "other", VolumeSpec(kind="local"))
        await volumes.remove(cri.connection, "other")
