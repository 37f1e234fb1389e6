"""A pod's volumes of the runtime: what is asked for them, whose they become, and how they are taken back."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.client import Connection
from crib.client.errors import ClientError, PodFailure, Unavailable
from crib.client.workloads import files, pod_volumes
from crib.client.workloads.mounting import mounts_below
from crib.client.workloads.removal import remove_pod
from crib.client.workloads.start import PodStart
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, PodPlan, Site
from crib.stubs.node.v1 import node_pb2 as node
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve
from tests.unit.client.fake_volumes import VolumeWorld, serve_volumes

CLAIM = "{name: v, persistentVolumeClaim: {claimName: data}}"


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(f"{tmp_path}/pods")


@pytest.fixture
def world(tmp_path: Path) -> VolumeWorld:
    made = VolumeWorld(directory=f"{tmp_path}/volumes")
    made.add_image("localhost/i:1")
    return made


@pytest.fixture
async def connection(world: VolumeWorld, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve_volumes(f"{tmp_path}/s", world)
    async with Connection(f"unix://{tmp_path}/s") as connection:
        yield connection
    await server.stop(None)


class Told:
    """Who is told of what goes on."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def waits_for(self, what: str) -> None: ...

    async def pull(self, connection: Connection, image: str, auth: object) -> None:
        raise AssertionError(f"{image} is here")


def plan_of(dirs: Dirs, volumes: str, mounts: str = "", more: str = "", spec: str = "") -> PodPlan:
    text = f"""
    apiVersion: v1
    kind: Pod
    metadata: {{name: web, uid: u1}}
    spec:
      containers: [{{name: app, image: "localhost/i:1", {mounts}}}]
      volumes: [{volumes}]
      {spec}
    """
    return read_plans(textwrap.dedent(text) + textwrap.dedent(more), Site(dirs, memory=1 << 30)).pods[0]


def asked(world: VolumeWorld) -> list[node.WantedVolume]:
    (request,) = world.publications
    return list(request.volumes)


async def start(connection: Connection, plan: PodPlan, dirs: Dirs, told: Told | None = None) -> str:
    return (await PodStart(connection, plan, dirs, told or Told(), keep=False).start()).id


def pod_of(world: World, pod_id: str) -> cri.PodSandbox:
    return world.pods[pod_id]


