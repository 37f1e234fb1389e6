"""cribd after a reboot that never was (`python -m tests.crash.rebooted CONFIG`): a job for each line read.

The boot id, which the kernel has made anew after a power cut, is another one here each time; no hook in the
daemon is needed for that. For each line it checks what it finds, repairs, checks again and wipes pods and
network, and answers with one line of JSON: what each of these told. A process for many jobs, as starting one
takes longer than the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import uuid
from dataclasses import asdict, replace
from typing import Any

import msgspec

from crib import daemon
from crib.backends.host_facts import read_host_facts
from crib.host.cgroups import CgroupLayout
from crib.model.container import ContainerRecord
from crib.model.facts import HostFacts
from crib.model.finding import WipeOrder
from crib.observe import logs
from crib.observe.lag import LoopWatch
from crib.reloading import Reloading


def _after_boot(boot_id: str) -> None:
    def read(layout: CgroupLayout) -> HostFacts:
        return replace(read_host_facts(layout), boot_id=boot_id)

    vars(daemon).update(read_host_facts=read, read_boot_id=lambda: boot_id)


async def _job(config: str) -> dict[str, Any]:
    configuration = Reloading(config)
    settings = configuration.settings
    _after_boot(str(uuid.uuid4()))

    def opened() -> daemon.Daemon:
        return daemon.Daemon(configuration, LoopWatch())

    async def check(*, repair: bool) -> list[dict[str, Any]]:
        found = opened().check(repair=repair, quick=False)
        return [asdict(one) | {"is_left": one.is_left} async for one in found]

    def codes() -> list[int]:
        """Of the containers that are on record now; before anything is wiped."""
        with contextlib.closing(sqlite3.connect(f"{settings.data}/crib.db")) as connection:
            rows = connection.execute("SELECT record FROM containers").fetchall()
        return [msgspec.msgpack.decode(row[0], type=ContainerRecord).exit_code for row in rows]

    order = WipeOrder(frozenset({"pods", "network"}))
    return {
        "found": await check(repair=False),
        "repaired": await check(repair=True),
        "after": await check(repair=False),
        "codes": codes(),
        "wiped": [asdict(one) async for one in opened().wipe(order)],
    }


def main(config: str) -> None:
    """Until its input ends."""
    logs.set_up(Reloading(config).settings.log)
    for _ in sys.stdin:
        print(json.dumps(asyncio.run(_job(config))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
