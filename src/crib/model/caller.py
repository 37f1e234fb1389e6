"""Who made a call, as far as it can be known, and what the call is about."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that is connected to the socket, as the kernel tells (SO_PEERCRED)."""

    pid: int
    """0 where our pid namespace does not have it."""
    uid: int
    executable: str = ""
    """Path in the process's own mount namespace; empty where it could not be read for sure."""

    def __str__(self) -> str:
        program = f" {self.executable}" if self.executable else ""
        return f"pid {self.pid}{program} of uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of one call."""

    agent: str = ""
    """What the client calls itself (gRPC's user-agent); kubelet and crictl have that of their library."""
    request: str = ""
    """Id of the call in our log; empty for what no call caused."""
    peers: tuple[Peer, ...] = ()
    """Who was connected during the call, and one of them made it. None: nobody looked, or it had gone."""

    def __str__(self) -> str:
        """For a person."""
        agent = self.agent or "a client without a name"
        if not self.request:
            return "cribd"
        if not self.peers:
            return f"{agent} (request {self.request})"
        if len(self.peers) == 1:
            return f"{self.peers[0]} (request {self.request}, {agent})"
        among = "; ".join(map(str, self.peers))
        return f"one of {len(self.peers)} peers: {among} (request {self.request}, {agent})"


@dataclass(frozen=True, slots=True)
class CallObject:
    """What a call is about, as far as its request and the records say."""

    pod: str = ""
    """NAMESPACE/NAME."""
    sandbox: str = ""
    """Id of the pod sandbox."""
    container: str = ""
    """Id of the container."""
    name: str = ""
    """Of the container."""
    image: str = ""
    """As the request names it."""
    path: str = ""
    """Of an archive on this node."""

    @property
    def title(self) -> str:
        """NAMESPACE/NAME of the pod, and /CONTAINER; empty where that is not known."""
        return f"{self.pod}/{self.name}" if self.pod and self.name else self.pod

    def known(self) -> dict[str, str]:
        """What is known of it, by the names of the fields."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One call that was to change something, and what became of it."""

    verb: str
    caller: Caller
    trace: str
    """Id of the trace that the caller counts it to; or empty."""
    object: CallObject
    at: int
    duration: int
    """Nanoseconds."""
    code: str
    """Name of the gRPC status that it was answered with; CANCELLED where nobody waited for an answer."""
    error: str = ""
