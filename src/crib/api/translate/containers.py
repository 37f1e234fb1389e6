"""Containers: the message of CreateContainer to a ContainerConfig; records and events to messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from crib.api.translate import checks, images, limits, mounts, sandboxes, security
from crib.api.translate.sandboxes import StatusQuery
from crib.model.container import (
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    Device,
    ExecCommand,
    ExecResult,
)
from crib.model.events import ContainerEvent
from crib.model.sandbox import Resources
from crib.model.signals import CRI_SIGNALS, cri_signal
from crib.stubs.runtime.v1 import api_pb2 as pb

_CDI = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*=[A-Za-z0-9][A-Za-z0-9._:-]*")
_NO_DEVICES = ("/proc/", "/sys/")
_STATES = {
    ContainerState.CREATED: pb.ContainerState.CONTAINER_CREATED,
    ContainerState.RUNNING: pb.ContainerState.CONTAINER_RUNNING,
    ContainerState.EXITED: pb.ContainerState.CONTAINER_EXITED,
}
MAX_TIMEOUT = 10 * 365 * 24 * 3600
"""Seconds: longer waits are mistakes, and must not overflow a clock."""
MAX_OUTPUT = (16 << 20) - 64
"""Bytes of stdout and stderr together.

The CRI allows 16 MiB for each, and its clients refuse a message of more than 16 MiB (Kubernetes,
cri-client/pkg/utils.go, maxMsgSize): of an answer that is longer they would get nothing.
"""


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """CRI CreateContainerRequest."""

    sandbox_id: str
    config: ContainerConfig


@dataclass(frozen=True, slots=True)
class StopOrder:
    """CRI StopContainerRequest; `timeout` is seconds before SIGKILL."""

    id: str
    timeout: int


@dataclass(frozen=True, slots=True)
class ExecSyncOrder:
    """CRI ExecSyncRequest."""

    id: str
    command: ExecCommand


@dataclass(frozen=True, slots=True)
class UpdateOrder:
    """CRI UpdateContainerResourcesRequest; 0 and "" in `change` leave a limit unchanged."""

    id: str
    change: Resources


@dataclass(frozen=True, slots=True)
class ContainerFilter:
    """CRI ContainerFilter; ids may be the beginnings of one, None matches every state."""

    id: str = ""
    state: int | None = None
    sandbox_id: str = ""
    labels: Mapping[str, str] | None = None

    def matches(self, record: ContainerRecord) -> bool:
        if self.id and not record.id.startswith(self.id):
            return False
        if self.sandbox_id and not record.sandbox_id.startswith(self.sandbox_id):
            return False
        if self.state is not None and state(record) != self.state:
            return False
        return not self.labels or self.labels.items() <= record.config.labels.items()


def decode_create(message: pb.CreateContainerRequest) -> CreateOrder:
    sandbox = checks.identifier(message.pod_sandbox_id, "pod_sandbox_id")
    if not message.HasField("config"):
        checks.refuse("config", "is missing")
    return CreateOrder(sandbox, config(message.config, "config"))


def decode_id(
    message: pb.StartContainerRequest
    | pb.RemoveContainerRequest
    | pb.ReopenContainerLogRequest
    | pb.ContainerStatsRequest,
) -> str:
    return checks.identifier(message.container_id, "container_id")


def decode_stop(message: pb.StopContainerRequest) -> StopOrder:
    return StopOrder(
        checks.identifier(message.container_id, "container_id"),
        checks.number(message.timeout, 0, MAX_TIMEOUT, "timeout"),
    )


def decode_status(message: pb.ContainerStatusRequest) -> StatusQuery:
    return StatusQuery(checks.identifier(message.container_id, "container_id"), message.verbose)


def decode_update(message: pb.UpdateContainerResourcesRequest) -> UpdateOrder:
    container = checks.identifier(message.container_id, "container_id")
    return UpdateOrder(container, security.resources(message.linux, "linux"))


def decode_exec_sync(message: pb.ExecSyncRequest) -> ExecSyncOrder:
    container = checks.identifier(message.container_id, "container_id")
    argv = checks.words(message.cmd, "cmd")
    if not argv or not argv[0]:
        checks.refuse("cmd", "is empty")
    timeout = checks.number(message.timeout, 0, MAX_TIMEOUT, "timeout")
    return ExecSyncOrder(container, ExecCommand(argv, timeout))


def encode_exec_sync(result: ExecResult) -> pb.ExecSyncResponse:
    """Cut at the end so that it fits into one message; neither stream crowds out the other."""
    stderr = result.stderr[: max(MAX_OUTPUT // 2, MAX_OUTPUT - len(result.stdout))]
    stdout = result.stdout[: MAX_OUTPUT - len(stderr)]
    return pb.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.exit_code)


def decode_list(message: pb.ListContainersRequest | pb.StreamContainersRequest) -> ContainerFilter | None:
    """None when everything is asked for."""
    if not message.HasField("filter"):
        return None
    wanted = message.filter
    return ContainerFilter(
        id=checks.prefix(wanted.id, "filter.id"),
        state=wanted.state.state if wanted.HasField("state") else None,
        sandbox_id=checks.prefix(wanted.pod_sandbox_id, "filter.pod_sandbox_id"),
        labels=checks.selector(wanted.label_selector, "filter"),
    )


def config(message: pb.ContainerConfig, field: str) -> ContainerConfig:
    """CRI ContainerConfig."""
    if not message.HasField("metadata"):
        checks.refuse(f"{field}.metadata", "is missing")
    if not message.image.image:
        checks.refuse(f"{field}.image.image", "is empty")
    checks.size(message, field)
    checks.labels(message.labels, message.annotations, field)
    linux = message.linux
    log_path, working_dir = message.log_path, message.working_dir
    return ContainerConfig(
        name=checks.name(message.metadata.name, f"{field}.metadata.name"),
        attempt=message.metadata.attempt,
        image=images.name(message.image.image, f"{field}.image.image"),
        user_specified_image=images.name(
            message.image.user_specified_image, f"{field}.image.user_specified_image"
        ),
        command=checks.words(message.command, f"{field}.command"),
        args=checks.words(message.args, f"{field}.args"),
        # a relative path counts from the root, as in crun (runc refuses it)
        working_dir=working_dir and checks.absolute(f"/{working_dir.lstrip('/')}", f"{field}.working_dir"),
        envs=envs(message.envs, f"{field}.envs"),
        mounts=mounts.decode_all(message.mounts, f"{field}.mounts", message.annotations),
        devices=_devices(message.devices, f"{field}.devices"),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        log_path=log_path and checks.inside(log_path, f"{field}.log_path"),
        stdin=message.stdin,
        stdin_once=message.stdin_once,
        tty=message.tty,
        resources=security.resources(linux.resources, f"{field}.linux.resources"),
        security=security.container_security(linux.security_context, f"{field}.linux.security_context"),
        cdi_devices=_cdi_devices(message.CDI_devices, f"{field}.CDI_devices"),
        stop_signal=checks.number(message.stop_signal, 0, len(CRI_SIGNALS) - 1, f"{field}.stop_signal"),
    )


def envs(messages: Sequence[pb.KeyValue], field: str) -> tuple[tuple[str, bytes], ...]:
    """A name that comes twice is left to the last one, as with Kubernetes."""
    found: dict[str, bytes] = {}
    for index, message in enumerate(checks.at_most(messages, limits.MAX_ENVS, field)):
        key, value = message.key, message.value
        if not key or "=" in key or "\0" in key:
            checks.refuse(f"{field}[{index}].key", f"{key[:100]!r} is empty or has a '=' or NUL in it")
        if len(key) + len(value) > limits.MAX_WORD:
            checks.refuse(f"{field}[{index}]", f"takes more than {limits.MAX_WORD} bytes")
        if b"\0" in value:
            checks.refuse(f"{field}[{index}].value", f"of {key[:100]} contains a NUL")
        found[key] = value
    return tuple(found.items())


def _devices(messages: Sequence[pb.Device], field: str) -> tuple[Device, ...]:
    found: list[Device] = []
    for index, message in enumerate(checks.at_most(messages, limits.MAX_DEVICES, field)):
        where = f"{field}[{index}]"
        permissions = message.permissions or "rwm"
        if not set(permissions) <= set("rwm"):
            checks.refuse(f"{where}.permissions", f"{permissions[:100]!r} has letters other than r, w and m")
        path = checks.absolute(message.container_path, f"{where}.container_path")
        if f"{path}/".startswith(_NO_DEVICES):
            checks.refuse(f"{where}.container_path", f"{path!r}: no node can be made in /proc or /sys")
        found.append(
            Device(
                container_path=path,
                host_path=checks.absolute(message.host_path, f"{where}.host_path"),
                permissions=permissions,
            )
        )
    checks.distinct((device.container_path for device in found), field, "container_path")
    return tuple(found)


def _cdi_devices(messages: Sequence[pb.CDIDevice], field: str) -> tuple[str, ...]:
    """One that comes twice (a kubelet sends that where two claims share a device) is meant once."""
    names = tuple(message.name for message in checks.at_most(messages, limits.MAX_DEVICES, field))
    for index, name in enumerate(names):
        checks.short(name, limits.MAX_LINE, f"{field}[{index}].name")
        if not _CDI.fullmatch(name):
            checks.refuse(f"{field}[{index}].name", f"{name!r} is not VENDOR/CLASS=DEVICE")
    return names


def state(record: ContainerRecord) -> pb.ContainerState.ValueType:
    """The CRI's state: a container that is half made or half removed is UNKNOWN."""
    return _STATES.get(record.state, pb.ContainerState.CONTAINER_UNKNOWN)


