"""`crib explain`: the OCI spec of containers in a manifest or a pod, each field with its origin.

In the table, neighbouring parts that have the same origin share a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from crib.cli.forms import Format
from crib.cli.output import clean, document, short_id, table
from crib.cli.run import plans_of, tell_notes
from crib.cli.session import CommandError
from crib.cli.tables import Shortening, TableColumn
from crib.client import lookup
from crib.client.errors import Ambiguous, NotFound
from crib.client.node import explain_container, explain_plan
from crib.client.workloads import mounted_volumes
from crib.client.workloads.images import PodImages
from crib.manifest import late
from crib.manifest.plan import Dirs

if TYPE_CHECKING:
    from crib.cli.options import ExplainSpecOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.manifest.plan import PodPlan
    from crib.stubs.node.v1.node_pb2 import ExplainContainerResponse

_COLUMNS = (TableColumn("FIELD", cut=Shortening.PATH), "VALUE", "ORIGIN")


async def explain(session: CliSession, options: ExplainSpecOptions) -> None:
    """Show every container of a manifest or pod, or the named one.

    NotOffered from runtimes without crib's Node service.
    """
    if options.target == "-" or os.path.isfile(options.target):
        read = plans_of(session, [options.target], options.extra or ())
        tell_notes(read)
        async with session.connect() as connection:
            found = [
                explained
                for plan in read.pods
                for explained in await _of_plan(connection, plan, options.container)
            ]
        if not found:
            raise CommandError(f"{options.target} has no container {options.container!r}")
    else:
        async with session.connect() as connection:
            dirs = Dirs(session.pods_dir)
            found = await _existing(connection, dirs, options.target, options.container)
    if options.output is not Format.TABLE:
        document(found, options.output)
        return
    for number, explained in enumerate(found):
        if number:
            print()
        _print(explained)


async def _of_plan(connection: Connection, plan: PodPlan, wanted: str) -> list[dict[str, Any]]:
    await PodImages(connection, plan, pull=None).bring()
    shown = late.shown(plan).every_container()
    return [
        _told(
            (plan.label, container.name),
            await explain_plan(connection, plan.sandbox, example.config, plan.handler),
            mounted_volumes.planned(plan, container),
        )
        for container, example in zip(plan.every_container(), shown, strict=True)
        if wanted in ("", container.name)
    ]


async def _existing(connection: Connection, dirs: Dirs, target: str, wanted: str) -> list[dict[str, Any]]:
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
            (
                f"{found.pod.metadata.namespace}/{found.pod.metadata.name}",
                found.container.metadata.name,
            ),
            await explain_container(connection, found.container.id),
            await mounted_volumes.mounted(connection, found.container.id, found.pod.metadata.uid, dirs),
        )
        for found in chosen
    ]


def _told(
    names: tuple[str, str], reply: ExplainContainerResponse, volumes: Mapping[str, str]
) -> dict[str, Any]:
    """`names` of the pod and the container; `volumes` by the field that asks for each."""
    of_volumes = {f"container {field}": f", volume {name}" for field, name in volumes.items()}
    is_there = bool(reply.container_id.strip("0"))
    return {
        "pod": names[0],
        "container": names[1],
        "containerId": reply.container_id if is_there else "",
        "handler": reply.handler,
        "spec": json.loads(reply.spec),
        "origins": {
            pointer: origin + of_volumes.get(origin, "") for pointer, origin in sorted(reply.origins.items())
        },
    }


def _print(explained: dict[str, Any]) -> None:
    identifier = explained["containerId"]
    which = short_id(identifier) if identifier else "not made"
    heading = f"container {explained['container']} of pod {explained['pod']} ({which})"
    print(clean(f"{heading}, handler {explained['handler']}"))
    table(_COLUMNS, rows(explained["spec"], explained["origins"]))


_WIDTH = 72
_TITLES = ("destination", "type", "path")
"""Fields that name an element of a list."""


def rows(spec: Mapping[str, Any], origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Field, value and origin. Long values are cut; JSON output has them in full."""
    found: list[tuple[str, str, str]] = []
    for part, value in spec.items():
        pointer = f"/{_escaped(part)}"
        if isinstance(value, (Mapping, list)):
            for key, title, child in _children(value):
                found += _rows_of(f"{pointer}/{key}", _joined(part, title), child, origins)
        else:
            found += _rows_of(pointer, part, value, origins)
    return found


def origin_of(pointer: str, origins: Mapping[str, str]) -> str:
    """The origin at the longest pointer that leads there."""
    while pointer not in origins and pointer:
        pointer = pointer.rpartition("/")[0]
    return origins.get(pointer, "")


def _rows_of(
    pointer: str, title: str, value: Any, origins: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    whole = _uniform(pointer, value, origins)
    if whole is not None:
        yield title, _short(_untitled(value, title)), whole
        return
    parts = [(f"{pointer}/{key}", name, child) for key, name, child in _children(value)]
    if isinstance(value, list):
        groups: dict[str | None, list[Any]] = {}
        for place, _, child in parts:
            groups.setdefault(_uniform(place, child, origins), []).append(child)
        if None not in groups:
            yield from ((title, _short(group), origin or "") for origin, group in groups.items())
            return
    if title.endswith("]") and isinstance(value, Mapping):  # an element: what has one origin stays together
        together: dict[str, dict[str, Any]] = {}
        for place, name, child in parts:
            if (origin := _uniform(place, child, origins)) is not None:
                together.setdefault(origin, {})[name] = child
        for origin, members in together.items():
            yield title, _short(_untitled(members, title)), origin
        parts = [part for part in parts if _uniform(part[0], part[2], origins) is None]
    for place, name, child in parts:
        yield from _rows_of(place, _joined(title, name), child, origins)


def _uniform(pointer: str, value: Any, origins: Mapping[str, str]) -> str | None:
    """The origin of everything in a value; None if there are several."""
    found = set(_origins_in(pointer, value, origins))
    return found.pop() if len(found) == 1 else None


def _origins_in(pointer: str, value: Any, origins: Mapping[str, str]) -> Iterator[str]:
    children = list(_children(value))
    if not children:
        yield origin_of(pointer, origins)
    for key, _, child in children:
        yield from _origins_in(f"{pointer}/{key}", child, origins)


def _children(value: Any) -> Iterator[tuple[str, str, Any]]:
    """For each child the step of the pointer, its name and the child."""
    if isinstance(value, Mapping):
        yield from ((_escaped(key), str(key), child) for key, child in value.items())
    elif isinstance(value, list):
        for position, child in enumerate(value):
            titles = [child[key] for key in _TITLES if key in child] if isinstance(child, Mapping) else []
            yield str(position), f"[{titles[0] if titles else position}]", child


def _joined(title: str, name: str) -> str:
    return f"{title}{name}" if name.startswith("[") else f"{title}.{name}"


def _untitled(value: Any, title: str) -> Any:
    """An element without the field that names it."""
    if not isinstance(value, Mapping) or not title.endswith("]"):
        return value
    return {key: item for key, item in value.items() if not title.endswith(f"[{item}]")}


def _short(value: Any) -> str:
    text = _flat(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 2]} …"


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not value:
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(item if item and " " not in item else json.dumps(item) for item in value)
    if isinstance(value, list) and len(value) == 1:
        return _flat(value[0])
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_inner(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False)


def _inner(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
