"""SELinux: every kind of volume that a manifest can have is its pod's, and nobody else's.

Where SELinux enforces, started at level s0 as services are (`script/guest --suite "system volumes" selinux`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import Client, lookup, volumes
from crib.host import selinux
from crib.stubs.node.v1.node_pb2 import VolumeSpec
from tests.system.labs.daemon import IMAGE, Cribd, running_cribd

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(not selinux.is_enabled(), reason="the kernel has no SELinux, or no policy is loaded"),
]

LEVEL = "s0:c7,c8"
WRITE = "echo word > /data/file"
READ = "cat /data/file"


def pod(name: str, volume: str, mount: str = "mountPath: /data", level: str = "") -> str:
    options = f"securityContext: {{seLinuxOptions: {{level: '{level}'}}}}" if level else ""
    field = "volumeDevices" if "devicePath" in mount else "volumeMounts"
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  {options}
  containers:
  - name: app
    image: "{IMAGE}"
    command: [sleep, "1000"]
    {field}: [{{name: v, {mount}}}]
  volumes: [{{name: v, {volume}}}]
"""


def claimed(name: str) -> str:
    return f"persistentVolumeClaim: {{claimName: {name}}}"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def client(cribd: Cribd, tmp_path: Path) -> AsyncIterator[Client]:
    async with cribd.story(), Client(str(cribd.socket), pods_dir=f"{tmp_path}/pods") as client:
        try:
            yield client
        finally:
            for one in await lookup.pods(client.connection):
                await client.remove_pod(one.id)
            async for volume in volumes.list_volumes(client.connection):
                await volumes.remove(client.connection, volume.id)
            async for snapshot in volumes.list_snapshots(client.connection):
                await volumes.remove_snapshot(client.connection, snapshot.id)


async def made(client: Client, name: str, **spec: object) -> None:
    fields: dict[str, object] = {"access_modes": ["ReadWriteMany"], **spec}
    await volumes.create(client.connection, name, VolumeSpec(**fields))  # type: ignore[arg-type]


async def said(client: Client, pod: str, script: str) -> str:
    done = await client.exec(pod, ["sh", "-c", script])
    assert done.code == 0, done
    return done.out.decode().strip() if isinstance(done.out, bytes) else done.out.strip()


async def is_denied(client: Client, pod: str, script: str) -> None:
    done = await client.exec(pod, ["sh", "-c", script])
    assert done.code != 0
    said = done.err if isinstance(done.err, str) else done.err.decode()
    assert "Permission denied" in said, done


async def level_of(client: Client, pod: str) -> str:
    label = (await said(client, pod, "cat /proc/self/attr/current")).strip("\0")
    found = re.fullmatch(r"system_u:system_r:container_t:(s0:c\d+,c\d+)", label)
    assert found, label
    return found[1]


SOURCES = {
    "emptyDir": "emptyDir: {}",
    "emptyDir in memory": "emptyDir: {medium: Memory}",
    "emptyDir with a limit": "emptyDir: {sizeLimit: 10Mi}",
    "of the pod": "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}",
    "local": claimed("local"),
    "block": claimed("block"),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("mount", ["mountPath: /data", "mountPath: /data, subPath: part"])
async def test_a_pod_writes_into_each_kind_of_its_volumes(client: Client, kind: str, mount: str) -> None:
    if kind == "local":
        await made(client, "local")
    if kind == "block":
        await made(client, "block", kind="block", capacity=32 << 20)
    await client.run_manifest(pod("web", SOURCES[kind], mount))
    assert await level_of(client, "web")
    assert await said(client, "web", f"{WRITE}; mkdir /data/below; echo x > /data/below/x; {READ}") == "word"


async def test_what_the_client_makes_for_a_pod_is_readable_there(client: Client) -> None:
    config = "configMap: {name: settings}"
    settings = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {file: word}\n"
    await client.run_manifest(pod("web", config) + settings)
    assert await said(client, "web", READ) == "word"
    assert await said(client, "web", "cat /etc/hosts /etc/hostname /etc/resolv.conf")


@pytest.mark.parametrize("kind", ["local", "block"])
async def test_a_volume_is_the_pods_that_took_it_last_or_of_all_at_one_level(
    client: Client, kind: str
) -> None:
    await made(client, "data", kind=kind, capacity=32 << 20 if kind == "block" else 0)
    await client.run_manifest(pod("one", claimed("data")))
    await said(client, "one", WRITE)
    await client.run_manifest(pod("two", claimed("data")))
    assert await level_of(client, "one") != await level_of(client, "two")
    assert await said(client, "two", READ) == "word"
    await is_denied(client, "one", READ)
    for name in ("one", "two"):
        await client.remove_pod(name)
    for name in ("three", "four"):
        await client.run_manifest(pod(name, claimed("data"), level=LEVEL))
    for name in ("three", "four"):
        assert await said(client, name, f"echo {name} >> /data/file; {READ}")
    assert await said(client, "three", READ) == "word\nthree\nfour"


@pytest.mark.parametrize("kind", ["local", "block"])
async def test_a_copy_is_its_own_pods_and_its_origin_stays_with_the_other(client: Client, kind: str) -> None:
    await made(client, "data", kind=kind, capacity=32 << 20 if kind == "block" else 0)
    await client.run_manifest(pod("one", claimed("data")))
    await said(client, "one", WRITE)
    await volumes.snapshot(client.connection, "data", "monday")
    await made(client, "copy", kind=kind, snapshot="monday")
    await client.run_manifest(pod("two", claimed("copy")))
    assert await said(client, "two", f"{READ}; echo more >> /data/file") == "word"
    assert await said(client, "one", f"echo mine >> /data/file; {READ}") == "word\nmine"


async def test_a_raw_device_is_read_and_written(client: Client) -> None:
    await made(client, "disk", kind="block", block=True, capacity=1 << 20)
    await client.run_manifest(pod("raw", claimed("disk"), "devicePath: /dev/disk"))
    await said(client, "raw", "echo data | dd of=/dev/disk conv=notrunc 2>/dev/null")
    assert await said(client, "raw", "head -c 4 /dev/disk") == "data"


@pytest.mark.parametrize("volume", [f"image: {{reference: '{IMAGE}'}}", claimed("image")])
async def test_pods_of_several_levels_read_an_image_at_once(client: Client, volume: str) -> None:
    await made(client, "image", kind="image", source=IMAGE, access_modes=["ReadOnlyMany"])
    for name in ("one", "two"):
        await client.run_manifest(pod(name, volume))
    assert await level_of(client, "one") != await level_of(client, "two")
    for name in ("one", "two", "one"):
        assert "root" in await said(client, name, "cat /data/etc/passwd")
        assert await said(client, name, "/data/bin/busybox echo ran") == "ran"
        assert (await client.exec(name, ["touch", "/data/new"])).code != 0


async def test_a_path_of_the_host_keeps_its_label_and_is_denied(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret")
    await client.run_manifest(pod("web", f"hostPath: {{path: {tmp_path}}}"))
    await is_denied(client, "web", READ)
