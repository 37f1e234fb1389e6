"""`python -m crib.vm.boot`: boots a guest once, as a pod's shim does, and tells how long each stage took.

Nothing of it is left. It prints JSON: the stages, the CPU time and memory of qemu, and who the guest is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crib.stubs.vm import guest_pb2 as guest
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.errors import TtrpcError
from crib.vm.acceleration import Acceleration, find_acceleration
from crib.vm.build import FORMAT
from crib.vm.qemu import ACCELERATIONS, MACHINES
from crib.vm.shim.agent import AgentClient
from crib.vm.shim.link import AgentLink
from crib.vm.shim.machine import StartedVm, start_machine
from crib.vm.shim.options import OptionProblem, VmOptions, VmPlan, with_virtiofsd
from crib.vm.shim.stages import Stages
from crib.vm.shim.watching import KILL_TIME, Watched, Words

CONSOLE_LINES = 20
"""Of what the guest said, where it did not boot."""
STAGES = ("virtiofsd", "qemu", "kernel", "init", "agent", "configure")
_MANIFEST = "manifest.json"


class BootFailed(Exception):
    """The guest did not boot; the message has what it said."""


async def boot(options: VmOptions, acceleration: Acceleration) -> dict[str, Any]:
    """Boot a guest, ask it who it is, and end it. BootFailed, OptionProblem, OSError."""
    stages = Stages()
    with tempfile.TemporaryDirectory(prefix="crib-boot-") as scratch:
        share = f"{scratch}/share"
        os.mkdir(share)
        started = start_machine(options, VmPlan(), share, (), stages)
        qemu, virtiofsd, words = Watched(started.qemu), Watched(started.virtiofsd), Words(started.words)
        try:
            async with asyncio.timeout(options.boot_time):
                info = await _greeted(started, stages, qemu)
            figures = _figures(started.qemu.pid)
        except (TimeoutError, TtrpcError) as error:
            said = words.last(CONSOLE_LINES)
            why = str(error) or f"it did not answer within {options.boot_time:.0f} s"
            raise BootFailed(f"{why}, at stage {stages.reached}; it said:\n{said}") from None
        finally:
            for program in (qemu, virtiofsd):
                program.kill()
                await program.gone(KILL_TIME)
            words.close()
            started.control.close()
    return {
        "acceleration": acceleration.name,
        "why": acceleration.why,
        "machine": options.machine,
        "memory": started.memory,
        "cpus": started.cpus,
        "kernel": info.kernel,
        "crun": info.crun_version,
        "stages": [one for one in json.loads(stages.document()) if one["name"] in STAGES],
        **figures,
    }


async def _greeted(started: StartedVm, stages: Stages, qemu: Watched) -> guest.InfoResponse:
    """Returns when the guest is ready for a container."""
    loop = asyncio.get_running_loop()
    _, carrier = await loop.create_unix_connection(SocketCarrier, sock=started.agent)
    link = AgentLink(carrier)
    agent = AgentClient(link)
    qemu.ended.add_done_callback(lambda _: link.close())  # nobody waits for a machine that is gone
    try:
        info = await agent.ask("Info", guest.InfoRequest(), guest.InfoResponse)
        stages.booted(link.greeted, info.ready_at, (info.initrd_at, info.agent_at))
        with stages.of("configure"):
            asked = guest.ConfigureRequest(hostname="boot", share_tag="crib", now=time.time_ns())
            await agent.ask("Configure", asked, guest.ConfigureResponse)
        return info
    finally:
        link.close()


def _figures(pid: int) -> dict[str, Any]:
    """CPU time in seconds and memory in bytes of a process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    parts = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    sizes = {name: int(parts[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "RssShmem")}
    return {
        "cpu_seconds": ticks / os.sysconf("SC_CLK_TCK"),
        "own_memory": sizes["RssAnon"],
        "shared_memory": sizes["RssFile"],
        "guest_memory": sizes["RssShmem"],
    }


async def _boot(options: VmOptions, wanted: str) -> dict[str, Any]:
    found = await find_acceleration(wanted)
    return await boot(replace(with_virtiofsd(options), acceleration=found.name), found)


def _check(manifest: Path) -> None:
    made = json.loads(manifest.read_text())["format"]
    if made != FORMAT:
        raise BootFailed(f"the guest of {manifest} has format {made}, not {FORMAT}: build it again")


def main(arguments: Sequence[str]) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m crib.vm.boot")
    parser.add_argument("--image", required=True)
    parser.add_argument("--machine", choices=MACHINES, default="microvm")
    parser.add_argument("--acceleration", choices=("auto", *ACCELERATIONS), default="auto")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    asked = parser.parse_args(arguments)
    try:
        _check(Path(asked.image, _MANIFEST))
        options = VmOptions(
            image=asked.image,
            machine=asked.machine,
            memory=asked.memory,
            cpus=asked.cpus,
            boot_time=asked.limit,
        )
        print(json.dumps(asyncio.run(_boot(options, asked.acceleration)), indent=2))
    except (BootFailed, OptionProblem, OSError, ValueError) as error:
        print(f"crib vm boot: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