def metadata(record: ContainerRecord) -> pb.ContainerMetadata:
    return pb.ContainerMetadata(name=record.config.name, attempt=record.config.attempt)


def image_spec(record: ContainerRecord) -> pb.ImageSpec:
    """The name that the user gave, which is what kubelets compare and people look for."""
    wanted = record.config.user_specified_image
    return pb.ImageSpec(image=wanted or record.config.image, user_specified_image=wanted)


def encode(record: ContainerRecord) -> pb.Container:
    """The container as lists show it."""
    return pb.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=metadata(record),
        image=image_spec(record),
        image_ref=record.image_ref,
        state=state(record),
        created_at=record.created_at,
        labels=record.config.labels,
        annotations=record.config.annotations,
        image_id=record.image_id,
    )


def encode_status(record: ContainerRecord) -> pb.ContainerStatus:
    """In full."""
    finished = record.state == ContainerState.EXITED
    return pb.ContainerStatus(
        id=record.id,
        metadata=metadata(record),
        state=state(record),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=image_spec(record),
        image_ref=record.image_ref,
        reason=reason(record) if finished else record.reason,
        message=record.message,
        labels=record.config.labels,
        annotations=record.config.annotations,
        mounts=mounts.encode_all(record),
        log_path=record.log_path,
        resources=pb.ContainerResources(linux=encode_resources(record.resources)),
        image_id=record.image_id,
        user=_user(record),
        stop_signal=pb.Signal.ValueType(record.config.stop_signal or _signal(record.stop_signal)),
    )


