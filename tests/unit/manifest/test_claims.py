"""Claims of pods: documents, templates, snapshots, PersistentVolumes, drivers, devices, limited directories."""

# ruff: noqa: E501  # a message is compared as one line

from __future__ import annotations

import itertools
import textwrap

import pytest

from crib.manifest import late
from crib.manifest.claim_plan import ClaimPlan, ClaimSource, ClaimSpec, DriverPlan
from crib.manifest.documents import ManifestText
from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, Plans, PodPlan, Site, VolumePlan

SITE = Site(Dirs("/c/pods"), memory=8 << 30)
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers:
  - name: app
    image: localhost/app:1
    {container}
  volumes: [{volumes}]
"""
CLAIM = """
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, labels: {{app: db}}}}
spec: {{{spec}}}
"""


def read(text: str) -> Plans:
    numbers = itertools.count(1)
    return read_plans(text, SITE, lambda: f"uid-{next(numbers)}")


def pod(volumes: str, container: str = "", more: str = "") -> PodPlan:
    return read(POD.format(volumes=volumes, container=container) + textwrap.dedent(more)).pods[0]


def claim(spec: str, more: str = "") -> ClaimPlan:
    documents = CLAIM.format(spec=spec) + textwrap.dedent(more)
    return claim_of(pod("{name: v, persistentVolumeClaim: {claimName: data}}", more=documents).volumes[0])


def claim_of(volume: VolumePlan) -> ClaimPlan:
    assert volume.claim is not None
    return volume.claim


def faults(text: str) -> list[str]:
    with pytest.raises(ManifestError) as wrong:
        read(text)
    return [str(fault) for fault in wrong.value.faults]


def claim_faults(spec: str) -> list[str]:
    return faults(
        POD.format(volumes="{name: v, persistentVolumeClaim: {claimName: data}}", container="")
        + CLAIM.format(spec=spec)
    )


def test_a_claim_says_class_size_modes_and_whether_it_is_a_device() -> None:
    found = claim(
        "storageClassName: fast, accessModes: [ReadWriteOncePod], volumeMode: Filesystem, resources: {requests: {storage: 1Gi}, limits: {storage: 2Gi}}"
    )
    assert found == ClaimPlan(
        "default", "data", (("app", "db"),), ClaimSpec("", "fast", 1 << 30, ("ReadWriteOncePod",))
    )
    assert claim("volumeMode: Block").spec.block
    assert claim("resources: {limits: {storage: 1Ki}}").spec.size == 1024


def test_a_claim_that_no_file_has_is_asked_for_as_the_pod_uses_it() -> None:
    found = pod(
        "{name: d, persistentVolumeClaim: {claimName: disk}}, {name: f, persistentVolumeClaim: {claimName: files, readOnly: true}}",
        "volumeDevices: [{name: d, devicePath: /dev/x}]",
    )
    disk, files = found.volumes
    assert claim_of(disk) == ClaimPlan("default", "disk", (), ClaimSpec(block=True), is_described=False)
    assert claim_of(files) == ClaimPlan("default", "files", is_described=False)
    assert (disk.read_only, files.read_only) == (False, True)


def test_paths_of_volumes_are_filled_in_wherever_a_container_has_them() -> None:
    found = pod(
        "{name: d, persistentVolumeClaim: {claimName: disk}}, {name: f, persistentVolumeClaim: {claimName: files}}, {name: e, emptyDir: {}}",
        "volumeDevices: [{name: d, devicePath: /dev/x}]\n    volumeMounts: [{name: f, mountPath: /f}, {name: f, mountPath: /g, subPath: g}, {name: e, mountPath: /e}]",
    )
    placed = late.placed(found, {"d": "/p/d", "f": "/p/f"})
    config = placed.containers[0].config
    assert [device.host_path for device in config.devices] == ["/p/d"]
    assert config.devices[0].permissions == "mrw"
    assert [mount.host_path for mount in config.mounts] == [
        "/p/f",
        "/c/pods/uid-1/subpaths/app/1",
        "/c/pods/uid-1/volumes/e",
    ]
    assert [part.volume for part in placed.containers[0].sub_paths] == ["/p/f"]
    assert [volume.path for volume in placed.volumes] == ["/p/d", "/p/f", "/c/pods/uid-1/volumes/e"]
    assert [mount.selinux_relabel for mount in config.mounts] == [True, True, True]
    fixed = late.placed(found, {"d": "/p/d", "f": "/p/f"}, labelled=["f"]).containers[0].config
    assert [mount.selinux_relabel for mount in fixed.mounts] == [False, False, True]
    assert late.shown_paths(found) == {"d": "/<volume>/default/disk", "f": "/<volume>/default/files"}
    assert "\0" in found.containers[0].config.mounts[0].host_path, "the first plan is as it was"


def test_a_template_of_a_stateful_set_is_a_claim_of_each_pod() -> None:
    text = """
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: {name: db, namespace: shop}
    spec:
      replicas: 2
      template:
        spec:
          containers: [{name: a, image: localhost/x:1, volumeMounts: [{name: data, mountPath: /d}, {name: log, mountPath: /l}]}]
          volumes: [{name: log, emptyDir: {}}, {name: data, emptyDir: {}}]
      volumeClaimTemplates:
      - metadata: {name: data, labels: {tier: db}}
        spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 1Mi}}}
    ---
    apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: data-db-1, namespace: shop}
    spec: {storageClassName: slow}
    """
    first, second = read(textwrap.dedent(text)).pods
    assert [volume.name for volume in first.volumes] == ["log", "data"]
    assert claim_of(first.volumes[1]) == ClaimPlan(
        "shop", "data-db-0", (("tier", "db"),), ClaimSpec("", "fast", 1 << 20, ("ReadWriteOnce",))
    )
    assert claim_of(second.volumes[1]).spec == ClaimSpec(storage_class="slow"), "a claim of its own counts"
    again = read_plans(first.document, SITE).pods[0]
    assert claim_of(again.volumes[1]) == claim_of(first.volumes[1]), "what is kept of the pod has the claim"


def test_an_ephemeral_volume_is_the_pods_own() -> None:
    found = pod(
        "{name: scratch, ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {storageClassName: fast, resources: {requests: {storage: 1Mi}}}}}}"
    )
    assert claim_of(found.volumes[0]) == ClaimPlan(
        "default", "web-scratch", (("a", "b"),), ClaimSpec("", "fast", 1 << 20), with_pod=True
    )
    assert found.volumes[0].kind == "claim"


def test_an_empty_directory_of_limited_size_on_disk_is_a_volume_too() -> None:
    disk, memory, any_size = pod(
        "{name: a, emptyDir: {sizeLimit: 1Mi}}, {name: b, emptyDir: {sizeLimit: 1Mi, medium: Memory}}, {name: c, emptyDir: {}}"
    ).volumes
    assert claim_of(disk) == ClaimPlan(
        "default", "web-a", (), ClaimSpec(kind="local", size=1 << 20), with_pod=True
    )
    assert (disk.kind, memory.claim, any_size.claim) == ("emptyDir", None, None)


def test_an_inline_volume_has_a_driver_and_secrets_that_are_not_shown() -> None:
    source = "{name: s, csi: {driver: secrets.example, readOnly: true, fsType: ext4, volumeAttributes: {k: v}, nodePublishSecretRef: {name: key}}}"
    secret = """
    ---
    apiVersion: v1
    kind: Secret
    metadata: {name: key}
    stringData: {token: TOKEN}
    """
    found = pod(source, more=secret)
    (volume,) = found.volumes
    driver = DriverPlan("secrets.example", "", (("k", "v"),), (("token", b"TOKEN"),))
    assert claim_of(volume) == ClaimPlan(
        "default", "web-s", (), ClaimSpec(kind="csi", driver=driver, fs_type="ext4"), with_pod=True
    )
    assert volume.read_only
    assert "TOKEN" not in repr(found.volumes)
    assert "kind: Secret" in found.document
    assert faults(POD.format(volumes=source, container="")) == [
        "spec.volumes[0].csi.nodePublishSecretRef.name: there is no Secret 'key' in namespace default: add it, or name its file by --from"
    ]


def test_a_claim_may_begin_as_a_snapshot_or_as_another_volume() -> None:
    ref = "{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: monday}"
    assert claim(f"dataSource: {ref}").spec.source == ClaimSource(is_snapshot=True, name="monday")
    assert claim(f"dataSource: {ref}, dataSourceRef: {ref}").spec.source == ClaimSource(True, "monday")
    snapshot = """
    ---
    apiVersion: snapshot.storage.k8s.io/v1
    kind: VolumeSnapshot
    metadata: {name: monday}
    spec: {volumeSnapshotClassName: x, source: {persistentVolumeClaimName: db}}
    """
    assert claim(f"dataSource: {ref}", snapshot).spec.source == ClaimSource(True, "monday", "db")
    other = "dataSource: {kind: PersistentVolumeClaim, name: db}"
    assert claim(other).spec.source == ClaimSource(is_snapshot=False, name="db")


PERSISTENT = """
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: disk}}
spec: {{{spec}}}
"""


def test_a_claim_gets_the_persistent_volume_that_it_names() -> None:
    def bound(spec: str, claim_spec: str = "volumeName: disk") -> VolumePlan:
        more = CLAIM.format(spec=claim_spec) + PERSISTENT.format(spec=spec)
        return pod("{name: v, persistentVolumeClaim: {claimName: data}}", more=more).volumes[0]

    local = bound("local: {path: /mnt/ssd}, nodeAffinity: {required: {}}, capacity: {storage: 1Gi}")
    assert (local.kind, local.path, local.host_type) == ("hostPath", "/mnt/ssd", "")
    host = bound("hostPath: {path: /srv, type: Directory}, claimRef: {namespace: default, name: data}", "")
    assert (host.kind, host.path, host.host_type) == ("hostPath", "/srv", "Directory")
    formatted = bound("local: {path: /dev/vdb, fsType: xfs}, mountOptions: [noatime]")
    assert claim_of(formatted).spec == ClaimSpec(
        "block", device="/dev/vdb", fs_type="xfs", mount_options=("noatime",)
    )
    raw = bound("local: {path: /dev/vdb}, volumeMode: Block", "volumeName: disk, volumeMode: Block")
    assert claim_of(raw).spec == ClaimSpec("block", device="/dev/vdb", block=True)
    driven = bound(
        "csi: {driver: d.example, volumeHandle: h1, fsType: ext4, readOnly: true, volumeAttributes: {a: b}}, accessModes: [ReadOnlyMany]"
    )
    assert claim_of(driven).spec == ClaimSpec(
        "csi",
        driver=DriverPlan("d.example", "h1", (("a", "b"),)),
        fs_type="ext4",
        access_modes=("ReadOnlyMany",),
    )
    assert driven.read_only


def test_a_claim_whose_persistent_volume_is_in_no_file_is_made_by_its_class_with_a_note() -> None:
    found = pod(
        "{name: v, persistentVolumeClaim: {claimName: data}}", more=CLAIM.format(spec="volumeName: pvc-1")
    )
    assert claim_of(found.volumes[0]).spec == ClaimSpec()
    assert (
        "spec.volumes[0].persistentVolumeClaim: claim data: no effect of volumeName: no file has PersistentVolume 'pvc-1'"
        in found.notes
    )


def test_all_faults_of_claims_are_told_at_once_with_their_places() -> None:
    text = POD.format(volumes="{name: v, persistentVolumeClaim: {claimName: data}}", container="")
    text += CLAIM.format(
        spec="accessModes: [RWO, ReadWriteOncePod], selector: {a: b}, volumeMode: Blocks, storageClas: x, resources: {requests: {storage: 2Gi, cpu: 1}, limits: {storage: 1Gi}}"
    )
    with pytest.raises(ManifestError) as wrong:
        read_plans([ManifestText("a.yaml", text)], SITE)
    assert [str(fault) for fault in wrong.value.faults] == [
        "a.yaml:16:8: spec.accessModes: ReadWriteOncePod cannot be had together with another mode",
        "a.yaml:16:22: spec.accessModes[0]: 'RWO' is not one of ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod",
        "a.yaml:16:46: spec.selector: not supported: crib does not choose among volumes: name one by volumeName",
        "a.yaml:16:64: spec.volumeMode: 'Blocks' is not one of Filesystem, Block",
        "a.yaml:16:84: spec.storageClas: unknown field; the nearest known name is storageClassName",
        "a.yaml:16:123: spec.resources.requests.storage: is greater than the limit",
        "a.yaml:16:137: spec.resources.requests.cpu: not supported: a claim has an amount of storage only",
    ]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("dataSource: {kind: Thing, name: x}", "spec.dataSource.kind: 'Thing' is not one of VolumeSnapshot, PersistentVolumeClaim"),
        ("dataSource: {kind: VolumeSnapshot, name: x}", "spec.dataSource.apiGroup: must be 'snapshot.storage.k8s.io' for a VolumeSnapshot"),
        ("dataSource: {kind: PersistentVolumeClaim, name: x}, dataSourceRef: {kind: PersistentVolumeClaim, name: y}", "spec.dataSourceRef: is another one than dataSource"),
        ("dataSourceRef: {kind: PersistentVolumeClaim, name: x, namespace: other}", "spec.dataSourceRef.namespace: not supported: a volume is made of one of its own namespace"),
        ("volumeName: v, dataSource: {kind: PersistentVolumeClaim, name: x}", "spec.volumeName: cannot be had together with dataSource: that volume is there already"),
        ("storageClassName: A", "spec.storageClassName: 'A' must be at most 253 of a-z, 0-9, '-' and '.'"),
    ],
)  # fmt: skip
def test_a_claim_that_cannot_be_had_is_refused(spec: str, told: str) -> None:
    assert claim_faults(spec) == [told]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("nfs: {server: x}", "spec.nfs: not supported: crib mounts none itself: use a CSI driver, or a hostPath where the node has it mounted"),
        ("capacity: {storage: 1Gi}", "spec: needs one of hostPath, local, csi"),
        ("hostPath: {path: /a}, local: {path: /b}", "spec: has more than one of hostPath, local, csi"),
        ("hostPath: {path: ../a}", "spec.hostPath.path: '../a' must be an absolute path"),
        ("csi: {driver: d, volumeHandle: h, nodeStageSecretRef: {name: x}}", "spec.csi.nodeStageSecretRef: not supported: the secrets of a volume that outlives pods are files of its class: crib volume create --class"),
        ("csi: {driver: d}", "spec.csi.volumeHandle: is required"),
    ],
)  # fmt: skip
def test_a_persistent_volume_that_cannot_be_had_is_refused(spec: str, told: str) -> None:
    assert told in faults(POD.format(volumes="", container="") + PERSISTENT.format(spec=spec))


@pytest.mark.parametrize(
    ("volumes", "container", "told"),
    [
        ("{name: e, emptyDir: {}}", "volumeDevices: [{name: e, devicePath: /dev/x}]", "spec.containers[0].volumeDevices[0].name: volume 'e' is no claim of volumeMode: Block: use volumeMounts"),
        ("{name: v, ephemeral: {volumeClaimTemplate: {spec: {volumeMode: Block}}}}", "volumeMounts: [{name: v, mountPath: /x}]", "spec.containers[0].volumeMounts[0].name: volume 'v' is a device (volumeMode: Block): use volumeDevices"),
        ("{name: v, persistentVolumeClaim: {claimName: c}}", "volumeDevices: [{name: v, devicePath: dev/x}]", "spec.containers[0].volumeDevices[0].devicePath: 'dev/x' must be an absolute path without '..'"),
        ("{name: v, persistentVolumeClaim: {claimName: c}}", "volumeDevices: [{name: v, devicePath: /d}, {name: v, devicePath: /d/}]", "spec.containers[0].volumeDevices[1].devicePath: /d is there twice"),
        ("{name: v, persistentVolumeClaim: {claimName: c}}", "volumeDevices: [{name: w, devicePath: /d}]", "spec.containers[0].volumeDevices[0].name: the pod has no volume 'w'"),
        ("{name: v, ephemeral: {}}", "", "spec.volumes[0].ephemeral.volumeClaimTemplate: is required"),
        ("{name: v, ephemeral: {volumeClaimTemplate: {metadata: {name: x}, spec: {}}}}", "", "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: not supported: the volume is called POD-VOLUME, after the pod and its volume"),
        ("{name: v, csi: {}}", "", "spec.volumes[0].csi.driver: is required"),
    ],
)  # fmt: skip
def test_a_use_of_a_volume_that_cannot_be_had_is_refused(volumes: str, container: str, told: str) -> None:
    found = faults(POD.format(volumes=volumes, container=container))
    assert told in found
