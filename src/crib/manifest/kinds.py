"""Which documents come to pods: Pods, and the templates of Deployments, Jobs and the like.

There are no controllers here. A workload's pods are made once, as many as it asks for. Only a Job is more
than its pods (`jobs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.claims import SNAPSHOT_GROUP
from crib.manifest.faults import ManifestError
from crib.manifest.fields import ManifestNode, check_label, check_subdomain, is_label, nearest
from crib.manifest.jobs import JobReading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from crib.manifest.fields import Shape

MAX_PODS = 100
"""Pods of all files together."""
_WORKLOADS: Mapping[str, tuple[str, Shape]] = {
    "Deployment": ("apps/v1", shapes.DEPLOYMENT),
    "ReplicaSet": ("apps/v1", shapes.REPLICA_SET),
    "StatefulSet": ("apps/v1", shapes.STATEFUL_SET),
    "DaemonSet": ("apps/v1", shapes.DAEMON_SET),
    "ReplicationController": ("v1", shapes.REPLICA_SET),
}
_JOBS: Mapping[str, Shape] = {"Job": shapes.JOB, "CronJob": shapes.CRON_JOB}
_DATA: Mapping[str, str] = {
    "ConfigMap": "v1",
    "Secret": "v1",
    "PersistentVolumeClaim": "v1",
    "PersistentVolume": "v1",
    "VolumeSnapshot": f"{SNAPSHOT_GROUP}/v1",
}
_OTHERS = (
    "APIService CertificateSigningRequest ClusterRole ClusterRoleBinding CSIDriver "
    "CustomResourceDefinition EndpointSlice Endpoints Event FlowSchema HorizontalPodAutoscaler Ingress "
    "IngressClass Kustomization Lease LimitRange MutatingWebhookConfiguration Namespace NetworkPolicy "
    "PodDisruptionBudget PodTemplate PriorityClass ResourceQuota Role RoleBinding "
    "RuntimeClass Service ServiceAccount StorageClass ValidatingAdmissionPolicy "
    "ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration VolumeSnapshotClass "
    "VolumeSnapshotContent"
)
_LEFT_OUT = frozenset(_OTHERS.split())
"""Kinds of Kubernetes that are about a cluster."""


@dataclass(frozen=True, slots=True)
class PodSource:
    """One pod to be: what holds its `metadata` and `spec`, and the name it gets (empty: its own).

    `claims` are those that its workload makes for it.
    """

    node: ManifestNode
    name: str = ""
    namespace: str = ""
    claims: tuple[ManifestNode, ...] = ()


def is_data(node: ManifestNode) -> bool:
    """Whether it is an object that pods refer to; a fault if its version is another one."""
    version = _DATA.get(node.text("kind"))
    if version is None:
        return False
    _check_version(node, version)
    return True


def is_workload(node: ManifestNode) -> bool:
    """Whether it is of a kind that comes to pods, be it none at the moment."""
    return node.text("kind") in ("Pod", *_WORKLOADS, *_JOBS)


def job_reading(node: ManifestNode) -> JobReading | None:
    """What a Job says, or a CronJob of the Job that it would make; None for any other kind."""
    kind = node.text("kind")
    if kind not in _JOBS:
        return None
    _check_version(node, "batch/v1")
    spec = _spec_of(node, _JOBS[kind])
    if kind == "CronJob":
        job = _needed(spec, "jobTemplate")
        job.check(shapes.TEMPLATE)
        spec = _needed(job, "spec")
        spec.check(shapes.JOB)
    template = _needed(spec, "template")
    template.check(shapes.TEMPLATE)
    _needed(template, "spec")
    reading = JobReading(node, spec, template)
    label = f"{kind} {reading.namespace}/{reading.name}"
    if kind == "CronJob":
        node.notes.add("", f"{label} is run once, now: its schedule has no effect")
    if reading.suspended:
        node.notes.add(
            "", f"{label} is suspended: crib run --restart keeps it, and then crib start begins it"
        )
    if not reading.parallelism:
        node.notes.add("", f"{label} comes to no pod")
    return reading


def pod_sources(node: ManifestNode) -> Iterator[PodSource]:
    """The pods that a document comes to. Kinds that are not about pods are noted and left out."""
    kind = node.text("kind")
    if kind == "Pod":
        _check_version(node, "v1")
        node.check(shapes.DOCUMENT)
        yield PodSource(node)
    elif kind in _WORKLOADS:
        _check_version(node, _WORKLOADS[kind][0])
        yield from _workload(node, kind)
    elif kind:
        _leave_out(node, kind)


def _check_version(node: ManifestNode, wanted: str) -> None:
    version = node.text("apiVersion")
    if version not in ("", wanted):
        node.wrong("apiVersion", f"{version!r} is not {wanted}")


def _leave_out(node: ManifestNode, kind: str) -> None:
    group = node.text("apiVersion").rpartition("/")[0]
    is_custom = "." in group and not group.endswith(".k8s.io")
    if kind not in _LEFT_OUT and not is_custom:
        hint = nearest(kind, ["Pod", *_WORKLOADS, *_JOBS, *_DATA, *sorted(_LEFT_OUT)])
        node.wrong("kind", f"{kind!r} is not known{hint.replace('name', 'kind')}")
        return
    name = node.part("metadata").text("name")
    node.notes.add("", f"{kind} {name} is left out: crib runs pods".replace("  ", " "))


def _spec_of(node: ManifestNode, shape: Shape) -> ManifestNode:
    """The spec of a document that has a name, too."""
    node.check(shapes.DOCUMENT)
    metadata, spec = node.child("metadata"), node.child("spec")
    if metadata is None or spec is None:
        raise ManifestError(node.at("metadata" if metadata is None else "spec"), "is required")
    metadata.check(shapes.METADATA)
    spec.check(shape)
    return spec


def _workload(node: ManifestNode, kind: str) -> Iterator[PodSource]:
    spec = _spec_of(node, _WORKLOADS[kind][1])
    metadata = node.part("metadata")
    name, namespace = check_subdomain(metadata, "name"), check_label(metadata, "namespace", "default")
    template = _needed(spec, "template")
    template.check(shapes.TEMPLATE)
    numbers = _numbers(spec, kind)
    if not numbers:
        node.notes.add("", f"{kind} {namespace}/{name} comes to no pod")
    for number in numbers:
        pod = name if kind == "DaemonSet" else f"{name}-{number}"
        claims = tuple(_claims(spec, pod, namespace)) if kind == "StatefulSet" else ()
        yield PodSource(_template(template, spec, kind, pod), pod, namespace, claims)


def _needed(node: ManifestNode, name: str) -> ManifestNode:
    found = node.child(name)
    if found is None:
        raise ManifestError(node.at(name), "is required")
    return found


def _numbers(spec: ManifestNode, kind: str) -> range:
    """Of the workload's pods."""
    if kind == "DaemonSet":
        return range(1)
    count = spec.number("replicas", 0, MAX_PODS)
    start = spec.part("ordinals").number("start", 0, 10**6) or 0
    return range(start, start + (1 if count is None else count))


