"""The test's end of `tests.crash.points`: a cribd whose steps are ours, and a kubelet that tries again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crib.backends.network.bridge.link import host_link_name
from crib.client import pods
from crib.client.errors import ClientError, RuntimeFailure, Unavailable
from crib.client.pods import Pod
from crib.host import links
from crib.host.netlink import Netlink
from crib.model.ids import SandboxId
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image
from tests.system.labs.daemon import IMAGE, STOP_SECONDS, Cribd, DaemonProcess, until

Work = Callable[[], Awaitable[None]]

ANSWER_SECONDS = 60.0
TRIES = 4
"""Of a kubelet, for each thing that it wants; all faults of these tests happen once."""
PATIENCE = 120.0
"""Seconds that a call may take."""
_UNMAPPED = "in crib's log)"
"""How an answer ends that nobody has thought of (api/interceptors)."""
SERVING = "trap 'exit 0' TERM; sleep 100000 & wait"
"""What the containers run: it ends when it is told to, as a server does."""


class Dead(Exception):
    """The daemon has ended."""


@dataclass(frozen=True)
class Fault:
    """What is to happen at the `number`th passing of a point; the rest as `points.Steering` says it."""

    point: str
    number: int = 1
    when: str = "before"
    what: str = "kill"
    argument: object = None

    def __str__(self) -> str:
        number = f" ({self.number})" if self.number > 1 else ""
        argument = f" {self.argument}" if self.argument is not None else ""
        return f"{self.what}{argument} {self.when} {self.point}{number}"

    @property
    def plan(self) -> dict[str, object]:
        names = {"point": self.point, "number": self.number, "when": self.when}
        return {**names, "do": self.what, "with": self.argument}


class Steered(Cribd):
    """A cribd that tells what it passes, and does there what it is told."""

    host_points = False
    """Whether the calls of `crib.host` are points: the start takes twice as long then."""
    first: Fault | None = None
    """What is in force when the next daemon starts."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.starting = threading.Lock()
        """Held during a start, for who wants to spare it."""
        self.starts = 0

    def start(self) -> float:
        with self.starting:
            self.starts += 1
            return super().start()

    def _spawn(self, **environment: str) -> DaemonProcess:
        path = self.root / "control"
        path.unlink(missing_ok=True)
        arguments = [str(path), *["--host"] * self.host_points, "--config", str(self.config)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(ANSWER_SECONDS)
            process = self._forked("tests.crash.points", arguments, self.log_file, environment)
            self._control, _ = listener.accept()
        path.unlink()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.held = threading.Event()
        threading.Thread(target=self._hear, args=(self._control, self._answers), daemon=True).start()
        self._tell("plan", self.first.plan) if self.first else self._tell("go")
        self.first = None
        return process

    def _hear(self, control: socket.socket, answers: queue.SimpleQueue[Any]) -> None:
        with contextlib.suppress(OSError), control, control.makefile("r") as lines:
            for line in lines:
                message = json.loads(line)
                if isinstance(message, dict) and "held" in message:
                    self.held.set()
                else:
                    answers.put(message)
        answers.put(Dead())

    def _tell(self, command: str, argument: object = None) -> Any:
        try:
            self._control.sendall(f"{command} {json.dumps(argument)}\n".encode())
            answer = self._answers.get(timeout=ANSWER_SECONDS)
        except OSError:
            raise Dead from None
        if isinstance(answer, Dead):
            raise answer
        return answer

    def record(self) -> None:
        self._tell("record")

    def recorded(self) -> list[str]:
        """The points passed since `record`, in order."""
        found: list[str] = self._tell("recorded")
        return found

    def order(self, fault: Fault) -> None:
        self.held.clear()
        self._tell("plan", fault.plan)

    def carried_out(self) -> bool:
        """Whether the fault that was ordered has happened; it is forgotten. Dead where it has killed."""
        return bool(self._tell("done"))

    def let_go(self) -> None:
        self._tell("go")

    def figures(self) -> dict[str, int]:
        found: dict[str, int] = self._tell("figures")
        return found

    def written_or_ended(self) -> None:
        """Wait for the statements that follow an answer, which may be the daemon's last."""
        try:
            self.written()
        except AssertionError:
            if self.running:
                raise

    def damage(self, sandbox: str) -> None:
        """Take away the pod's link, as somebody's `ip link delete` would."""
        with Netlink() as netlink:
            links.delete_link(netlink, host_link_name(SandboxId(sandbox)))

    def start_again(self) -> None:
        """After the end that a fault has given it."""
        assert self._process is not None
        self._process.wait(STOP_SECONDS)
        self.start()


class WithHostPoints(Steered):
    """One whose calls into `crib.host` are points too."""

    host_points = True


@contextlib.contextmanager
def running_steered(kind: type[Steered] = Steered, **settings: Any) -> Iterator[Steered]:
    """As `running_cribd`."""
    cribd = kind(**settings)
    try:
        cribd.start()
        cribd.import_images(busybox_image(name=IMAGE))
        cribd.warm_up()
        yield cribd
    finally:
        cribd.end()


@dataclass
class Kubelet:
    """What a kubelet does for one pod with one container, and again until it has succeeded."""

    cribd: Steered
    name: str = "pod"
    shares_pid: bool = False
    fault: Callable[[str], Fault | None] = lambda verb: None
    """What is to go wrong in the first try of each verb."""
    deadline: float = 0.0
    """Seconds after which the first try of a verb with a fault is given up; 0: when its step is reached."""
    failures: list[str] = field(default_factory=list)
    """What calls were answered, in order; for messages."""
    happened: list[tuple[str, Fault]] = field(default_factory=list)
    passed: dict[str, list[str]] = field(default_factory=dict)
    """The points of each verb, where they are recorded."""
    records: bool = False
    box: str = ""

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Kubelet]:
        self._stack = contextlib.AsyncExitStack()
        try:
            await self._connect()
            self._options = pb.NamespaceOption(pid=pb.POD if self.shares_pid else pb.CONTAINER)
            self._config = self.cri.pod_config(self.name, namespaces=self._options)
            yield self
        finally:
            await self._stack.aclose()

    async def _connect(self) -> None:
        await self._stack.aclose()
        self.cri = await self._stack.enter_async_context(self.cribd.connect())
        await self.cri.sandboxes()

    async def live(self, *verbs: str) -> None:
        """The pod's whole life; with `verbs` only these of it, and what they need."""
        for name, work, needs_box in self._life():
            if verbs and name not in (*verbs, "run", "stop", "remove"):
                continue
            if needs_box and (not verbs or name in verbs):
                await self.verb("", self._running)
            await self.verb(name, work, self._running if needs_box else None)

    def _life(self) -> list[tuple[str, Work, bool]]:
        return [
            ("run", self._run, False),
            ("create", self._create, False),
            ("start", self._running, False),
            ("exec", self._exec, True),
            ("update", self._update, True),
            ("update pod", self._update_pod, True),
            ("reopen log", self._reopen_log, True),
            ("repair", self._repair, True),
            ("stop container", self._stop_container, True),
            ("remove container", self._remove_container, True),
            ("stop", self._stop, True),
            ("remove", self._remove, False),
        ]

    async def verb(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Try it with the fault that is due for it, and again without; `before` what the retries need."""
        fault = self.fault(name) if name else None
        if self.records and name:
            await asyncio.to_thread(self.cribd.written)
            self.cribd.record()
        if fault:
            self.cribd.order(fault)
        for number in range(TRIES):
            try:
                if number and before is not None:
                    await before()
                await (self._given_up(work) if fault and fault.what == "hold" and not number else work())
            except ClientError as error:
                self.failures.append(f"{name}: {error.code}: {error.message}")
                await self._after(name, fault)
                if number == TRIES - 1:
                    raise
                await until(self.runtime_ready)
            else:
                await self._after(name, fault)
                break
        if self.records and name:
            await asyncio.to_thread(self.cribd.written)
            self.passed[name] = self.cribd.recorded()

    async def _given_up(self, work: Work) -> None:
        """Whoever asks goes away while the step is held, which goes on then."""
        self.cri.connection.timeout, usual = self.deadline or PATIENCE, self.cri.connection.timeout
        call = asyncio.ensure_future(work())
        try:
            while not call.done() and not (self.cribd.held.is_set() and not self.deadline):
                await asyncio.wait([call], timeout=0.005)
            if not call.done():
                call.cancel()
                await asyncio.wait([call])
                raise Unavailable("given up", "CANCELLED")
            await call
        finally:
            self.cribd.let_go()
            self.cri.connection.timeout = usual

    async def _after(self, verb: str, fault: Fault | None) -> None:
        """Note whether the fault has happened; a daemon that has ended is started again."""
        if fault and fault.point.startswith("sql"):
            await asyncio.to_thread(self.cribd.written_or_ended)
        try:
            happened = self.cribd.carried_out()
        except Dead:
            happened = True
            await asyncio.to_thread(self.cribd.start_again)
            await self._connect()
        if happened and fault:
            self.happened.append((verb, fault))

    async def runtime_ready(self) -> bool:
        """Whether new pods may be made: a kubelet tries none while its runtime says no."""
        reply = await self.cri.call(self.cri.runtime.Status, pb.StatusRequest())
        return all(one.status for one in reply.status.conditions if one.type == "RuntimeReady")

    async def _run(self) -> None:
        # Not the client library's way, which waits for the answer when it is cancelled.
        request = pb.RunPodSandboxRequest(config=self._config)
        reply = await self.cri.call(self.cri.runtime.RunPodSandbox, request)
        self.pod = Pod(reply.pod_sandbox_id, self._config)

    async def _create(self) -> None:
        config = self.cri.container_config("sh", "-c", SERVING, name=self.name, namespaces=self._options)
        self.box = await pods.create_container(self.cri.connection, self.pod, config)

    async def _running(self) -> None:
        """As a kubelet's sync: what is there is used, what has ended or is in doubt is made anew."""
        pod = (await self.cri.sandboxes()).get(self.pod.id)
        if pod is None or pod.state != pb.SANDBOX_READY:
            await self.cri.remove_pod(self.pod)
            await self._run()
        box = (await self.cri.containers()).get(self.box)
        if box is not None and box.state == pb.CONTAINER_RUNNING:
            return
        if box is not None and box.state != pb.CONTAINER_CREATED:
            await self.cri.remove_container(box.id)
            box = None
        if box is None:
            await self._create()
        await self.cri.start(self.box)

    async def _exec(self) -> None:
        done = await self.cri.execute(self.box, "echo", "fine", timeout=30)
        if (done.code, done.out) != (0, "fine\n"):
            raise RuntimeFailure(f"{done}", "of the command")

    async def _update(self) -> None:
        limits = pb.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=64 << 20)
        request = pb.UpdateContainerResourcesRequest(container_id=self.box, linux=limits)
        await self.cri.call(self.cri.runtime.UpdateContainerResources, request)

    async def _update_pod(self) -> None:
        limits = pb.LinuxContainerResources(cpu_shares=512)
        request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=self.pod.id, resources=limits)
        await self.cri.call(self.cri.runtime.UpdatePodSandboxResources, request)

    async def _reopen_log(self) -> None:
        request = pb.ReopenContainerLogRequest(container_id=self.box)
        await self.cri.call(self.cri.runtime.ReopenContainerLog, request)

    async def _repair(self) -> None:
        """Of a pod whose link somebody has taken away."""
        self.cribd.damage(self.pod.id)
        request = node_pb2.CheckNetworksRequest(pod_sandbox_ids=[self.pod.id], repair=True)
        connection = self.cri.connection
        async for found in connection.stream(self.cri.node.CheckNetworks, request, connection.timeout):
            if found.problem and not found.repaired:
                raise RuntimeFailure(found.repair_error or found.problem, "INTERNAL")

    async def _stop_container(self) -> None:
        request = pb.StopContainerRequest(container_id=self.box, timeout=30)
        await self.cri.call(self.cri.runtime.StopContainer, request)

    async def _remove_container(self) -> None:
        await self.cri.remove_container(self.box)
        self.box = ""

    async def _stop(self) -> None:
        await self.cri.stop_pod(self.pod)

    async def _remove(self) -> None:
        await pods.remove(self.cri.connection, self.pod.id)

    def told(self) -> str:
        """What happened, for a message."""
        faults = "; ".join(f"{verb}: {fault}" for verb, fault in self.happened)
        return f"{faults or 'no fault happened'} → {'; '.join(self.failures) or 'all calls succeeded'}"