def reason(record: ContainerRecord) -> str:
    """Why a container ended, in one word: the recorded reason (OOMKilled …), or one for its exit code."""
    return record.reason or ("Completed" if record.exit_code == 0 else "Error")


def encode_attributes(record: ContainerRecord) -> pb.ContainerAttributes:
    """The container as stats show it."""
    return pb.ContainerAttributes(
        id=record.id,
        metadata=metadata(record),
        labels=record.config.labels,
        annotations=record.config.annotations,
    )


def encode_resources(resources: Resources) -> pb.LinuxContainerResources:
    """The limits in force."""
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit_in_bytes,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[
            pb.HugepageLimit(page_size=size, limit=limit) for size, limit in resources.hugepage_limits.items()
        ],
        unified=resources.unified,
        memory_swap_limit_in_bytes=resources.memory_swap_limit_in_bytes,
    )


def _user(record: ContainerRecord) -> pb.ContainerUser | None:
    if record.user is None:
        return None
    user = record.user
    return pb.ContainerUser(
        linux=pb.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.supplemental_groups)
    )


@lru_cache(maxsize=128)
def _signal(number: int) -> int:
    return cri_signal(number)


def encode_event(event: ContainerEvent) -> pb.ContainerEventResponse:
    return pb.ContainerEventResponse(
        container_id=event.container_id,
        container_event_type=pb.ContainerEventType.ValueType(event.type),
        created_at=event.at,
        pod_sandbox_status=None if event.sandbox is None else sandboxes.encode_status(event.sandbox),
        containers_statuses=[encode_status(record) for record in event.containers],
    )
