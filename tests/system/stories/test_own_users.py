"""Manifests with `hostUsers: false`, on a real daemon: every kind of volume keeps the owners of its files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import Client, lookup, volumes
from crib.client.errors import InvalidRequest
from crib.manifest.late import FIRST_IDS, IDS, LAST_IDS
from crib.stubs.node.v1.node_pb2 import VolumeSpec
from tests.system.labs.daemon import IMAGE, Cribd, crib, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

WRITABLE = ("disk", "memory", "host", "claim", "part", "own", "limited", "block", "tmpfs")
SEALED = ("settings", "secret", "facts", "both")
IMAGES = ("image/bin", "files/bin", "bin-of-files")


def manifest(host: Path) -> str:
    names = [*WRITABLE, *SEALED, "image", "files"]
    mounts = "".join(f"    - {{name: {name}, mountPath: /{name}}}\n" for name in names if name != "part")
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: users, labels: {{a: b}}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  securityContext: {{fsGroup: 3000}}
  containers:
  - name: app
    image: "{IMAGE}"
    command: [sleep, "1000"]
    volumeMounts:
{mounts}    - {{name: claim, mountPath: /part, subPath: part}}
    - {{name: files, mountPath: /bin-of-files, subPath: bin}}
  volumes:
  - {{name: disk, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  - {{name: limited, emptyDir: {{sizeLimit: 8Mi}}}}
  - {{name: host, hostPath: {{path: "{host}"}}}}
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: secret, secret: {{secretName: secrets, defaultMode: 0600}}}}
  - {{name: facts, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
  - {{name: both, projected: {{sources: [{{configMap: {{name: settings}}}}, {{secret: {{name: secrets}}}}]}}}}
  - {{name: claim, persistentVolumeClaim: {{claimName: data}}}}
  - {{name: own, ephemeral: {{volumeClaimTemplate: {{spec: {{accessModes: [ReadWriteOnce]}}}}}}}}
  - {{name: block, persistentVolumeClaim: {{claimName: disk}}}}
  - {{name: tmpfs, persistentVolumeClaim: {{claimName: memory}}}}
  - {{name: files, persistentVolumeClaim: {{claimName: image}}}}
  - {{name: image, image: {{reference: "{IMAGE}", pullPolicy: Never}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{a: b}}
---
apiVersion: v1
kind: Secret
metadata: {{name: secrets}}
stringData: {{key: hidden}}
"""


def simple(name: str, volume: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: app, image: "{IMAGE}", command: [sleep, "1000"], volumeMounts: [{{name: v, mountPath: /data}}]}}
  volumes: [{{name: v, {volume}}}]
"""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def client(cribd: Cribd, tmp_path: Path) -> AsyncIterator[Client]:
    async with cribd.story(), Client(str(cribd.socket), pods_dir=str(tmp_path / "pods")) as client:
        try:
            yield client
        finally:
            for one in await lookup.pods(client.connection):
                await client.remove_pod(one.id)
            async for volume in volumes.list_volumes(client.connection):
                await volumes.remove(client.connection, volume.id)


async def said(client: Client, pod: str, *command: str) -> str:
    done = await client.exec(pod, command)
    assert done.code == 0, done.err
    return done.out.decode() if isinstance(done.out, bytes) else done.out


async def first_id(client: Client, pod: str) -> int:
    inside, outside, count = map(int, (await said(client, pod, "cat", "/proc/self/uid_map")).split())
    assert (inside, count) == (0, IDS)
    assert FIRST_IDS <= outside <= LAST_IDS
    return outside


async def test_every_kind_of_volume_keeps_its_owners_in_a_pod_with_users_of_its_own(
    client: Client, cribd: Cribd, tmp_path: Path
) -> None:
    connection, host = client.connection, tmp_path / "host"
    host.mkdir()
    await volumes.create(connection, "disk", VolumeSpec(kind="block", capacity=32 << 20))
    await volumes.create(connection, "memory", VolumeSpec(kind="tmpfs", capacity=1 << 20))
    await volumes.create(connection, "image", VolumeSpec(kind="image", source=IMAGE))
    path = tmp_path / "users.yaml"
    path.write_text(manifest(host))
    await client.run_manifest(path)
    first = await first_id(client, "users")
    names = [f"/{name}" for name in (*WRITABLE, *SEALED)]
    shown = (await said(client, "users", "stat", "-c", "%n %u %g", *names)).splitlines()
    assert shown == [f"{name} 0 {0 if name == '/host' else 3000}" for name in names]
    of_images = await said(client, "users", "stat", "-c", "%u", *(f"/{name}" for name in IMAGES))
    assert of_images == "0\n" * len(IMAGES)
    assert await said(client, "users", "cat", "/secret/key") == "hidden"
    await said(client, "users", "touch", *(f"/{name}/new" for name in WRITABLE))
    status = (host / "new").stat()
    assert (status.st_uid, status.st_gid) == (0, 0)  # and not the id that the pod's root has
    same = crib(cribd, tmp_path / "pods", "diff", str(path))
    assert (same.returncode, same.stdout) == (0, ""), same.stderr
    found = crib(cribd, tmp_path / "pods", "generate", "users")
    assert "hostUsers: false" in found.stdout
    assert "claimName: disk" in found.stdout
    # of `data` only: no claim could say what the others are
    assert found.stdout.count("PersistentVolumeClaim") == 1
    await client.run_manifest(simple("other", "emptyDir: {}"))
    assert await first_id(client, "other") != first


async def test_a_file_system_that_cannot_show_other_ids_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="/proc is on a file system, or has one below it"):
        await client.run_manifest(simple("users", "hostPath: {path: /proc}"))
    assert not await lookup.pods(client.connection)


async def test_a_pod_that_is_kept_up_has_its_ids_in_each_container(
    client: Client, cribd: Cribd, tmp_path: Path
) -> None:
    await client.run_manifest(simple("users", "emptyDir: {}"), restart=True)
    first = await first_id(client, "users")
    await said(client, "users", "touch", "/data/kept")
    again = crib(cribd, tmp_path / "pods", "restart", "users", "--time", "0")
    assert again.returncode == 0, again.stderr
    assert await first_id(client, "users") == first
    assert await said(client, "users", "stat", "-c", "%u", "/data/kept") == "0\n"
