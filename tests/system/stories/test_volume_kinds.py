"""Volumes of kinds `block`, as raw devices, and `image`, by a real cribd and its containers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import volumes
from crib.host.loop_devices import find_loops
from crib.stubs.node.v1.node_pb2 import PublishVolumesRequest, VolumeSpec, WantedVolume
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import BuiltImage, BuiltLayer, Entry, layer_tar, machine_architecture, write_saved_archive
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

SIZE = 8 << 20
RAW = VolumeSpec(kind="block", capacity=SIZE, block=True)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection
        for uid in ("uid-one", "uid-two"):
            await volumes.unpublish(connection.connection, uid)
        async for volume in volumes.list_volumes(connection.connection):
            await volumes.remove(connection.connection, f"{volume.namespace}/{volume.name}")


async def published(cri: Cri, pod: str, name: str, files: Path, spec: VolumeSpec) -> str:
    """The path of a volume that a pod gets."""
    wanted = WantedVolume(volume=name, name=name, spec=spec)
    request = PublishVolumesRequest(
        pod_uid=f"uid-{pod}", pod_namespace="default", pod_name=pod, pod_files=str(files), volumes=[wanted]
    )
    (one,) = await volumes.publish(cri.connection, request)
    return one.path


def given(path: str) -> list[pb.Device]:
    return [pb.Device(container_path="/dev/mine", host_path=path, permissions="rw")]


async def test_a_container_has_a_raw_device_and_what_it_writes_is_exported(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    path = await published(cri, "one", "raw", tmp_path, RAW)
    pod = await cri.run_pod("one")
    container = await cri.run_container(pod, "sleep", "60", devices=given(path))
    await cri.sh(container, "echo from the pod | dd of=/dev/mine bs=512 conv=sync,fsync")
    image = tmp_path / "image"
    assert await volumes.export(cri.connection, "raw", str(image)) == SIZE
    assert image.read_bytes().startswith(b"from the pod\n")
    await volumes.import_files(cri.connection, "again", RAW, str(image))
    other = await published(cri, "two", "again", tmp_path, RAW)
    assert other != path
    second = await cri.run_container(pod, "sleep", "60", name="second", devices=given(other))
    assert await cri.sh(second, "head -n 1 /dev/mine") == "from the pod"
    assert (await volumes.resize(cri.connection, "raw", 2 * SIZE)).capacity == 2 * SIZE
    assert await cri.sh(container, "wc -c < /dev/mine") == f"{2 * SIZE}"
    await cri.remove_pod(pod)
    for uid in ("uid-one", "uid-two"):
        await volumes.unpublish(cri.connection, uid)
    for file in Path(cribd.data, "volumes").glob("*/file"):
        assert find_loops(str(file)) == []


async def test_a_volume_of_an_image_outlives_the_images_name(cri: Cri, tmp_path: Path) -> None:
    name = "registry.test/tools:1"
    layer = BuiltLayer(layer_tar([Entry("file", b"still")]))
    built = BuiltImage((layer,), names=(name,), architecture=machine_architecture())
    archive = write_saved_archive(tmp_path / "image.tar", [built])
    await cri.import_archive(archive)
    path = await published(cri, "one", "tools", tmp_path, VolumeSpec(kind="image", source=name))
    removal = pb.RemoveImageRequest(image=pb.ImageSpec(image=name))
    await cri.call(cri.image.RemoveImage, removal)
    pod = await cri.run_pod("one")
    mounts = [pb.Mount(container_path="/tools", host_path=path)]
    container = await cri.run_container(pod, "sleep", "60", mounts=mounts)
    assert await cri.sh(container, "cat /tools/file") == "still"
    assert "Read-only" in await cri.sh(container, "touch /tools/a 2>&1 || true")
    await cri.remove_pod(pod)
    await volumes.unpublish(cri.connection, "uid-one")
    assert not os.path.lexists(path)
    await volumes.remove(cri.connection, "tools")
    await cri.import_archive(archive)
    await cri.call(cri.image.RemoveImage, removal)  # takes all layers that nobody needs