def _template(template: ManifestNode, workload: ManifestNode, kind: str, pod: str) -> ManifestNode:
    """The template with what its kind adds for one pod."""
    spec = template.child("spec")
    if spec is None:
        raise ManifestError(template.at("spec"), "is required")
    if kind == "StatefulSet":
        spec = spec.with_fields(hostname=pod, subdomain=workload.text("serviceName") or None)
        spec = _with_claims(spec, workload, pod)
    return template.with_parts(metadata=template.part("metadata"), spec=spec)


def _with_claims(spec: ManifestNode, workload: ManifestNode, pod: str) -> ManifestNode:
    """A template's claim is a volume of its name, and takes the place of one that the pod has itself."""
    names = [claim.part("metadata").raw("name") for claim in workload.children("volumeClaimTemplates")]
    claims = {
        name: {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{pod}"}}
        for name in names
        if isinstance(name, str) and is_label(name)
    }
    volumes = spec.raw("volumes")
    if not claims or not isinstance(volumes, list | None):
        return spec
    found = [claims.pop(str(one.get("name")), one) if isinstance(one, dict) else one for one in volumes or ()]
    return spec.with_fields(volumes=[*found, *claims.values()])


def _claims(workload: ManifestNode, pod: str, namespace: str) -> Iterator[ManifestNode]:
    """Of a pod's own, named TEMPLATE-POD."""
    for template in workload.children("volumeClaimTemplates"):
        template.check(shapes.CLAIM)
        metadata = template.part("metadata")
        metadata.check(shapes.METADATA)
        if name := check_label(metadata, "name"):
            own = metadata.with_fields(name=f"{name}-{pod}", namespace=namespace)
            claim = template.with_fields(apiVersion="v1", kind="PersistentVolumeClaim")
            yield claim.with_parts(metadata=own)
