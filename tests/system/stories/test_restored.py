"""Containers and pods that go on from a checkpoint: on another node, from an image, by the command line."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import pytest

from crib.client.errors import ClientError, InvalidRequest, NotFound, WrongState
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.criu import (
    BOUND,
    COUNTER,
    SETTINGS,
    checkpoint,
    count,
    counter,
    counts_on,
    with_criu,
)
from tests.system.labs.daemon import Cri, Cribd, crib, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system, with_criu]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra=SETTINGS) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as story:
        yield story


@pytest.fixture(scope="module")
def other() -> Iterator[Cribd]:
    """Another node."""
    with running_cribd(extra=SETTINGS) as daemon:
        yield daemon


async def saved(cri: Cri, directory: Path, **fields: object) -> tuple[Path, int]:
    """The archive of a counter, and a count that it had not reached then."""
    pod = await cri.run_pod("saved")
    container = await counter(cri, pod, **fields)
    location = directory / "counter.tar"
    await checkpoint(cri, container, location)
    at = await count(cri, container)
    await cri.remove_pod(pod)
    return location, at


async def first_count(log: Path) -> int:
    """The first that the restored container has logged."""
    await until(lambda: "\n" in log.read_text())
    return int(log.read_text().split()[3])


async def test_a_counter_goes_on_counting_on_another_node(cri: Cri, other: Cribd, tmp_path: Path) -> None:
    location, at = await saved(cri, tmp_path)
    async with other.story() as there:
        pod = await there.run_pod("arrived")
        container = await there.create(pod, image=str(location))
        status = await there.status(container)
        assert (status.state, status.image.image) == (pb.CONTAINER_CREATED, str(location))
        log = other.logs / "arrived" / "box.log"
        assert not log.exists(), "nothing runs before the start"
        await there.start(container)
        await counts_on(there, container, at)
        assert 1 < await first_count(log) <= at + 1, "it went on where it was"
        assert await there.sh(container, "cat /note; ls /etc/group 2>&1; hostname") == (
            "kept\nls: /etc/group: No such file or directory\narrived"
        )
        assert not (other.data / "containers" / container / "restore").exists()
        await there.stop_container(container)
        assert (await there.exited(container)).exit_code == 137


async def test_mounts_come_from_the_request(cri: Cri, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "whose").write_text(name)

    def mount(name: str) -> list[pb.Mount]:
        return [pb.Mount(container_path="/data", host_path=str(tmp_path / name))]

    location, at = await saved(cri, tmp_path, mounts=mount("old"))
    pod = await cri.run_pod("mounted")
    container = await cri.run_container(pod, image=str(location), mounts=mount("new"))
    await counts_on(cri, container, at)
    assert await cri.sh(container, "cat /data/whose") == "new"
    bare = await cri.create(pod, name="bare", image=str(location))
    with pytest.raises(ClientError, match="cannot be restored"):
        await cri.start(bare)
    assert (await cri.status(bare)).state == pb.CONTAINER_EXITED


async def test_a_container_with_a_terminal_gets_another_one(cri: Cri, tmp_path: Path) -> None:
    location, at = await saved(cri, tmp_path, tty=True)
    pod = await cri.run_pod("terminal")
    container = await cri.run_container(pod, image=str(location), tty=True)
    await counts_on(cri, container, at)
    assert await cri.sh(container, "[ -t 0 ] </proc/1/fd/0 && echo yes") == "yes"


async def test_one_that_waits_for_its_start_is_listed_measured_and_removed(cri: Cri, tmp_path: Path) -> None:
    location, _ = await saved(cri, tmp_path)
    pod = await cri.run_pod("waiting")
    container = await cri.create(pod, image=str(location))
    request = pb.ContainerStatsRequest(container_id=container)
    reply = await cri.call(cri.runtime.ContainerStats, request)
    assert reply.stats.attributes.id == container
    with pytest.raises(WrongState):
        await cri.execute(container, "true")
    limits = pb.LinuxContainerResources(cpu_shares=100)
    change = pb.UpdateContainerResourcesRequest(container_id=container, linux=limits)
    with pytest.raises(WrongState, match="restored first"):
        await cri.call(cri.runtime.UpdateContainerResources, change)
    await cri.stop_container(container, 30)
    assert (await cri.status(container)).exit_code == 137
    await cri.remove_container(container)
    assert not (cri.cribd.data / "containers" / container).exists()


async def test_a_checkpoint_image_is_restored_as_its_archive_is(cri: Cri, tmp_path: Path) -> None:
    location, at = await saved(cri, tmp_path)
    image = write_checkpoint_image(tmp_path / "image", location)
    (name,) = await cri.import_archive(image)
    pod = await cri.run_pod("from-image")
    container = await cri.run_container(pod, image=name)
    await counts_on(cri, container, at)
    await cri.remove_pod(pod)
    await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))


async def test_a_hostile_archive_makes_no_container_and_changes_nothing(cri: Cri, tmp_path: Path) -> None:
    location, _ = await saved(cri, tmp_path)
    pod = await cri.run_pod("refused")
    for name, link in (("rootfs-diff.tar", "/etc/passwd"), ("checkpoint/extra.img", "/etc/shadow")):
        changed = tmp_path / "hostile.tar"
        with tarfile.open(location) as source, tarfile.open(changed, "w") as target:
            for member in source:
                if member.name != name:
                    target.addfile(member, source.extractfile(member) if member.isfile() else None)
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, link
            target.addfile(info)
        with pytest.raises(InvalidRequest, match=r"image\.image"):
            await cri.create(pod, image=str(changed))
    with pytest.raises(InvalidRequest):
        await cri.create(pod, image="/etc/passwd")
    with pytest.raises(InvalidRequest):
        await cri.create(pod, image=str(tmp_path / "missing.tar"))
    assert await cri.containers() == {}


async def test_an_archive_whose_image_is_not_here_is_refused(cri: Cri, tmp_path: Path) -> None:
    location, _ = await saved(cri, tmp_path)
    changed = tmp_path / "other.tar"
    with tarfile.open(location) as source, tarfile.open(changed, "w") as target:
        for member in source:
            data: IO[bytes] | None = source.extractfile(member) if member.isfile() else None
            if member.name == "config.dump":
                assert data is not None
                content = json.dumps(
                    json.loads(data.read())
                    | {
                        "rootfsImage": "",
                        "rootfsImageRef": "",
                        "rootfsImageName": "docker.io/other/image:1",
                    }
                ).encode()
                member.size = len(content)
                data = io.BytesIO(content)
            target.addfile(member, data)
    pod = await cri.run_pod("unknown")
    with pytest.raises(NotFound, match="other/image:1"):
        await cri.create(pod, image=str(changed))


async def test_a_person_moves_a_counter_by_two_commands(cri: Cri, other: Cribd, tmp_path: Path) -> None:
    container = await counter(cri, await cri.run_pod("web"))
    archive = tmp_path / "web.tar"
    done = crib(cri.cribd, tmp_path, "checkpoint", "web", "-o", str(archive))
    assert (done.returncode, done.stdout) == (0, f"{archive}\n"), done.stderr
    at = await count(cri, container)
    async with other.story() as there:
        done = crib(other, tmp_path / "pods", "restore", str(archive), "--name", "moved")
        assert done.returncode == 0, done.stderr
        restored = done.stdout.strip()
        await counts_on(there, restored, at)
        assert [pod.metadata.name for pod in (await there.sandboxes()).values()] == ["moved"]
    done = crib(other, tmp_path / "pods", "restore", str(tmp_path / "missing.tar"))
    assert done.returncode != 0
    assert "is no checkpoint" in done.stderr


async def test_a_pod_is_saved_at_one_moment_and_restored_as_a_whole(
    cri: Cri, other: Cribd, tmp_path: Path
) -> None:
    pod = await cri.run_pod("pair")
    containers = [await counter(cri, pod, name=name) for name in ("one", "two")]
    directory = tmp_path / "pair"
    directory.mkdir()
    request = pb.CheckpointPodRequest(
        pod_sandbox_id=pod.id, output_path=str(directory), container_ids=containers
    )
    await cri.call(cri.runtime.CheckpointPod, request, timeout=BOUND)
    assert sorted(path.name for path in directory.iterdir()) == ["one.tar", "two.tar"]
    at = [await count(cri, container) for container in containers]
    with pytest.raises(InvalidRequest, match="not empty"):
        await cri.call(cri.runtime.CheckpointPod, request, timeout=BOUND)
    await cri.remove_pod(pod)
    async with other.story() as there:
        wanted = pb.RestorePodRequest(
            checkpoint_path=str(directory),
            config=there.pod_config("pair"),
            container_configs=[there.container_config(*COUNTER, name=name) for name in ("two", "one")],
        )
        reply = await there.call(there.runtime.RestorePod, wanted, timeout=BOUND)
        restored = {one.name: one.container_id for one in reply.restored_containers}
        assert list(restored) == ["two", "one"]
        for name, before in zip(("one", "two"), at, strict=True):
            assert (await there.status(restored[name])).state == pb.CONTAINER_CREATED
            await there.start(restored[name])
            await counts_on(there, restored[name], before)
        await there.remove_pod(Pod(reply.pod_sandbox_id, wanted.config))
        wanted.container_configs[0].command[:] = ["sh", "-c", "another"]
        with pytest.raises(InvalidRequest, match="args"):
            await there.call(there.runtime.RestorePod, wanted, timeout=BOUND)
        assert await there.sandboxes() == {}


async def test_calls_about_pods_must_have_a_deadline_and_no_options(cri: Cri, tmp_path: Path) -> None:
    pod = await cri.run_pod("bounded")
    request = pb.CheckpointPodRequest(pod_sandbox_id=pod.id, output_path=str(tmp_path), container_ids=["a"])
    with pytest.raises(InvalidRequest, match="deadline"):
        await cri.call(cri.runtime.CheckpointPod, request, timeout=0)
    request.options["compress"] = "yes"
    with pytest.raises(InvalidRequest, match="compress"):
        await cri.call(cri.runtime.CheckpointPod, request, timeout=BOUND)


async def test_a_node_that_does_not_restore_says_which_setting_it_takes(cri: Cri, tmp_path: Path) -> None:
    location, _ = await saved(cri, tmp_path)
    cribd = cri.cribd
    on = cribd.config.read_text()
    try:
        cribd.config.write_text(on.replace("restore = true", "restore = false"))
        assert crib(cribd, tmp_path, "reload").returncode == 0
        with pytest.raises(WrongState, match=r"checkpoints\.restore"):
            await cri.create(await cri.run_pod("off"), image=str(location))
    finally:
        cribd.config.write_text(on)
        assert crib(cribd, tmp_path, "reload").returncode == 0


def write_checkpoint_image(directory: Path, archive: Path) -> Path:
    """An OCI layout as CRI-O's and Podman's tools make them of an archive: one layer, and an annotation."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    layer = blob(archive.read_bytes())
    config = blob(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            }
        ).encode()
    )
    manifest = blob(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **layer}],
                "annotations": {"io.kubernetes.cri-o.annotations.checkpoint.name": "box"},
            }
        ).encode()
    )
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "annotations": {"org.opencontainers.image.ref.name": "docker.io/library/checkpoint:1"},
        **manifest,
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return directory
