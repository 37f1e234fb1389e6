"""Ids of the node for the users of pods that have a user namespace (`hostUsers: false`).

A kubelet keeps books of them. Here the pods that are there are the books: a new pod gets a range that none of
them has. Two that are made at the same moment begin to look at different places; should they choose the same
range all the same, crib refuses the second one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client import pods as client_pods
from crib.client.errors import NotFound, PodFailure
from crib.manifest.late import FIRST_IDS, IDS, LAST_IDS, has_own_users, ids_from, with_ids
from crib.stubs.runtime.v1.api_pb2 import UserNamespace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crib.client.connection import Connection
    from crib.manifest.plan import PodPlan
    from crib.stubs.runtime.v1.api_pb2 import IDMapping

_RANGES = (LAST_IDS - FIRST_IDS) // IDS + 1


async def choose(connection: Connection, plan: PodPlan) -> PodPlan:
    """The pod with ids that no other pod has; itself where it uses the node's. ClientError."""
    if not has_own_users(plan.sandbox):
        return plan
    taken: set[int] = set()
    for pod in await lookup.pods(connection):
        if pod.metadata.uid != plan.uid:  # what an earlier sandbox of the pod has is the pod's
            users = await _users(connection, pod.id)
            taken |= _ranges(users.uids) | _ranges(users.gids)
    # By the uid, so that a pod that is made again gets the same ones where they are still free.
    first = int.from_bytes(hashlib.sha256(plan.uid.encode()).digest()[:8], "big") % _RANGES
    for step in range(_RANGES):
        place = (first + step) % _RANGES
        if place not in taken:
            return with_ids(plan, ids_from(FIRST_IDS + place * IDS))
    raise PodFailure(f"pod {plan.label}: all {_RANGES} ranges of user ids are in use")


async def as_made(connection: Connection, plan: PodPlan, sandbox_id: str) -> PodPlan:
    """The pod with the ids that its sandbox has. Those of the first range where that has none of its own."""
    if not has_own_users(plan.sandbox):
        return plan
    users = await _users(connection, sandbox_id)
    return with_ids(plan, users if users.uids else ids_from(FIRST_IDS))


async def _users(connection: Connection, sandbox_id: str) -> UserNamespace:
    try:
        status = await client_pods.sandbox_status(connection, sandbox_id)
    except NotFound:  # it has gone meanwhile
        return UserNamespace()
    return status.linux.namespaces.options.userns_options


def _ranges(mappings: Iterable[IDMapping]) -> set[int]:
    """Numbers of the ranges that they touch."""
    return {
        number
        for one in mappings
        for number in range(
            (one.host_id - FIRST_IDS) // IDS, (one.host_id + one.length - 1 - FIRST_IDS) // IDS + 1
        )
    }
