"""`crib explain`: the OCI spec of a manifest's or a pod's containers, each field with its origin."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from crib.cli.options import Format
from crib.cli.origin_rows import rows
from crib.cli.output import clean, document, short_id, table
from crib.cli.pod_images import PodImages
from crib.cli.run import plans_of
from crib.cli.session import CommandError, say
from crib.client import lookup
from crib.client.errors import Ambiguous, NotFound
from crib.client.explain import explain_container, explain_plan

if TYPE_CHECKING:
    from crib.cli.manifest import PodPlan
    from crib.cli.options import ExplainSpecOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.node.v1.node_pb2 import ExplainContainerResponse

_COLUMNS = ("FIELD", "VALUE", "ORIGIN")


async def explain(session: CliSession, options: ExplainSpecOptions) -> None:
    """Show every container of a manifest or pod, or the one that is named.

    NotOffered from runtimes without crib's Node service.
    """
    if options.target == "-" or os.path.isfile(options.target):
        plans = plans_of(session, [options.target])
        async with session.connect() as connection:
            found = [
                explained
                for plan in plans
                for explained in await _of_plan(connection, plan, options.container)
            ]
        if not found:
            raise CommandError(f"{options.target} has no container {options.container!r}")
    else:
        async with session.connect() as connection:
            found = await _existing(connection, options.target, options.container)
    if options.output is not Format.TABLE:
        document(found, options.output)
        return
    for number, explained in enumerate(found):
        if number:
            print()
        _print(explained)


async def _of_plan(connection: Connection, plan: PodPlan, wanted: str) -> list[dict[str, Any]]:
    for note in plan.notes:
        say(f"note: {plan.label}: {note}")
    await PodImages(connection, plan, may_pull=False).bring()
    return [
        _told(
            plan.label,
            container.name,
            await explain_plan(connection, plan.sandbox, container.config, plan.handler),
        )
        for container in plan.every_container()
        if wanted in ("", container.name)
    ]


async def _existing(connection: Connection, target: str, wanted: str) -> list[dict[str, Any]]:
    """One container, or all of a pod."""
    if wanted:
        chosen = [await lookup.find_container(connection, target, wanted)]
    else:
        try:
            pod = await lookup.find_pod(connection, target)
        except Ambiguous:
            raise
        except NotFound:
            chosen = [await lookup.find_container(connection, target)]
        else:
            containers = await lookup.containers(connection, pod.id)
            if not containers:
                raise NotFound(f"pod {lookup.pod_label(pod)} has no containers")
            chosen = [lookup.Found(pod, container) for container in containers]
    return [
        _told(
            f"{found.pod.metadata.namespace}/{found.pod.metadata.name}",
            found.container.metadata.name,
            await explain_container(connection, found.container.id),
        )
        for found in chosen
    ]


def _told(pod: str, name: str, reply: ExplainContainerResponse) -> dict[str, Any]:
    is_there = bool(reply.container_id.strip("0"))
    return {
        "pod": pod,
        "container": name,
        "containerId": reply.container_id if is_there else "",
        "handler": reply.handler,
        "spec": json.loads(reply.spec),
        "origins": dict(sorted(reply.origins.items())),
    }


def _print(explained: dict[str, Any]) -> None:
    identifier = explained["containerId"]
    which = short_id(identifier) if identifier else "not made"
    heading = f"container {explained['container']} of pod {explained['pod']} ({which})"
    print(clean(f"{heading}, handler {explained['handler']}"))
    table(_COLUMNS, rows(explained["spec"], explained["origins"]))
