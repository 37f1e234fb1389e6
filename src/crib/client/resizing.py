"""Other limits for a container, and with it for its pod.

The limits of a pod that `crib run` made are the sum of its containers' (`manifest.pod_resources`), so they
follow. Others stay as they are: those of a kubelet's pods, and what a manifest says of the pod as a whole.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.client import attempts, lookup
from crib.client.errors import ClientError, NotOffered
from crib.manifest.pod_resources import Portion, of_linux, pod_amounts
from crib.manifest.quantity import PERIOD
from crib.manifest.resources import linux_resources
from crib.stubs.runtime.v1.api_pb2 import (
    LinuxContainerResources,
    UpdateContainerResourcesRequest,
    UpdatePodSandboxResourcesRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from crib.client.connection import Connection
    from crib.stubs.runtime.v1.api_pb2 import Container, ContainerConfig

_NO_LIMIT = -1
_UNLIMITED = 1 << 63


@dataclass(frozen=True, slots=True)
class _Limits:
    """Those of a pod that are added up; 0: no limit. The quota is one of `quantity.PERIOD`."""

    cpu_shares: int
    cpu_quota: int
    memory: int

    @classmethod
    def of(cls, found: LinuxContainerResources) -> _Limits:
        return cls(found.cpu_shares, max(found.cpu_quota, 0), max(found.memory_limit_in_bytes, 0))

    @classmethod
    def sum_of(cls, shares: Iterable[Portion]) -> _Limits:
        return cls.of(linux_resources(pod_amounts(shares)))

    def following(self, before: _Limits, after: _Limits) -> _Limits:
        """These, with those that were the sum `before` as they are in the sum `after`."""
        return _Limits(
            *(
                new if now == old else now
                for now, old, new in zip(self._values(), before._values(), after._values(), strict=True)
            )
        )

    def or_more(self, other: _Limits) -> _Limits:
        """The looser of each."""
        return _Limits(
            max(self.cpu_shares, other.cpu_shares),
            _looser(self.cpu_quota, other.cpu_quota),
            _looser(self.memory, other.memory),
        )

    def message(self, base: LinuxContainerResources) -> LinuxContainerResources:
        """`base`, with these; what has no limit is said to have none."""
        made = LinuxContainerResources()
        made.CopyFrom(base)
        made.cpu_shares = self.cpu_shares
        made.cpu_period = base.cpu_period or PERIOD
        made.cpu_quota = self.cpu_quota or _NO_LIMIT
        made.memory_limit_in_bytes = self.memory or _NO_LIMIT
        return made

    def _values(self) -> tuple[int, int, int]:
        return self.cpu_shares, self.cpu_quota, self.memory


def _looser(one: int, other: int) -> int:
    most = max(one or _UNLIMITED, other or _UNLIMITED)
    return 0 if most == _UNLIMITED else most


async def update_container(
    connection: Connection, container: Container, change: LinuxContainerResources
) -> None:
    """Change the container's limits; the runtime leaves what `change` does not name."""
    wanted = await _in_force(connection, container)
    async with contextlib.AsyncExitStack() as stack:
        if wanted is not None:
            wanted.MergeFrom(change)
            await stack.enter_async_context(_pod_following(connection, container, wanted))
        request = UpdateContainerResourcesRequest(container_id=container.id, linux=change)
        await connection.call(connection.runtime.UpdateContainerResources, request)


@contextlib.asynccontextmanager
async def next_attempt(connection: Connection, pod: str, config: ContainerConfig) -> AsyncIterator[None]:
    """While inside, a container of the pod is made again, perhaps with other limits than those in force."""
    before = lookup.latest(await lookup.containers(connection, pod)).get(config.metadata.name)
    known = await _in_force(connection, before) if before is not None else None
    wanted = config.linux.resources
    async with contextlib.AsyncExitStack() as stack:
        if before is not None and known is not None and of_linux(known) != of_linux(wanted):
            await stack.enter_async_context(_pod_following(connection, before, wanted))
        yield


@contextlib.asynccontextmanager
async def _pod_following(
    connection: Connection, container: Container, wanted: LinuxContainerResources
) -> AsyncIterator[None]:
    """While inside, the container's limits become `wanted`.

    A pod grows before and shrinks after, so that its limits never keep a container from its own. If the
    change fails, the pod's are as before.
    """
    pod = container.pod_sandbox_id
    base = await _followed(connection, pod)
    if base is None:
        yield
        return
    shares = await _shares(connection, pod)
    changed = {**shares, container.metadata.name: Portion(of_linux(wanted), lookup.is_init(container))}
    now = _Limits.of(base)
    then = now.following(_Limits.sum_of(shares.values()), _Limits.sum_of(changed.values()))
    meanwhile = now.or_more(then)
    if meanwhile != now:
        await _limit(connection, pod, meanwhile.message(base))
    try:
        yield
    except BaseException:
        if meanwhile != now:
            with contextlib.suppress(ClientError):  # it is only looser than it has to be
                await _limit(connection, pod, now.message(base))
        raise
    if then != meanwhile:
        await _limit(connection, pod, then.message(base))


async def _followed(connection: Connection, pod: str) -> LinuxContainerResources | None:
    """The limits in force of a pod whose cgroup is the runtime's; None where there is nothing to follow."""
    try:
        config = await attempts.sandbox_config(connection, pod)
    except NotOffered:
        return None
    if config.linux.cgroup_parent or not config.linux.resources.ByteSize():
        return None
    return config.linux.resources


async def _in_force(connection: Connection, container: Container) -> LinuxContainerResources | None:
    """None from a runtime that does not tell."""
    with contextlib.suppress(NotOffered):
        return (await attempts.container_config(connection, container.id)).linux.resources
    return None


async def _shares(connection: Connection, pod: str) -> dict[str, Portion]:
    found = {}
    for name, one in lookup.latest(await lookup.containers(connection, pod)).items():
        limits = await _in_force(connection, one) or LinuxContainerResources()
        found[name] = Portion(of_linux(limits), lookup.is_init(one))
    return found


async def _limit(connection: Connection, pod: str, limits: LinuxContainerResources) -> None:
    request = UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod, resources=limits)
    with contextlib.suppress(NotOffered):  # such a runtime limits no pods
        await connection.call(connection.runtime.UpdatePodSandboxResources, request)
