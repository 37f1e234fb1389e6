"""`crib kept` and `crib down`: pods and Jobs that are kept up by the daemon's supervisor, and their end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.output import age, as_dict, document, table, tell
from crib.cli.run import plans_of
from crib.cli.session import say
from crib.client import kept, lookup
from crib.client.workloads import keeping
from crib.client.workloads.jobs import pods_of
from crib.client.workloads.removal import take_down
from crib.manifest.plan import Dirs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.keeping_options import DownOptions, KeptOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.node.v1.node_pb2 import KeptContainer, KeptPod


async def show(session: CliSession, options: KeptOptions) -> None:
    """A row for each container of a kept pod."""
    async with session.connect() as connection:
        found = await kept.everything(connection)
    if options.output is not Format.TABLE:
        document([as_dict(pod) for pod in found.pods], options.output)
    else:
        rows = [row for pod in found.pods for row in _rows(pod)]
        table(("POD", "PHASE", "CONTAINER", "STATE", "READY", "RESTARTS", "FOR", "MESSAGE"), rows)
    if found.problem:
        say(f"crib: nobody keeps these pods up: {found.problem}")


def _rows(pod: KeptPod) -> Sequence[tuple[str, ...]]:
    label, phase = f"{pod.namespace}/{pod.name}", pod.phase or "Unknown"
    if pod.until:
        phase = f"{phase}, again in {_left(pod.until)}"
    rows = [
        (
            label,
            phase,
            one.name,
            state_of(one),
            "yes" if one.ready else "no",
            str(one.restarts),
            age(pod.since),
            (pod.message if pod.phase == "Failed" else "") or one.message or pod.message,
        )
        for one in pod.containers
    ]
    return rows or [(label, phase, "-", "-", "no", "0", age(pod.since), pod.message)]


def state_of(one: KeptContainer) -> str:
    """The container's state with what is left of its pause: CrashLoopBackOff 40 s."""
    return f"{one.state} {_left(one.until)}" if one.until else one.state


def _left(until: int) -> str:
    return f"{max(0, round((until - time.time_ns()) / 1e9))} s"


async def down(session: CliSession, options: DownOptions) -> None:
    """Stop and remove pods with their files; of a manifest those that are there."""
    dirs = Dirs(session.pods_dir)
    async with session.connect() as connection:
        for target in options.targets:
            if target == "-" or os.path.isfile(target):
                read = plans_of(session, [target], options.extra or ())
                labels = [job.label for job in read.jobs] + [plan.label for plan in read.alone()]
            else:
                labels = [await _label_of(connection, target)]
            for label in labels:
                if await take_down(connection, label, dirs, options.time, say):
                    tell(f"removed {label}")
                else:
                    say(f"crib: there is no pod {label}")


async def _label_of(connection: Connection, name: str) -> str:
    """A pod's or Job's NAMESPACE/NAME; it may be one that is kept up and has no sandbox."""
    if (unit := await keeping.named(connection, name)) is not None:
        return f"{unit.namespace}/{unit.name}"
    namespace, _, short = name.rpartition("/")
    everything = await lookup.pods(connection)
    if pods_of(label := f"{namespace or 'default'}/{short}", everything):
        return label
    found = lookup.pick_pod(everything, name)
    return f"{found.metadata.namespace}/{found.metadata.name}"