async def test_a_pod_mounts_its_volume_where_the_runtime_has_it(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    plan = plan_of(dirs, CLAIM, "volumeMounts: [{name: v, mountPath: /d}]")
    pod = await start(connection, plan, dirs)
    (request,) = world.publications
    assert (request.pod_uid, request.pod_namespace, request.pod_name, request.pod_files) == (
        "u1",
        "default",
        "web",
        dirs.pod("u1"),
    )
    (config,) = world.container_configs.values()
    path = f"{world.directory}/{world.volumes['default/data'].id}"
    assert [mount.host_path for mount in config.mounts if mount.container_path == "/d"] == [path]
    assert world.calls.index("PublishVolumes") < world.calls.index("RunPodSandbox")
    await remove_pod(connection, pod_of(world, pod), dirs)
    assert world.calls[-1] == "UnpublishVolumes"
    assert list(world.volumes["default/data"].uses) == []
    assert not os.path.exists(dirs.pod("u1"))


async def test_a_pod_without_volumes_of_the_runtime_asks_for_none(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    pod = await start(connection, plan_of(dirs, "{name: e, emptyDir: {}}"), dirs)
    await remove_pod(connection, pod_of(world, pod), dirs)
    assert not {"PublishVolumes", "UnpublishVolumes"} & set(world.calls)


async def test_everything_that_a_claim_says_is_asked_for(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    claim = """
    ---
    apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: data, labels: {app: db}}
    spec: {storageClassName: fast, accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Gi}}}
    """
    scratch = "{name: s, ephemeral: {volumeClaimTemplate: {spec: {volumeMode: Block}}}}"
    limited = "{name: l, emptyDir: {sizeLimit: 1Mi}}"
    plan = plan_of(dirs, f"{CLAIM[:-2]}, readOnly: true}}}}, {scratch}, {limited}", more=claim)
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert asked(world) == [
        node.WantedVolume(
            volume="v",
            name="data",
            read_only=True,
            spec=node.VolumeSpec(
                storage_class="fast",
                capacity=1 << 30,
                access_modes=["ReadWriteOncePod"],
                labels={"app": "db"},
            ),
        ),
        node.WantedVolume(volume="s", name="web-s", spec=node.VolumeSpec(block=True, owner="u1")),
        node.WantedVolume(
            volume="l", name="web-l", spec=node.VolumeSpec(kind="local", capacity=1 << 20, owner="u1")
        ),
    ]


async def test_a_volume_that_is_there_will_do_for_a_claim_that_no_file_describes(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    world.add_volume("default/data", storage_class="fast")
    plan = plan_of(dirs, f"{CLAIM}, {{name: w, persistentVolumeClaim: {{claimName: other}}}}")
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert [(one.name, one.HasField("spec")) for one in asked(world)] == [("data", False), ("other", True)]


async def test_what_the_runtime_gives_read_only_is_mounted_read_only(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    world.add_volume("default/data", access_modes=["ReadOnlyMany"])
    world.add_volume("default/raw", access_modes=["ReadOnlyMany"], block=True)
    mounts = (
        "volumeMounts: [{name: v, mountPath: /d}, {name: v, mountPath: /e, subPath: e}], "
        "volumeDevices: [{name: r, devicePath: /dev/r}]"
    )
    plan = plan_of(dirs, f"{CLAIM}, {{name: r, persistentVolumeClaim: {{claimName: raw}}}}", mounts)
    files.make(plan, dirs)
    config = (await pod_volumes.attach(connection, plan, dirs, lambda _: None)).containers[0].config
    assert [mount.readonly for mount in config.mounts] == [True, True]
    assert [device.permissions for device in config.devices] == ["r"]


@pytest.mark.root
async def test_a_drivers_secrets_are_files_in_memory_that_go_with_the_pod(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    secret = """
    ---
    apiVersion: v1
    kind: Secret
    metadata: {name: key}
    stringData: {token: TOKEN}
    """
    source = "csi: {driver: d.example, volumeAttributes: {a: b}, nodePublishSecretRef: {name: key}}"
    plan = plan_of(dirs, f"{{name: v, {source}}}", more=secret)
    pod = await start(connection, plan, dirs)
    (wanted,) = asked(world)
    path = f"{dirs.secrets('u1', 'v')}/token"
    assert wanted.spec == node.VolumeSpec(
        kind="csi",
        driver="d.example",
        parameters={"a": "b"},
        inline=True,
        owner="u1",
        secrets={"token": path},
    )
    assert Path(path).read_text() == "TOKEN"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o400
    assert dirs.secrets("u1", "v") in mounts_below(dirs.pod("u1"))
    assert "TOKEN" not in Path(dirs.pod("u1"), files.MANIFEST).read_text()
    files.unbind(dirs, "u1")  # as a boot does
    files.restore(plan, dirs)
    assert Path(path).read_text() == "TOKEN"
    await remove_pod(connection, pod_of(world, pod), dirs)
    assert mounts_below(dirs.pod("u1")) == []


async def test_what_holds_only_in_part_is_told(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    world.warnings, told = ["1 MiB is no limit here"], Told()
    await start(connection, plan_of(dirs, "{name: l, emptyDir: {sizeLimit: 1Mi}}"), dirs, told)
    assert told.lines == ["note: pod default/web: volume l: default/web-l: 1 MiB is no limit here"]


@pytest.mark.parametrize(
    ("mounts", "block", "told"),
    [
        ("volumeMounts: [{name: v, mountPath: /d}]", True, r"is a device \(volumeMode: Block\)"),
        ("volumeDevices: [{name: v, devicePath: /dev/x}]", False, "is no device"),
    ],
)
async def test_a_volume_of_another_mode_is_refused_and_given_back(
    connection: Connection, world: VolumeWorld, dirs: Dirs, mounts: str, block: bool, told: str
) -> None:
    world.add_volume("default/data", block=block)
    with pytest.raises(PodFailure, match=f"pod default/web: volume v: default/data {told}"):
        await start(connection, plan_of(dirs, CLAIM, mounts), dirs)
    assert world.pods == {}
    assert list(world.volumes["default/data"].uses) == []
    assert not os.path.exists(dirs.pod("u1"))


@pytest.mark.root
@pytest.mark.parametrize(
    ("spec", "is_given"),
    [
        ({"kind": "local"}, True),
        ({"kind": "tmpfs"}, True),
        ({"kind": "image"}, False),
        ({"kind": "csi", "fs_type": "ext4", "access_modes": ["ReadWriteOnce"]}, True),
        ({"kind": "csi", "fs_type": "ext4", "access_modes": ["ReadWriteMany"]}, False),
        ({"kind": "csi", "access_modes": ["ReadWriteOnce"]}, False),
    ],
)
async def test_the_pods_group_owns_what_a_kubelet_would_give_it(
    connection: Connection, world: VolumeWorld, dirs: Dirs, spec: dict[str, object], is_given: bool
) -> None:
    volume = world.add_volume("default/data", **spec)
    inside = Path(world.directory, volume.id, "file")
    inside.write_text("")
    plan = plan_of(dirs, CLAIM, spec="securityContext: {fsGroup: 1234}")
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert (inside.stat().st_gid == 1234) is is_given


@pytest.mark.root
@pytest.mark.parametrize(
    ("spec", "volume", "mounts"),
    [
        ({"access_modes": ["ReadOnlyMany"]}, CLAIM, ""),
        ({"block": True}, CLAIM, "volumeDevices: [{name: v, devicePath: /dev/x}]"),
    ],
    ids=["read-only", "device"],
)
async def test_what_is_read_only_or_a_device_keeps_its_group(
    connection: Connection, world: VolumeWorld, dirs: Dirs, spec: dict[str, object], volume: str, mounts: str
) -> None:
    made = world.add_volume("default/data", **spec)
    plan = plan_of(dirs, volume, mounts, spec="securityContext: {fsGroup: 1234}")
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert os.stat(f"{world.directory}/{made.id}").st_gid == 0


@pytest.mark.root
async def test_no_part_of_a_volume_is_mounted_any_more_when_it_is_taken_from_the_pod(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    """A volume of which a part is mounted is busy, and cannot be unmounted."""
    volume = world.add_volume("default/data")
    Path(world.directory, volume.id, "part").mkdir()
    plan = plan_of(dirs, CLAIM, "volumeMounts: [{name: v, mountPath: /d, subPath: part}]")
    pod = await start(connection, plan, dirs)
    assert mounts_below(dirs.pod("u1"))
    seen: list[list[str]] = []
    world.taking = lambda: seen.append(list(mounts_below(dirs.pod("u1"))))
    await remove_pod(connection, pod_of(world, pod), dirs)
    assert seen == [[]]


@pytest.mark.parametrize(("kind", "relabels"), [("local", True), ("image", False)])
async def test_files_of_an_image_get_no_other_label(
    connection: Connection, world: VolumeWorld, dirs: Dirs, kind: str, relabels: bool
) -> None:
    world.add_volume("default/data", kind=kind)
    plan = plan_of(dirs, CLAIM, "volumeMounts: [{name: v, mountPath: /d}]")
    files.make(plan, dirs)
    placed = await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    again = await pod_volumes.as_attached(connection, plan, "u1", dirs)
    for found in (placed, again):
        assert [mount.selinux_relabel for mount in found.containers[0].config.mounts] == [relabels]


@pytest.mark.root
async def test_a_driver_that_gives_files_to_the_group_is_left_to_it(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    volume = world.add_volume("default/data", kind="csi", fs_type="ext4", access_modes=["ReadWriteOnce"])
    world.gives_group = True
    plan = plan_of(dirs, CLAIM, spec="securityContext: {fsGroup: 1234}")
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    (request,) = world.publications
    assert request.fs_group == 1234
    assert os.stat(f"{world.directory}/{volume.id}").st_gid == 0


@pytest.mark.root
async def test_a_group_that_is_right_at_the_root_is_not_set_again_where_the_policy_says_so(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    volume = world.add_volume("default/data")
    policy = "securityContext: {fsGroup: 1234, fsGroupChangePolicy: OnRootMismatch}"
    plan = plan_of(dirs, CLAIM, spec=policy)
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    inside = Path(world.directory, volume.id, "file")
    inside.write_text("")
    os.chown(inside, 0, 0)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert inside.stat().st_gid == 0
    always = replace(plan, volumes=tuple(replace(one, group_always=True) for one in plan.volumes))
    await pod_volumes.attach(connection, always, dirs, lambda _: None)
    assert inside.stat().st_gid == 1234


SNAPSHOT = """
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: monday}
spec: {source: {persistentVolumeClaimName: old}}
"""


def from_source(source: str) -> str:
    return f"""
    ---
    apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {{name: data}}
    spec: {{dataSource: {source}}}
    """


async def test_a_snapshot_of_the_files_is_taken_when_it_is_not_there(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    world.add_volume("default/old")
    source = "{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: monday}"
    plan = plan_of(dirs, CLAIM, more=textwrap.dedent(from_source(source)) + SNAPSHOT)
    files.make(plan, dirs)
    for _ in range(2):
        await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert [one.volumes[0].spec.snapshot for one in world.publications] == ["default/monday", ""]
    assert [call for call in world.calls if "Snapshot" in call] == ["SnapshotVolume old monday"]


async def test_a_volume_is_made_of_another_by_a_snapshot_that_goes(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    world.add_volume("default/old")
    stale = node.VolumeSnapshot(namespace="default", name="data-clone")
    world.snapshots["default/data-clone"] = stale
    plan = plan_of(dirs, CLAIM, more=from_source("{kind: PersistentVolumeClaim, name: old}"))
    files.make(plan, dirs)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    await pod_volumes.attach(connection, plan, dirs, lambda _: None)
    assert [call for call in world.calls if "Snapshot" in call] == [
        "RemoveVolumeSnapshot default/data-clone",
        "SnapshotVolume old data-clone",
        "RemoveVolumeSnapshot default/data-clone",
    ]
    assert world.publications[0].volumes[0].spec.snapshot == "default/data-clone"
    assert world.snapshots == {}


async def test_files_go_even_if_a_volume_cannot_be_taken_from_the_pod(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    """By the directory `crib volume prune` sees later that the pod is gone."""
    pod = await start(connection, plan_of(dirs, CLAIM), dirs)
    world.stuck = "NodeUnpublishVolume of driver d.example: no answer in 120 s"
    with pytest.raises(Unavailable, match=r"no answer in 120 s \(crib volume prune tries again\)"):
        await remove_pod(connection, pod_of(world, pod), dirs)
    assert not os.path.exists(dirs.pod("u1"))


async def test_another_runtime_refuses_claims_before_anything_is_made(dirs: Dirs, tmp_path: Path) -> None:
    world = World()
    world.add_image("localhost/i:1")
    server = await serve(f"{tmp_path}/s", world, node=False)
    async with Connection(f"unix://{tmp_path}/s") as connection:
        told = Told()
        plan = plan_of(dirs, CLAIM)
        words = "pod default/web: volume v: claims, ephemeral and csi volumes need cribd"
        with pytest.raises(PodFailure, match=words):
            await pod_volumes.check(connection, [plan])
        with pytest.raises(PodFailure, match="pod default/web: volume v: this runtime keeps no volumes"):
            await pod_volumes.attach(connection, plan, dirs, told.note)
        limited = plan_of(
            dirs, "{name: l, emptyDir: {sizeLimit: 1Mi}}", "volumeMounts: [{name: l, mountPath: /l}]"
        )
        await pod_volumes.check(connection, [limited])
        pod = await start(connection, limited, dirs, told)
        assert told.lines == ["note: pod default/web: volume l: this runtime enforces no sizeLimit on disk"]
        (config,) = world.container_configs.values()
        assert config.mounts[0].host_path == dirs.volume("u1", "l")
        assert os.path.isdir(dirs.volume("u1", "l"))
        await remove_pod(connection, pod_of(world, pod), dirs)
        assert not os.path.exists(dirs.pod("u1"))
    await server.stop(None)


async def test_a_volume_that_cannot_be_had_leaves_nothing_of_the_pod(
    connection: Connection, world: VolumeWorld, dirs: Dirs
) -> None:
    plan = plan_of(dirs, CLAIM, more=from_source("{kind: PersistentVolumeClaim, name: none}"))
    with pytest.raises(ClientError, match="there is no volume 'default/none'"):
        await start(connection, plan, dirs)
    assert world.pods == {}
    assert not os.path.exists(dirs.pod("u1"))
