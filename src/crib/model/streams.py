"""Streams into containers and pods: what Exec, Attach and PortForward ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crib.model.ids import ContainerId, SandboxId


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Columns and rows of a terminal; 0 for one that is not known (tty_ioctl(4))."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ExecProcess:
    """A command to run in a container with the streams that are wanted. With `tty` there is no stderr."""

    argv: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    contained: bool = False
    """It must be possible to end the command with all that it started, also what called setsid(2)."""
    user: str = ""
    """NAME or UID, perhaps with :GROUP, of the container's own database; empty: the first process's."""
    envs: tuple[tuple[str, bytes], ...] = ()
    """They win over the first process's."""
    working_dir: str = ""
    """Absolute; empty: the first process's."""
    detached: bool = False
    """It reads nothing, what it writes is dropped, and it outlives this daemon."""


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """CRI ExecRequest, checked: the container runs."""

    container: ContainerId
    process: ExecProcess


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """CRI AttachRequest, checked: the container runs. `tty` is the container's own."""

    container: ContainerId
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@dataclass(frozen=True, slots=True)
class PodAddress:
    """Where a forwarded connection goes: a port in the pod's network namespace, or a unix socket.

    `path` is of a unix socket: absolute in the root of `container` (the name of one of the pod's containers).
    UDP and unix sockets are crib's own extension.
    """

    kind: Literal["tcp", "udp", "unix"]
    port: int = 0
    container: str = ""
    path: str = ""

    def __str__(self) -> str:
        return f"unix:{self.container}:{self.path}" if self.kind == "unix" else f"{self.kind}:{self.port}"


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """CRI PortForwardRequest, or that of crib's own Forward, checked: the sandbox is ready."""

    sandbox: SandboxId
    ports: tuple[int, ...] = ()
    """TCP ports, the only ones allowed; none: all."""
    beyond: tuple[PodAddress, ...] = ()
    """Of crib's own call: exactly these are allowed."""


StreamRequest = ExecRequest | AttachRequest | ForwardRequest
