"""`crib volume`: list, make, inspect and remove the volumes that the daemon keeps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from crib.cli.output import Listing, age, as_dict, document, short_id, size, tell
from crib.cli.session import CommandError, say
from crib.cli.tables import TableColumn
from crib.client import lookup, volumes
from crib.client.errors import ClientError
from crib.manifest.fields import is_label, is_subdomain
from crib.manifest.quantity import parse_quantity, whole
from crib.stubs.node.v1.node_pb2 import VolumeSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from crib.cli import volume_options as args
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.node.v1.node_pb2 import Volume

_COLUMNS = (
    "VOLUME",
    "KIND",
    "CLASS",
    "SIZE",
    "PODS",
    "STATE",
    "AGE",
    TableColumn("ACCESS MODES", wide=True),
    TableColumn("ID", wide=True),
    TableColumn("PATHS", wide=True),
)


def label(volume: Volume) -> str:
    """As a person calls it."""
    return f"{volume.namespace}/{volume.name}"


async def ls(session: CliSession, options: args.VolumeListOptions) -> None:
    """Every volume by name."""
    labels = pairs(options.labels, "--label")
    async with session.connect() as connection:
        uid = (await lookup.find_pod(connection, options.pod)).metadata.uid if options.pod else ""
        listed = volumes.list_volumes(connection, namespace=options.namespace, labels=labels, pod_uid=uid)
        found = [volume async for volume in listed]
    names = [label(volume) for volume in found]
    Listing(
        _COLUMNS,
        [_row(volume) for volume in found],
        names,
        names,
        [as_dict(volume) for volume in found],
    ).show(options.output, quiet=options.quiet)


def _row(volume: Volume) -> tuple[str, ...]:
    kind = f"{volume.spec.kind} ({volume.spec.driver})" if volume.spec.driver else volume.spec.kind
    state = volume.state.capitalize() + (f": {volume.problem}" if volume.problem else "")
    return (
        label(volume),
        kind,
        volume.spec.storage_class or "-",
        size(volume.capacity or volume.spec.capacity) if volume.capacity or volume.spec.capacity else "-",
        str(len({use.pod_uid for use in volume.uses})),
        state,
        age(volume.created_at),
        ", ".join(volume.spec.access_modes),
        short_id(volume.id),
        ", ".join(dict.fromkeys(use.path for use in volume.uses if use.path)) or "-",
    )


async def create(session: CliSession, options: args.VolumeCreateOptions) -> None:
    """Make each; says its name."""
    named = [name_of(text) for text in options.volumes]
    spec = spec_of(options, options.snapshot)
    if options.origin and (options.snapshot or options.source):
        raise CommandError("--from excludes --snapshot and --source", exit_code=2)
    async with session.connect() as connection:
        for namespace, name in named:
            if options.origin:
                made = await volumes.clone(connection, options.origin, name, spec, namespace=namespace)
            else:
                made = await volumes.create(connection, name, spec, namespace=namespace)
            warn(label(made.volume), made.warnings)
            tell(label(made.volume))


def warn(name: str, warnings: Sequence[str]) -> None:
    """What holds only in part."""
    for warning in warnings:
        say(f"note: {name}: {warning}")


def name_of(text: str) -> tuple[str, str]:
    """Namespace and name of a volume to make; CommandError if they are none."""
    namespace, slash, name = text.rpartition("/")
    namespace = namespace if slash else "default"
    if not is_subdomain(name) or not is_label(namespace):
        raise CommandError(f"{text!r} must be NAME or NAMESPACE/NAME of a-z, 0-9, '-' and '.'", exit_code=2)
    return namespace, name


def spec_of(options: args.VolumeSpecOptions, snapshot: str = "") -> VolumeSpec:
    """What the options ask for. CommandError names the option that is wrong."""
    return VolumeSpec(
        kind=options.kind or "",
        storage_class=options.storage_class,
        driver=options.driver,
        parameters=pairs(options.parameters, "--parameter"),
        source=options.source,
        snapshot=snapshot,
        capacity=bytes_of(options.size, "--size") if options.size else 0,
        access_modes=[mode.value for mode in options.modes or ()],
        block=options.block,
        fs_type=options.fs_type,
        mount_options=options.mount_options or (),
        labels=pairs(options.labels, "--label"),
        secrets={key: os.path.abspath(path) for key, path in pairs(options.secrets, "--secret").items()},
        reclaim=options.reclaim or "",
    )


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """KEY=VALUE, each; CommandError for one that is not."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise CommandError(f"{option} {text!r} is not KEY=VALUE", exit_code=2)
        found[key] = value
    return found


def bytes_of(text: str, what: str) -> int:
    """A quantity such as 10Gi; CommandError if it is none."""
    try:
        return whole(parse_quantity(text))
    except ValueError as error:
        raise CommandError(f"{what}: {error}", exit_code=2) from error


async def inspect(session: CliSession, options: args.VolumeInspectOptions) -> None:
    """A list of documents, one for each name."""
    found: list[dict[str, Any]] = []
    async with session.connect() as connection:
        for text in options.volumes:
            reply = await volumes.inspect(connection, text)
            more = {"can": list(reply.can), "snapshots": [as_dict(one) for one in reply.snapshots]}
            found.append({**as_dict(reply.volume), **more})
    document(found, options.output)


async def remove(session: CliSession, options: args.VolumeRemoveOptions) -> None:
    """Continues after a failure, and fails at the end."""

    async def act(connection: Connection, name: str) -> None:
        await volumes.remove(connection, name)

    await each(session, options.volumes, "volumes", act)


async def each(
    session: CliSession,
    names: Sequence[str],
    what: str,
    act: Callable[[Connection, str], Awaitable[None]],
) -> None:
    """Remove each of these; what cannot be removed is told, and fails the command at its end."""
    failed = 0
    async with session.connect() as connection:
        for name in names:
            try:
                await act(connection, name)
            except ClientError as error:
                if len(names) == 1:
                    raise
                say(f"crib: {error}")
                failed += 1
            else:
                tell(f"removed {name}")
    if failed:
        raise CommandError(f"{failed} of {len(names)} {what} were not removed")
