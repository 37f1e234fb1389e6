"""Pods that are kept up without a kubelet."""

from __future__ import annotations

from collections.abc import Sequence

from crib.api.translate import checks, names
from crib.model.kept import KeepOrder, KeptContainer, KeptPod, WantOrder
from crib.stubs.node.v1 import node_pb2 as pb

MAX_MANIFEST = 1 << 20
"""Bytes of a kept pod's manifest."""
MAX_GRACE = 2**31 - 1


def decode_keep(message: pb.KeepPodRequest) -> KeepOrder:
    namespace, name = _named(message.namespace, message.name)
    uid = names.uid(message.uid, "uid")
    if not message.pods_dir.startswith("/") or "\0" in message.pods_dir:
        checks.refuse("pods_dir", f"is {message.pods_dir[:100]!r}, not an absolute path")
    size = len(message.manifest.encode())
    if not 0 < size <= MAX_MANIFEST:
        checks.refuse("manifest", f"has {size} bytes, not 1 to {MAX_MANIFEST}")
    return KeepOrder(namespace, name, uid, message.pods_dir, message.manifest)


def decode_want(message: pb.WantKeptPodRequest) -> WantOrder:
    grace = -1
    if message.HasField("grace_seconds"):
        grace = message.grace_seconds
        if not 0 <= grace <= MAX_GRACE:
            checks.refuse("grace_seconds", f"is {grace}, not between 0 and {MAX_GRACE}")
    return WantOrder(*_named(message.namespace, message.name), message.run, grace)


def decode_forget(message: pb.ForgetKeptPodRequest) -> tuple[str, str]:
    return _named(message.namespace, message.name)


def _named(namespace: str, name: str) -> tuple[str, str]:
    """Both are parts of a file's name."""
    return names.label(namespace, "namespace"), names.subdomain(name, "name")


def encode_kept(pods: Sequence[KeptPod], problem: str) -> pb.ListKeptPodsResponse:
    return pb.ListKeptPodsResponse(pods=map(_pod, pods), problem=problem)


def _pod(pod: KeptPod) -> pb.KeptPod:
    order = pod.order
    return pb.KeptPod(
        namespace=order.namespace,
        name=order.name,
        uid=order.uid,
        pods_dir=order.pods_dir,
        manifest=order.manifest,
        wanted=pod.wanted,
        since=pod.since,
        phase=pod.phase,
        message=pod.message,
        pod_sandbox_id=pod.sandbox,
        until=pod.until,
        containers=map(_container, pod.containers),
    )


def _container(one: KeptContainer) -> pb.KeptContainer:
    return pb.KeptContainer(
        name=one.name,
        id=one.id,
        state=one.state,
        message=one.message,
        ready=one.ready,
        restarts=one.restarts,
        exit_code=one.exit_code,
        until=one.until,
    )
