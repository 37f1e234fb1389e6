"""What a manifest says of a pod's behaviour once it runs: probes, hooks, restarts. Plain values.

`crib.supervisor` acts on them. Times are in seconds; a port is a number, whatever the manifest called it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

RestartPolicy = Literal["Always", "OnFailure", "Never"]


@dataclass(frozen=True, slots=True)
class ExecAction:
    """Run a command in the container; it is well when that exits with 0."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HttpAction:
    """GET; it is well with a status from 200 to 399. An empty `host` is the pod's address."""

    port: int
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpAction:
    """Connect; it is well when that succeeds. An empty `host` is the pod's address."""

    port: int
    host: str = ""


@dataclass(frozen=True, slots=True)
class GrpcAction:
    """Ask grpc.health.v1.Health; it is well when `service` is SERVING."""

    port: int
    service: str = ""


@dataclass(frozen=True, slots=True)
class SleepAction:
    """Wait."""

    seconds: int


ProbeAction: TypeAlias = ExecAction | HttpAction | TcpAction | GrpcAction
HookAction: TypeAlias = ExecAction | HttpAction | SleepAction


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """How a container is asked how it is. The defaults are Kubernetes' own.

    `grace` replaces the pod's grace period when the container is stopped because of this probe.
    """

    action: ProbeAction
    initial_delay: int = 0
    timeout: int = 1
    period: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class RestartRule:
    """An exit code that restarts the container whatever its policy says: one of `codes`, or none of them."""

    codes: frozenset[int]
    among: bool

    def holds(self, exit_code: int) -> bool:
        return (exit_code in self.codes) == self.among


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of one container. `restart` is its own policy, else the pod's; a sidecar's is Always."""

    restart: RestartPolicy = "Always"
    rules: tuple[RestartRule, ...] = ()
    startup: ProbePlan | None = None
    liveness: ProbePlan | None = None
    readiness: ProbePlan | None = None
    post_start: HookAction | None = None
    pre_stop: HookAction | None = None

    def restarts_after(self, exit_code: int) -> bool:
        """Whether a container that ended by itself with this code is started again."""
        if any(rule.holds(exit_code) for rule in self.rules):
            return True
        return self.restart == "Always" or (self.restart == "OnFailure" and exit_code != 0)


@dataclass(frozen=True, slots=True)
class PodBehaviour:
    """Of the pod as a whole. `deadline` is how long it may be active; None: for ever."""

    restart: RestartPolicy = "Always"
    grace: int = 30
    deadline: int | None = None
