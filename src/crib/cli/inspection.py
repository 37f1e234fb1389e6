"""`crib inspect` shows everything about one object, `crib info` everything about the runtime."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from crib.cli.debug_commands import shown
from crib.cli.forms import Format
from crib.cli.output import age, as_dict, clean, document
from crib.client import images, lookup
from crib.client.errors import Ambiguous, NotFound, NotOffered
from crib.stubs.node.v1.node_pb2 import InfoRequest, InfoResponse
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerStatusRequest,
    ImageSpec,
    ImageStatusRequest,
    PodSandboxStatusRequest,
    StatusRequest,
    StatusResponse,
    VersionRequest,
    VersionResponse,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from crib.cli.options import InfoOptions, InspectOptions
    from crib.cli.session import CliSession
    from crib.client import Connection


async def inspect(session: CliSession, options: InspectOptions) -> None:
    """Show a pod, a container or an image; what fits first in this order is meant."""
    async with session.connect() as connection:
        found = await _look(connection, options.target, options.container)
    document(opened(found), options.output)


async def _look(connection: Connection, target: str, container: str) -> Message:
    if container:
        named = await lookup.find_container(connection, target, container)
        return await _container(connection, named.container.id)
    try:
        pod = await lookup.find_pod(connection, target)
    except Ambiguous:
        raise
    except NotFound:
        return await _container_or_image(connection, target)
    request = PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    return await connection.call(connection.runtime.PodSandboxStatus, request)


async def _container_or_image(connection: Connection, target: str) -> Message:
    try:
        found = await lookup.find_container(connection, target)
    except Ambiguous:
        raise
    except NotFound:
        try:
            image = await images.resolve(connection, target)
        except Ambiguous:
            raise
        except NotFound:
            raise NotFound(f"there is no pod, container or image {target!r}") from None
        request = ImageStatusRequest(image=ImageSpec(image=image.id), verbose=True)
        return await connection.call(connection.image.ImageStatus, request)
    return await _container(connection, found.container.id)


async def _container(connection: Connection, container_id: str) -> Message:
    request = ContainerStatusRequest(container_id=container_id, verbose=True)
    return await connection.call(connection.runtime.ContainerStatus, request)


def opened(reply: Message) -> dict[str, Any]:
    """The reply as a document, with the JSON inside `info` opened."""
    found = as_dict(reply)
    found["info"] = {name: _parsed(text) for name, text in found.get("info", {}).items()}
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def info(session: CliSession, options: InfoOptions) -> None:
    """Show Version, Status and, from a crib, what its Node service says."""
    node: InfoResponse | None = None
    async with session.connect() as connection:
        version = await connection.call(connection.runtime.Version, VersionRequest())
        status = await connection.call(connection.runtime.Status, StatusRequest())
        try:
            node = await connection.call(connection.node.Info, InfoRequest())
        except NotOffered:
            pass  # another CRI runtime: what the CRI says is all there is
    if options.output is not Format.TABLE:
        found = {"version": as_dict(version), "status": as_dict(status)}
        if node is not None:
            found["node"] = as_dict(node)
        document(found, options.output)
        return
    if options.verbose:
        lines = [("endpoint", connection.endpoint), *_runtime(version, status)]
        lines += _node(node) if node is not None else []
    else:
        lines = brief(connection.endpoint, version, status, node)
    width = max(len(name) for name, _ in lines)
    columns = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 0
    for name, value in lines:
        for number, line in enumerate(_folded(clean(value), columns - width - 2)):
            print(f"{'' if number else name:{width}}  {line}".rstrip())


def _folded(text: str, width: int) -> list[str]:
    """Lines of at most so many columns, if that is room for any."""
    return textwrap.wrap(text, width) or [""] if width > 0 else [text]


def brief(
    endpoint: str, version: VersionResponse, status: StatusResponse, node: InfoResponse | None
) -> list[tuple[str, str]]:
    """What a person asks first: whether it is ready, why not, what it is and what it has."""
    bad = [one for one in status.status.conditions if not one.status]
    is_ready = not any(one.type in ("RuntimeReady", "NetworkReady") for one in bad)
    up = f", up {age(node.started_at)}" if node is not None and node.started_at else ""
    lines = [("ready", "yes" if is_ready else "no")]
    lines += [
        (one.type, ": ".join(part for part in (one.reason, one.message) if part) or "no") for one in bad
    ]
    lines += [("runtime", f"{version.runtime_name} {version.runtime_version} at {endpoint}{up}")]
    if node is None:
        names = [handler.name or "(default)" for handler in status.runtime_handlers]
        return [*lines, *([("handlers", ", ".join(names))] if names else [])]
    counts = node.counts
    versions = {program.name: program.version for program in node.programs}
    handlers = [
        f"{one.name} ({', '.join(filter(None, (one.kind, 'default' if one.default_handler else '')))})"
        for one in node.handlers
    ]
    lines += [
        ("pods", f"{counts.sandboxes} ({counts.sandboxes_ready} ready)"),
        ("containers", f"{counts.containers} ({counts.containers_running} running)"),
        ("images", f"{counts.images} in {counts.layers} layers ({node.layer_mounts.method})"),
        ("handlers", ", ".join(handlers) or "-"),
        ("programs", ", ".join(f"{name} {known}" for name, known in versions.items() if known) or "-"),
        ("network", node.network_mode),
        ("plugins", ", ".join(f"{one.name or '?'} ({one.state})" for one in node.plugins) or "-"),
        ("cgroups", f"v{node.cgroup_version}, {node.cgroup_driver} driver"),
        ("storage", f"{node.data_root}, and {node.state_root} until the next boot"),
    ]
    lines += [("log", shown(rule)) for rule in node.log_rules]
    late = [wait for wait in node.waiting if wait.overdue]
    return [*lines, *((f"hangs: {wait.kind}", f"{wait.seconds:.0f} s: {wait.what}") for wait in late)]


def _runtime(version: VersionResponse, status: StatusResponse) -> list[tuple[str, str]]:
    lines = [
        ("runtime", f"{version.runtime_name} {version.runtime_version} (CRI {version.runtime_api_version})")
    ]
    for condition in status.status.conditions:
        why = " ".join(part for part in (condition.reason, condition.message) if part)
        state = "yes" if condition.status else "no"
        lines.append((condition.type, f"{state}: {why}" if why else state))
    for handler in status.runtime_handlers:
        can = [
            word
            for word, has in (
                ("recursive read-only mounts", handler.features.recursive_read_only_mounts),
                ("user namespaces", handler.features.user_namespaces),
            )
            if has
        ]
        lines.append((f"handler {handler.name or '(default)'}", ", ".join(can) or "-"))
    return lines


def _node(node: InfoResponse) -> list[tuple[str, str]]:
    mounts = node.layer_mounts
    layers = f"{mounts.method}, blocks of {mounts.block_size}" if mounts.block_size else mounts.method
    layers += ", direct" if mounts.directio else ""
    layers += f" ({mounts.reason})" if mounts.reason else ""
    counts = node.counts
    lines = [
        ("up", age(node.started_at) if node.started_at else "-"),
        ("state, data", f"{node.state_root}, {node.data_root}"),
        ("network", node.network_mode),
        ("cgroups", f"v{node.cgroup_version}, driver {node.cgroup_driver}"),
        ("layers", layers),
        ("pods", f"{counts.sandboxes} ({counts.sandboxes_ready} ready)"),
        ("containers", f"{counts.containers} ({counts.containers_running} running)"),
        ("images", f"{counts.images} in {counts.layers} layers"),
    ]
    for handler in node.handlers:
        mark = ", default" if handler.default_handler else ""
        lines.append((f"runs {handler.name}", f"{handler.program} ({handler.kind}{mark})"))
        can = f"can have {', '.join(handler.can)}; measured by the {handler.statistics}"
        lines.append((f"pods of {handler.name}", handler.problem or can))
    lines += [
        (f"uses {program.name}", f"{program.path or 'not found'} {program.version}".rstrip())
        for program in node.programs
    ]
    for plugin in node.plugins:
        told = f"{plugin.state}, {plugin.calls} calls, {plugin.failures} failed"
        lines.append((f"plugin {plugin.name or '?'}", ": ".join(filter(None, (told, plugin.problem)))))
    lag = node.loop
    times = "once" if lag.stalls == 1 else f"{lag.stalls} times"
    blocked = f"{times}, {lag.seconds:.1f} s, at most {lag.longest:.1f} s"
    lines.append(("loop blocked", blocked if lag.stalls else "never"))
    lines += [("log", shown(rule)) for rule in node.log_rules]
    for wait in node.waiting:
        state = f"{wait.seconds:.1f} s" + (", overdue" if wait.overdue else "")
        whose = f" (for {wait.owner})" if wait.owner and wait.owner not in wait.what else ""
        lines.append((f"waits: {wait.kind}", f"{state}: {wait.what}{whose}"))
    lines += [(name, node.facts[name]) for name in sorted(node.facts)]
    return lines
