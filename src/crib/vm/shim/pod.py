"""A pod as a VM: made, configured, watched and ended, with all that belongs to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass

from crib.host.threads import OURS, Job
from crib.stubs.vm import guest_pb2 as guest
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.errors import CallFailed, PeerLost, TtrpcError
from crib.vm.qemu import SHARE_TAG
from crib.vm.shim.agent import AgentClient
from crib.vm.shim.cgroup import join_cgroup
from crib.vm.shim.disks import Disks
from crib.vm.shim.events import GuestEvents, Publisher
from crib.vm.shim.launch import EarlyVm, Recipe, launch, share_path, undo
from crib.vm.shim.link import AgentLink
from crib.vm.shim.machine import StartedVm
from crib.vm.shim.network import JoinedNetwork
from crib.vm.shim.options import VmPlan
from crib.vm.shim.processes import Processes, VmProcess
from crib.vm.shim.qmp import Qmp
from crib.vm.shim.share import ShareTree
from crib.vm.shim.watching import KILL_TIME, Watched, Words
from crib.wire.rpc_codes import Code

_log = logging.getLogger(__name__)

CONFIGURE_TIME = 30.0
"""Seconds for the guest's agent to set up what it is told."""
POWEROFF_TIME = 5.0
"""Seconds for the guest to write what it has not yet written, and to end."""
LAST_TIME = 0.5
"""Seconds for qemu to end after its connections have: then it is known why."""
_LAST_LINES = 12
"""Of the console that an error of the boot shows."""


@dataclass(frozen=True, slots=True)
class Ending:
    """When, in nanoseconds since the epoch, and why in words."""

    at: int
    why: str


class VmPod:
    """One. It is made once, started once, and ends once."""

    def __init__(self, early: EarlyVm, keeper: TaskKeeper, publisher: Publisher) -> None:
        """`early` is what a shim's `start` has begun."""
        self.bundle = early.bundle
        self.stages = early.stages
        self.share = ShareTree(share_path(early.bundle))
        self._early = early
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.plan = VmPlan()
        self.started = 0
        """Nanoseconds since the epoch; 0 until it is."""
        self.was_stopped = False
        """Somebody has asked for its end."""
        self._keeper = keeper
        self._publisher = publisher
        self._network = JoinedNetwork()
        self._boot_time = 0.0
        self._made: _Made | None = None

    @property
    def is_made(self) -> bool:
        return self._made is not None

    @property
    def pid(self) -> int:
        """Of qemu; 0 when there is none."""
        return 0 if self._made is None or self.ended.done() else self._made.started.qemu.pid

    @property
    def agent(self) -> AgentClient:
        return self._running().agent

    @property
    def processes(self) -> Processes:
        return self._running().processes

    @property
    def disks(self) -> Disks:
        return self._running().disks

    def facts(self) -> dict[str, str]:
        """What a person may want to know of it, and `stages`."""
        found = {"stages": self.stages.document()}
        if self._made is not None:
            started = self._made.started
            found |= {
                "acceleration": started.acceleration,
                "cpus": str(started.cpus),
                "memory": str(started.memory),
                "qemu": str(started.qemu.pid),
                "virtiofsd": str(started.virtiofsd.pid),
                "console": self._made.words.last(_LAST_LINES),
            }
        return found

    async def make(self, recipe: Recipe) -> None:
        """Start the VM, if it was not started from this recipe already. CallFailed, OSError: nothing runs."""
        if self._made is not None or self.ended.done():
            raise CallFailed(Code.ALREADY_EXISTS, "the VM is there already")
        if recipe.plan.cgroup:
            await OURS.run(Job("the cgroup of the VM", limit=CONFIGURE_TIME), join_cgroup, recipe.plan.cgroup)
        launched = self._early.take(recipe) or launch(recipe, self.bundle, self.stages)
        self.plan, self._network = recipe.plan, launched.network
        self._boot_time = recipe.options.boot_time
        self._made = await _Made.of(launched.started, self._keeper, self._publisher)
        self._keeper.part("the life of a VM", self._live(self._made))

    async def start(self) -> None:
        """Returns when the guest is ready for containers. CallFailed if that fails: it is ended."""
        made = self._running()
        try:
            async with asyncio.timeout(self._boot_time):
                await made.link.client()
            await self._configure(made)
        except (TimeoutError, TtrpcError, OSError) as error:
            await self.stop(0)
            why = str(error) or f"the guest's agent was not heard of in {self._boot_time:.0f} s"
            words = made.words.last(_LAST_LINES) or "nothing"
            raise CallFailed(
                Code.UNAVAILABLE, f"the VM did not start (it came to: {self.stages.reached}): {why}\n{words}"
            ) from error
        self.started = time.time_ns()

    async def stop(self, seconds: float) -> None:
        """End it, after `seconds` at most by force. Safe to repeat, and of one that was never made."""
        made = self._made
        self.was_stopped = self.was_stopped or not self.ended.done()
        if made is not None and not self.ended.done():
            if seconds > 0 and made.link.generation:
                with contextlib.suppress(TtrpcError):
                    await made.agent.ask("Poweroff", guest.PoweroffRequest(), guest.PoweroffResponse, seconds)
                await made.qemu.gone(seconds)
            made.qemu.kill()
            await asyncio.wait([self.ended], timeout=2 * KILL_TIME)
        elif not self.ended.done():
            self._early.drop()
            self.ended.set_result(Ending(time.time_ns(), "it was never asked for"))

    async def gone(self) -> None:
        """Returns when it has ended."""
        await asyncio.shield(self.ended)

    def _running(self) -> _Made:
        if self._made is None:
            raise CallFailed(Code.FAILED_PRECONDITION, "the VM is not made yet")
        return self._made

    async def _configure(self, made: _Made) -> None:
        info = await made.agent.ask("Info", guest.InfoRequest(), guest.InfoResponse, CONFIGURE_TIME)
        self.stages.booted(made.link.greeted, info.ready_at, (info.initrd_at, info.agent_at))
        with self.stages.of("configure"):
            await self._tell(made)
            pid = made.started.virtiofsd.pid
            await OURS.run(Job("the mounts of virtiofsd", limit=CONFIGURE_TIME), self.share.enter, pid)
        self._keeper.part("events of the guest", made.events.follow())

    async def _tell(self, made: _Made) -> None:
        """What each agent is told first: what it has set up already stays."""
        request = configure_request(self.plan, self._network)
        await made.agent.ask("Configure", request, guest.ConfigureResponse, CONFIGURE_TIME)

    async def _live(self, made: _Made) -> None:
        """Until one of the programs ends, or the guest's agent has gone for good: then all of it ends."""
        restarts = self._keeper.part("restarts of the agent", self._watch_agent(made))
        ends = [made.qemu.ended, made.virtiofsd.ended, restarts]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await made.qemu.gone(LAST_TIME)
        why = "; ".join(str(one.result()) for one in ends if one.done())
        for program in (made.qemu, made.virtiofsd):
            program.kill()
        for program in (made.qemu, made.virtiofsd):
            await program.gone(KILL_TIME)
        _log.info("the VM has ended: %s", why)
        made.processes.lose()
        made.link.close()
        made.words.close()
        made.disks.close()
        restarts.cancel()
        with contextlib.suppress(OSError, CallFailed):
            await OURS.run(Job("what is left of the VM", limit=CONFIGURE_TIME), self._undo)
        self.ended.set_result(Ending(time.time_ns(), why))

    async def _watch_agent(self, made: _Made) -> str:
        """Containers end with their agent. Returns why there will be no other one."""
        generation = 0
        while True:
            try:
                generation = await made.agent.next_generation(generation)
            except PeerLost as error:
                return f"the guest's agent has gone: {error}"
            if generation > 1:
                _log.warning("the guest's agent was started again, and its containers have ended")
                made.processes.lose(generation - 1)
                with contextlib.suppress(TtrpcError):  # the next one is told
                    await self._tell(made)

    def _undo(self) -> None:
        self.share.close()
        undo(self.plan, self.bundle)


