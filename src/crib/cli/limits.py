"""`crib update`: other limits for containers that run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crib.cli.each import Act, each, naming
from crib.cli.session import CommandError
from crib.client import lookup, resizing
from crib.manifest.quantity import MAX_VALUE, MIN_QUOTA, PERIOD, milli, parse_quantity
from crib.stubs.runtime.v1.api_pb2 import LinuxContainerResources

if TYPE_CHECKING:
    from crib.cli.lifecycle_options import UpdateOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.lookup import PodOrContainer

_DOCKER = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s?([bkmgt])(?:b|ib)?", re.IGNORECASE)
_POWERS = {letter: power for power, letter in enumerate("bkmgt")}


async def update(session: CliSession, options: UpdateOptions) -> None:
    """Send what was named; the runtime leaves the rest as it is. A pod's limits follow its containers'."""
    change = resources(options)

    async def one(connection: Connection, target: PodOrContainer) -> str:
        container = target.container
        if container is None:
            container = (await lookup.find_container(connection, target.pod.id)).container
        chosen = lookup.PodOrContainer(target.pod, container)
        with naming(chosen):
            await resizing.update_container(connection, container, change)
        return f"updated {chosen.label}"

    await each(session, options.targets, options.container, Act("updated", one))


def resources(options: UpdateOptions) -> LinuxContainerResources:
    """The limits that were named. CommandError when none was, or for one that is not understood."""
    if options.cpus and (options.cpu_quota or options.cpu_period):
        raise CommandError(
            "--cpus is a quota in a period of 100 ms: give it, or --cpu-quota and --cpu-period", 2
        )
    found = LinuxContainerResources(
        cpu_period=options.cpu_period,
        cpu_quota=options.cpu_quota,
        cpu_shares=options.cpu_shares,
        cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems,
        oom_score_adj=options.oom_score_adj,
        memory_limit_in_bytes=byte_count(options.memory, "--memory") if options.memory else 0,
    )
    if options.cpus:
        found.cpu_period, found.cpu_quota = PERIOD, _quota(options.cpus)
    if options.memory_swap:
        unlimited = options.memory_swap == "-1"
        found.memory_swap_limit_in_bytes = (
            -1 if unlimited else byte_count(options.memory_swap, "--memory-swap")
        )
    if options.pids is not None:
        if options.pids == 0:
            raise CommandError("--pids-limit 0 would let nothing run; use -1 for no limit", 2)
        found.unified["pids.max"] = "max" if options.pids < 0 else str(options.pids)
    if not found.ByteSize():
        raise CommandError("name at least one limit to change", 2)
    return found


def _quota(text: str) -> int:
    try:
        thousandths = milli(parse_quantity(text))
    except ValueError as error:
        raise CommandError(f"--cpus {error}", 2) from None
    if not thousandths:
        raise CommandError("--cpus must be more than 0; use --cpu-quota -1 for no limit", 2)
    return max(MIN_QUOTA, thousandths * PERIOD // 1000)


def byte_count(text: str, option: str) -> int:
    """Bytes of `512`, `512Mi` (Kubernetes) or `512m` (docker); CommandError names the option."""
    if match := _DOCKER.fullmatch(text):
        number = float(match[1]) if "." in match[1] else int(match[1])
        count = int(number * 1024 ** _POWERS[match[2].lower()])
    else:
        try:
            count = int(parse_quantity(text))
        except ValueError as error:
            raise CommandError(f"{option} {error}", 2) from None
    if not 0 < count <= MAX_VALUE:
        raise CommandError(f"{option} {text!r} is out of range", 2)
    return count
