"""What plugins are shown: pods and containers as the protocol has them (nri/pkg/api/api.proto)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from crib.backends.nri.translate_parts import (
    device_message,
    hooks_message,
    io_priority_message,
    limits_message,
    mount_message,
    namespace_messages,
    optional,
    rdt_message,
    rlimit_message,
    scheduler_message,
    seccomp_message,
)
from crib.model.container import ContainerRecord, ContainerState
from crib.model.edits import ContainerEdits
from crib.model.plugin_limits import change_of
from crib.model.plugins import ContainerUpdate, ShownContainer, ShownPod
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import ProfileType, Resources
from crib.ocispec.edits import with_edits
from crib.ocispec.edits_resources import with_limits
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci

_STATES = {
    ContainerState.CREATED: pb.CONTAINER_CREATED,
    ContainerState.RUNNING: pb.CONTAINER_RUNNING,
    ContainerState.EXITED: pb.CONTAINER_STOPPED,
    ContainerState.REMOVING: pb.CONTAINER_STOPPED,
}
"""While it is created, and where nothing is known of it, the state is CONTAINER_UNKNOWN."""
_PROFILES = {
    ProfileType.RUNTIME_DEFAULT: pb.SecurityProfile.RUNTIME_DEFAULT,
    ProfileType.UNCONFINED: pb.SecurityProfile.UNCONFINED,
    ProfileType.LOCALHOST: pb.SecurityProfile.LOCALHOST,
}


def pod_message(pod: ShownPod) -> pb.PodSandbox:
    """The pod as it is; where its spec is gone, without what only that tells."""
    record, config = pod.record, pod.record.config
    network = record.network
    return pb.PodSandbox(
        id=record.id,
        name=config.metadata.name,
        uid=config.metadata.uid,
        namespace=config.metadata.namespace,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.handler,
        pid=record.infra.pid if record.infra is not None else 0,
        ips=network.addresses if network is not None else (),
        linux=_pod_linux(pod),
    )


def _pod_linux(pod: ShownPod) -> pb.LinuxPodSandbox:
    record = pod.record
    linux = oci.decode_linux(pod.spec) if pod.spec else oci.Linux()
    return pb.LinuxPodSandbox(
        pod_overhead=resources_message(record.overhead or record.config.overhead),
        pod_resources=resources_message(record.resources or record.config.resources),
        cgroup_parent=record.config.cgroup_parent,
        cgroups_path=linux.cgroups_path,
        namespaces=namespace_messages(linux),
        resources=limits_message(linux.resources) if linux.resources is not None else None,
    )


def container_message(container: ShownContainer, edits: Sequence[ContainerEdits] = ()) -> pb.Container:
    """The container as it is. While it is created `edits` are those of the plugins that were asked before."""
    record = container.record
    spec = _shown(container, edits)
    config, process = record.config, spec.process
    return pb.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        name=config.name,
        state=_STATES.get(record.state, pb.CONTAINER_UNKNOWN),
        labels=config.labels,
        annotations=spec.annotations,
        args=process.args,
        env=process.env,
        mounts=map(mount_message, spec.mounts),
        hooks=hooks_message(spec.hooks or oci.Hooks()),
        linux=_linux(record, spec, edits),
        pid=record.process.pid if record.process is not None else 0,
        rlimits=map(rlimit_message, process.rlimits),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        status_reason=record.reason,
        status_message=record.message,
        CDI_devices=[pb.CDIDevice(name=name) for name in config.cdi_devices],
        user=pb.User(
            uid=process.user.uid, gid=process.user.gid, additional_gids=process.user.additional_gids
        ),
        image=_image(record),
    )


def _shown(container: ShownContainer, edits: Sequence[ContainerEdits]) -> oci.Spec:
    """The spec with the limits that are in force, all annotations, and what plugins have made of it so far.

    On cgroup v2 a spec has some limits as files only. Plugins are to see shares and swap as such.
    """
    record = container.record
    spec = _read(container.spec) or _unmade(record)
    in_force = record.resources.beyond.over(change_of(record.resources))
    limits = with_limits(spec.linux.resources or oci.Resources(), in_force)
    spec = msgspec.structs.replace(
        spec,
        annotations={**record.config.annotations, **spec.annotations},
        linux=msgspec.structs.replace(spec.linux, resources=limits),
    )
    for one in edits:
        spec = with_edits(spec, one)
    return spec


def _read(document: bytes) -> oci.Spec | None:
    """None where it is gone; and where an administrator's base spec has brought what no spec has."""
    try:
        return oci.decode_spec(document) if document else None
    except ValueError:
        return None


