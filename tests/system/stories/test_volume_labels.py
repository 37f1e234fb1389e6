"""SELinux: every kind of volume that a manifest can have is its pod's, and nobody else's.

Where SELinux enforces, started at level s0 as services are (`script/guest --suite "system volumes" selinux`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
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
OF_A_POD = {
    "empty": "emptyDir: {}",
    "memory": "emptyDir: {medium: Memory}",
    "limited": "emptyDir: {sizeLimit: 10Mi}",
    "own": "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}",
}
KINDS = {"local": VolumeSpec(kind="local"), "block": VolumeSpec(kind="block", capacity=32 << 20)}
"""Volumes that outlive pods and are written."""


def pod(name: str, sources: Mapping[str, str], *, parts: bool = False, level: str = "") -> str:
    """A pod with these volumes at /NAME, and with `parts` a directory of each at /part/NAME."""
    places = {f"/{one}": one for one in sources} | {f"/part/{one}": one for one in sources if parts}
    mounts = [
        f"{{name: {one}, mountPath: {path}{', subPath: part' if 'part' in path else ''}}}"
        for path, one in places.items()
    ]
    options = f"securityContext: {{seLinuxOptions: {{level: '{level}'}}}}" if level else ""
    volumes = "".join(f"\n  - {{name: {one}, {source}}}" for one, source in sources.items())
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
    volumeMounts: [{", ".join(mounts)}]
  volumes:{volumes}
"""


def claimed(name: str) -> str:
    return f"persistentVolumeClaim: {{claimName: {name}}}"


ALL_KINDS = {kind: claimed(kind) for kind in KINDS}


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


async def make(client: Client, name: str, spec: VolumeSpec, **more: object) -> None:
    wanted = VolumeSpec(access_modes=["ReadWriteMany"], **more)  # type: ignore[arg-type]
    wanted.MergeFrom(spec)
    await volumes.create(client.connection, name, wanted)


async def tried(client: Client, pod: str, script: str) -> str:
    done = await client.exec(pod, ["sh", "-c", script])
    assert done.code == 0, done
    return done.out.decode().strip() if isinstance(done.out, bytes) else done.out.strip()


async def is_denied(client: Client, pod: str, script: str) -> None:
    done = await client.exec(pod, ["sh", "-c", script])
    assert done.code != 0
    said = done.err if isinstance(done.err, str) else done.err.decode()
    assert "Permission denied" in said, done


async def level_of(client: Client, pod: str) -> str:
    label = (await tried(client, pod, "cat /proc/self/attr/current")).strip("\0")
    found = re.fullmatch(r"system_u:system_r:container_t:(s0:c\d+,c\d+)", label)
    assert found, label
    return found[1]


async def test_a_pod_writes_into_each_kind_of_its_volumes(client: Client) -> None:
    for kind, spec in KINDS.items():
        await make(client, kind, spec)
    written = OF_A_POD | ALL_KINDS
    await client.run_manifest(pod("web", written, parts=True))
    assert await level_of(client, "web")
    places = " ".join(f"/{part}{one}" for one in written for part in ("", "part/"))
    write = 'cd $p && echo word > file && mkdir -p below && echo x > below/x && cat file || echo "not $p"'
    said = await tried(client, "web", f"for p in {places}; do {write}; done")
    assert said == "\n".join(["word"] * 2 * len(written))


async def test_what_is_made_for_a_pod_is_readable_and_a_path_of_the_host_is_not(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("secret")
    settings = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {file: word}\n"
    sources = {"config": "configMap: {name: settings}", "host": f"hostPath: {{path: {tmp_path}}}"}
    await client.run_manifest(pod("web", sources) + settings)
    assert await tried(client, "web", "cat /config/file") == "word"
    assert await tried(client, "web", "cat /etc/hosts /etc/hostname /etc/resolv.conf")
    await is_denied(client, "web", "cat /host/file")


async def test_a_volume_is_the_pods_that_took_it_last_or_of_all_at_one_level(client: Client) -> None:
    for kind, spec in KINDS.items():
        await make(client, kind, spec)
    await client.run_manifest(pod("one", ALL_KINDS))
    await tried(client, "one", "for p in local block; do echo word > /$p/file; done")
    await client.run_manifest(pod("two", ALL_KINDS))
    assert await level_of(client, "one") != await level_of(client, "two")
    for kind in KINDS:
        assert await tried(client, "two", f"cat /{kind}/file") == "word"
        await is_denied(client, "one", f"cat /{kind}/file")
    for name in ("three", "four"):
        await client.run_manifest(pod(name, ALL_KINDS, level=LEVEL))
    for name in ("three", "four"):
        await tried(client, name, f"for p in local block; do echo {name} >> /$p/file || exit 1; done")
    for kind in KINDS:
        assert await tried(client, "three", f"cat /{kind}/file") == "word\nthree\nfour"


async def test_a_copy_is_its_own_pods_and_its_origin_stays_with_the_other(client: Client) -> None:
    for kind, spec in KINDS.items():
        await make(client, kind, spec)
    await client.run_manifest(pod("one", ALL_KINDS))
    await tried(client, "one", "for p in local block; do echo word > /$p/file; done")
    for kind, spec in KINDS.items():
        await volumes.snapshot(client.connection, kind, f"of-{kind}")
        await make(client, f"copy-{kind}", spec, snapshot=f"of-{kind}")
    await client.run_manifest(pod("two", {kind: claimed(f"copy-{kind}") for kind in KINDS}))
    for kind in KINDS:
        assert await tried(client, "two", f"cat /{kind}/file; echo more >> /{kind}/file") == "word"
        assert await tried(client, "one", f"echo mine >> /{kind}/file; cat /{kind}/file") == "word\nmine"


async def test_pods_of_several_levels_read_an_image_at_once(client: Client) -> None:
    await make(client, "claim", VolumeSpec(kind="image", source=IMAGE))
    sources = {"image": f"image: {{reference: '{IMAGE}'}}", "claim": claimed("claim")}
    for name in ("one", "two"):
        await client.run_manifest(pod(name, sources))
    assert await level_of(client, "one") != await level_of(client, "two")
    for name in ("one", "two", "one"):
        for place in sources:
            said = await tried(client, name, f"cat /{place}/etc/group && /{place}/bin/busybox echo ran")
            assert said.startswith("root:")
            assert said.endswith("ran")
            assert (await client.exec(name, ["touch", f"/{place}/new"])).code != 0


async def test_a_raw_device_is_read_and_written(client: Client) -> None:
    await make(client, "disk", VolumeSpec(kind="block", block=True, capacity=1 << 20))
    manifest = pod("raw", {"v": claimed("disk")}).replace(
        "volumeMounts: [{name: v, mountPath: /v}]", "volumeDevices: [{name: v, devicePath: /dev/disk}]"
    )
    await client.run_manifest(manifest)
    await tried(client, "raw", "echo data | dd of=/dev/disk conv=notrunc 2>/dev/null")
    assert await tried(client, "raw", "head -c 4 /dev/disk") == "data"
