"""`crib volume`: the named volumes of this node. It needs no runtime."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from crib.cli.forms import Format, is_table
from crib.cli.output import age, document, size, table, tell
from crib.cli.session import CommandError, say
from crib.client.errors import ClientError
from crib.client.workloads.named_volumes import NamedVolume, NamedVolumes, as_dict
from crib.manifest.fields import is_label, is_subdomain
from crib.manifest.plan import ClaimPlan, Dirs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli import workload_options as args
    from crib.cli.session import CliSession


def ls(session: CliSession, options: args.VolumeListOptions) -> None:
    """Every volume by name."""
    found = _volumes(session).all()
    if options.quiet or options.output is Format.NAME:
        for volume in found:
            tell(volume.label if options.quiet else f"volume/{volume.label}")
        return
    if not is_table(options.output):
        document([as_dict(volume) for volume in found], options.output)
        return
    rows = [_row(volume) for volume in found]
    wide = options.output is Format.WIDE
    columns = ("VOLUME", "PODS", "ASKED FOR", "AGE", "PATH")
    table(columns if wide else columns[:-1], rows if wide else [row[:-1] for row in rows])


def _row(volume: NamedVolume) -> tuple[str, ...]:
    asked = size(volume.size) if volume.size else "-"
    since = age(int(volume.created * 10**9)) if volume.created else "-"
    return (volume.label, str(len(volume.users)), asked, since, volume.path)


def create(session: CliSession, options: args.VolumeCreateOptions) -> None:
    """Make each; says its name."""
    labels = tuple(sorted(_label(text) for text in options.labels or ()))
    for text in options.volumes:
        namespace, _, name = text.rpartition("/")
        if not is_subdomain(name) or not is_label(namespace or "default"):
            raise CommandError(f"{text!r} must be NAME or NAMESPACE/NAME of a-z, 0-9 and '-'", exit_code=2)
        tell(_volumes(session).create(ClaimPlan(namespace or "default", name, labels)).label)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise CommandError(f"--label {text!r} is not KEY=VALUE", exit_code=2)
    return key, value


def inspect(session: CliSession, options: args.VolumeInspectOptions) -> None:
    """A list of documents, one for each name."""
    volumes = _volumes(session)
    found: list[dict[str, Any]] = []
    for text in options.volumes:
        volume = volumes.find(text)
        found.append({**as_dict(volume), "used": _used(volume.path)})
    document(found, options.output)


def _used(path: str) -> int:
    """Bytes of disk of what it holds, every file once; what vanishes meanwhile does not count."""
    seen: dict[tuple[int, int], int] = {}
    for parent, _, files in os.walk(path):
        for name in files:
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def remove(session: CliSession, options: args.VolumeRemoveOptions) -> None:
    """Continues after a failure, and fails at the end."""
    _remove(_volumes(session), options.volumes)


def _remove(volumes: NamedVolumes, names: Sequence[str]) -> None:
    failed = 0
    for name in names:
        try:
            tell(f"removed {volumes.remove(name).label}")
        except (ClientError, OSError) as error:
            if len(names) == 1:
                raise
            say(f"crib: {error}")
            failed += 1
    if failed:
        raise CommandError(f"{failed} of {len(names)} volumes were not removed")


def prune(session: CliSession, options: args.VolumePruneOptions) -> None:
    """Ask on a terminal, then remove; whoever begins to use one meanwhile keeps it."""
    volumes = _volumes(session)
    unused = [volume.label for volume in volumes.all() if not volume.users]
    if not unused:
        tell("nothing to remove")
        return
    asks = not options.yes and not options.dry_run and sys.stdin.isatty()
    if options.dry_run or asks:
        for label in unused:
            tell(f"would remove {label}")
    if options.dry_run:
        return
    if asks:
        print("Remove all of this? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was removed")
    _remove(volumes, unused)


def _volumes(session: CliSession) -> NamedVolumes:
    return NamedVolumes(Dirs(session.pods_dir))