def _unmade(record: ContainerRecord) -> oci.Spec:
    """Of a container whose spec is gone: what its record tells."""
    user = record.user
    identity = oci.User(user.uid, user.gid, user.supplemental_groups) if user else oci.User(0, 0)
    args = (*record.config.command, *record.config.args)
    return oci.Spec("", oci.Process(identity, args, record.config.working_dir), oci.Root(""), oci.Linux())


def _image(record: ContainerRecord) -> pb.Image:
    _, at, digest = record.image_ref.rpartition("@")
    return pb.Image(
        name=record.config.user_specified_image or record.config.image,
        digest=digest if at else "",
        config_digest=record.image_id,
    )


def _linux(record: ContainerRecord, spec: oci.Spec, edits: Sequence[ContainerEdits]) -> pb.LinuxContainer:
    linux, process, profile = spec.linux, spec.process, record.config.security.seccomp
    limits = limits_message(linux.resources or oci.Resources())
    for one in edits:
        if one.resources.blockio_class is not None:
            limits.blockio_class.value = one.resources.blockio_class
        if one.resources.rdt_class is not None:
            limits.rdt_class.value = one.resources.rdt_class
    message = pb.LinuxContainer(
        namespaces=namespace_messages(linux),
        devices=map(device_message, linux.devices),
        resources=limits,
        oom_score_adj=optional(pb.OptionalInt, process.oom_score_adj),
        cgroups_path=linux.cgroups_path,
        io_priority=io_priority_message(process.io_priority),
        seccomp_policy=seccomp_message(linux.seccomp),
        sysctl=linux.sysctl,
        net_devices={name: pb.LinuxNetDevice(name=one.name) for name, one in linux.net_devices.items()},
        scheduler=scheduler_message(process.scheduler),
        rdt=rdt_message(linux.intel_rdt),
    )
    if profile is not None:
        message.seccomp_profile.profile_type = _PROFILES[profile.kind]
        message.seccomp_profile.localhost_ref = profile.localhost_ref
    return message


def resources_message(resources: Resources | None) -> pb.LinuxResources | None:
    """What the CRI asks for, of a pod or of a container; None where it says nothing."""
    return None if resources is None else change_message(change_of(resources))


def change_message(change: ResourceChange) -> pb.LinuxResources:
    """What is to change."""
    memory = oci.Memory(
        limit=change.memory_limit or None,
        reservation=change.memory_reservation,
        swap=change.memory_swap,
        kernel=change.memory_kernel,
        kernel_tcp=change.memory_kernel_tcp,
        swappiness=change.memory_swappiness,
        disable_oom_killer=change.memory_disable_oom_killer,
        use_hierarchy=change.memory_use_hierarchy,
    )
    cpu = oci.Cpu(
        shares=change.cpu_shares,
        quota=change.cpu_quota,
        period=change.cpu_period,
        realtime_runtime=change.cpu_realtime_runtime,
        realtime_period=change.cpu_realtime_period,
        cpus=change.cpuset_cpus or "",
        mems=change.cpuset_mems or "",
    )
    pages = tuple(oci.HugepageLimit(size, limit) for size, limit in change.hugepage_limits.items())
    pids = None if change.pids_limit is None else oci.Pids(change.pids_limit)
    unified = dict(change.unified)
    message = limits_message(
        oci.Resources(memory=memory, cpu=cpu, hugepage_limits=pages, pids=pids, unified=unified)
    )
    for name, class_ in (("blockio_class", change.blockio_class), ("rdt_class", change.rdt_class)):
        if class_ is not None:
            getattr(message, name).value = class_
    return message


def update_message(update: ContainerUpdate) -> pb.ContainerUpdate:
    """A plugin's update, as it is told back when it fails and to validators."""
    return pb.ContainerUpdate(
        container_id=update.container,
        linux=pb.LinuxContainerUpdate(resources=change_message(update.change)),
        ignore_failure=update.ignore_failure,
    )