class _Made:
    """What there is of a VM once it runs."""

    def __init__(
        self, started: StartedVm, carrier: SocketCarrier, keeper: TaskKeeper, publisher: Publisher
    ) -> None:
        self.started = started
        self.qemu = Watched(started.qemu)
        self.virtiofsd = Watched(started.virtiofsd)
        self.words = Words(started.words)
        self.disks = Disks(Qmp(started.control))
        self.link = AgentLink(carrier)
        self.agent = AgentClient(self.link)
        self.events = GuestEvents(self.agent, publisher)
        self.processes = Processes(self.agent, keeper, self._before_end)

    @classmethod
    async def of(cls, started: StartedVm, keeper: TaskKeeper, publisher: Publisher) -> _Made:
        loop = asyncio.get_running_loop()
        _, carrier = await loop.create_unix_connection(SocketCarrier, sock=started.agent)
        return cls(started, carrier, keeper, publisher)

    async def _before_end(self, process: VmProcess) -> None:
        if not process.key.exec_id:
            await self.events.told()


def configure_request(plan: VmPlan, network: JoinedNetwork) -> guest.ConfigureRequest:
    """What the guest is told of the pod."""
    shm = os.statvfs(plan.shm) if plan.shm else None
    return guest.ConfigureRequest(
        hostname=plan.hostname,
        interfaces=[
            guest.Interface(name=one.name, mac=one.mac, mtu=one.mtu, addresses=one.addresses)
            for one in network.interfaces
        ],
        routes=[
            guest.Route(
                destination=one.destination,
                gateway=one.gateway,
                interface=one.interface,
                metric=one.metric,
                onlink=one.onlink,
            )
            for one in network.routes
        ],
        neighbours=[
            guest.Neighbour(address=address, mac=mac, interface=one.name)
            for one in network.interfaces
            for address, mac in one.neighbours
        ],
        sysctls=dict(plan.sysctls),
        shared_pid=plan.shared_pid,
        share_tag=SHARE_TAG,
        now=time.time_ns(),
        shm_bytes=0 if shm is None else shm.f_blocks * shm.f_frsize,
    )