@dataclass
class ImageKubelet(Kubelet):
    """One that pulls an image and has it removed."""

    image: str = ""

    def _life(self) -> list[tuple[str, Work, bool]]:
        return [("pull", self._pull, False), ("remove image", self._remove_image, False)]

    @property
    def _spec(self) -> pb.ImageSpec:
        return pb.ImageSpec(image=self.image)

    async def _pull(self) -> None:
        await self.cri.call(self.cri.image.PullImage, pb.PullImageRequest(image=self._spec))
        await self._is_here()

    async def _is_here(self) -> None:
        reply = await self.cri.call(self.cri.image.ImageStatus, pb.ImageStatusRequest(image=self._spec))
        assert reply.image.id, f"{self.image} came, and is not here"

    async def _remove_image(self) -> None:
        await self.cri.call(self.cri.image.RemoveImage, pb.RemoveImageRequest(image=self._spec))


@dataclass
class ImportKubelet(ImageKubelet):
    """Somebody who imports it from an archive instead."""

    archive: Path = field(default_factory=Path)

    def _life(self) -> list[tuple[str, Work, bool]]:
        return [("import", self._import, False), ("remove image", self._remove_image, False)]

    async def _import(self) -> None:
        await self.cri.import_archive(self.archive)
        await self._is_here()


