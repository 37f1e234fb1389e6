"""What Exec, Attach and PortForward ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crib.api.translate import checks, containers, limits
from crib.model.ids import ContainerId, SandboxId
from crib.model.streams import AttachRequest, ExecProcess, ForwardRequest, PodAddress
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb

MAX_PORT = 65535
MAX_DIGITS = 5


@dataclass(frozen=True, slots=True)
class ExecOrder:
    """CRI ExecRequest; `container` may be the beginning of an id."""

    container: str
    process: ExecProcess


@dataclass(frozen=True, slots=True)
class AttachOrder:
    """CRI AttachRequest; `streams.container` is not known yet."""

    container: str
    streams: AttachRequest


@dataclass(frozen=True, slots=True)
class ForwardOrder:
    """CRI PortForwardRequest, or crib's ForwardRequest; `connections.sandbox` is not known yet."""

    sandbox: str
    connections: ForwardRequest


def decode_exec(message: pb.ExecRequest, above: str = "") -> ExecOrder:
    """`above` is the field that the message is in, with a dot at its end."""
    container = checks.identifier(message.container_id, f"{above}container_id")
    argv = checks.words(message.cmd, f"{above}cmd")
    if not argv or not argv[0]:
        checks.refuse(f"{above}cmd", "is empty")
    process = ExecProcess(argv, message.tty, message.stdin, message.stdout, message.stderr)
    return ExecOrder(container, process)


def decode_exec_as(message: node_pb2.ExecAsRequest) -> ExecOrder:
    """Crib's own."""
    return _differently(decode_exec(message.exec, "exec."), message)


def decode_exec_detached(message: node_pb2.ExecDetachedRequest) -> ExecOrder:
    """The same, of a command without streams."""
    plain = pb.ExecRequest(container_id=message.container_id, cmd=message.cmd)
    return _differently(decode_exec(plain), message)


def _differently(
    order: ExecOrder, message: node_pb2.ExecAsRequest | node_pb2.ExecDetachedRequest
) -> ExecOrder:
    directory = message.working_dir
    process = replace(
        order.process,
        user=checks.no_nul(checks.short(message.user, limits.MAX_LINE, "user"), "user"),
        envs=containers.envs(message.envs, "envs"),
        working_dir=directory and checks.absolute(directory, "working_dir"),
    )
    return replace(order, process=process)


def decode_attach(message: pb.AttachRequest) -> AttachOrder:
    container = checks.identifier(message.container_id, "container_id")
    streams = AttachRequest(ContainerId(""), message.tty, message.stdin, message.stdout, message.stderr)
    return AttachOrder(container, streams)


def decode_port_forward(message: pb.PortForwardRequest) -> ForwardOrder:
    asked = checks.at_most(message.port, limits.MAX_STREAM_PORTS, "port")
    ports = tuple(checks.number(port, 1, MAX_PORT, f"port[{number}]") for number, port in enumerate(asked))
    sandbox = checks.identifier(message.pod_sandbox_id, "pod_sandbox_id")
    return ForwardOrder(sandbox, ForwardRequest(SandboxId(""), ports))


def decode_forward(message: node_pb2.ForwardRequest) -> ForwardOrder:
    """Crib's own: `targets` are texts as crib.v1 says."""
    asked = checks.at_most(message.targets, limits.MAX_STREAM_PORTS, "targets")
    if not asked:
        checks.refuse("targets", "is empty")
    targets = tuple(_target(text, f"targets[{number}]") for number, text in enumerate(asked))
    sandbox = checks.identifier(message.pod_sandbox_id, "pod_sandbox_id")
    return ForwardOrder(sandbox, ForwardRequest(SandboxId(""), beyond=targets))


def _target(text: str, field: str) -> PodAddress:
    kind, _, rest = checks.no_nul(text, field).partition(":")
    if kind == "unix":
        container, _, path = rest.partition(":")
        if not checks.path(path, field).startswith("/"):
            checks.refuse(field, f"{path!r} is not an absolute path")
        return PodAddress("unix", container=checks.name(container, field), path=path)
    if kind not in ("tcp", "udp") or not (rest.isascii() and rest.isdecimal() and len(rest) <= MAX_DIGITS):
        checks.refuse(field, f"is {text[:100]!r}, not tcp:PORT, udp:PORT or unix:CONTAINER:/PATH")
    return PodAddress("udp" if kind == "udp" else "tcp", checks.number(int(rest), 1, MAX_PORT, field))