@dataclass
class Tries:
    """Lives with faults, one after the other, and what was wrong with them."""

    cribd: Steered
    problems: list[str] = field(default_factory=list)
    happened: int = 0
    lives: int = 0
    unmet: list[str] = field(default_factory=list)
    """Faults whose place never came: what a life passes depends on what is slow."""

    async def try_life(self, kubelet: Kubelet, *verbs: str) -> None:
        """A life that leaves nothing, in which no call fails as none should and no bug is logged."""
        began, before, log = time.monotonic(), self.cribd.leftovers(), len(self.cribd.log())
        wrong: list[str] = []
        try:
            async with kubelet.connected():
                await kubelet.live(*verbs)
        except (ClientError, AssertionError) as error:
            wrong.append(f"does not succeed in {TRIES} tries: {error}")
            await self._clear()
        self.happened += len(kubelet.happened)
        self.lives += 1
        await asyncio.to_thread(self._start_anew_if_promised, log)
        try:
            self.cribd.settle(before)
        except AssertionError as error:
            wrong.append(str(error))
        wrong += [f"not one of our errors: {text}" for text in kubelet.failures if _UNMAPPED in text]
        written = self.cribd.log()[log:]
        if (place := written.find("Traceback")) >= 0:
            wrong.append(written[max(0, place - 400) :][:3000])
        outcome = "\n  ".join([kubelet.told(), *wrong])
        print(f"{time.monotonic() - began:.2f} s: {outcome}", flush=True)
        if wrong:
            self.problems.append(outcome)

    async def try_each(
        self, new: Callable[[], Kubelet], faults: Mapping[str, Sequence[Fault]], verbs: Sequence[str] = ()
    ) -> None:
        """Each verb's faults: one of each verb in a life, and those that did not happen there by themselves.

        What a fault does is over when its verb was tried again. `verbs` as in `Kubelet.live`.
        """
        for number in range(max(map(len, faults.values()))):
            due = {verb: found[number] for verb, found in faults.items() if number < len(found)}
            together = replace(new(), fault=due.get)
            await self.try_life(together, *verbs)
            for verb, fault in due.items():
                if (verb, fault) in together.happened:
                    continue
                alone = replace(new(), fault={verb: fault}.get)
                await self.try_life(alone, *(verbs or (verb,)))
                if not alone.happened:
                    self.unmet.append(f"{verb}: {fault}")

    def _start_anew_if_promised(self, log: int) -> None:
        """A writable layer on a disk that is read-only is left to the first start after that."""
        if "the writable layer of container" in self.cribd.log()[log:]:
            self.cribd.stop()
            self.cribd.start()

    async def _clear(self) -> None:
        """For the next try."""
        if not self.cribd.running:
            await asyncio.to_thread(self.cribd.start)
        async with self.cribd.connect() as cri:
            for sandbox in await cri.sandboxes():
                await cri.remove_pod(sandbox)

    def check(self, least: int) -> None:
        """That nothing was wrong, and that so many faults have happened."""
        count = f"{len(self.problems)} of {self.lives} lives, with {self.happened} faults:\n"
        print(f"{self.happened} faults in {self.lives} lives; {len(self.unmet)} did not happen: {self.unmet}")
        assert not self.problems, count + "\n".join(self.problems)
        assert self.happened >= least, f"only {self.happened} faults have happened"


async def steps_of(
    cribd: Steered, *kinds: str, kubelet: Kubelet | None = None, verbs: Sequence[str] = ()
) -> dict[str, list[tuple[str, int]]]:
    """What each verb passes in a life without faults, in order; of several of a name with their number.

    `kinds` are points or their first words.
    """
    kubelet = kubelet or Kubelet(cribd, shares_pid=True)
    kubelet.records = True
    async with kubelet.connected():
        await kubelet.live(*verbs)
    return {
        verb: [step for step in numbered(points) if step[0] in kinds or step[0].split()[0] in kinds]
        for verb, points in kubelet.passed.items()
    }


def numbered(points: list[str]) -> list[tuple[str, int]]:
    """Each passing: the point, and the how manieth of that name it is."""
    counted: Counter[str] = Counter()
    found = []
    for point in points:
        counted[point] += 1
        found.append((point, counted[point]))
    return found
