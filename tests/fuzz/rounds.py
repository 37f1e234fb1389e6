"""Rounds of odd requests against a real cribd, and what has to be true after each.

A round is drawn from its seed and number: one or two pods, some containers in them, then calls by several
callers at once, of which some are cancelled or cut off by a deadline. At its end everything is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError, Message

from crib.client import volumes
from crib.client.errors import NotFound
from crib.host.mount_table import mounts_below
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.fuzz.requests import METHODS, OddRequests, World
from tests.fuzz.shrinking import smaller
from tests.fuzz.taming import Haven, tame
from tests.images import busybox_image, write_saved_archive
from tests.patience import PATIENCE
from tests.system.labs.daemon import SETTLE_SECONDS, Cri, Cribd
from tests.system.labs.leftovers import Leftovers, remove_cgroups

IMAGE = "localhost:1/busybox:test"
"""Of a registry that nobody serves: a pull of it ends at once."""
CONFIG = """
[handlers.crun]
[[images.policy]]
match = "localhost:1/*"
action = "accept"
[[images.policy]]
action = "reject"
"""
"""Of the daemon: no odd name of an image may make it ask a registry."""

CALLERS = 4
CALLS = 9
"""Of each caller in a round."""
CALL_PATIENCE = 120.0 * PATIENCE
"""Seconds for a call that is neither cancelled nor waits by its contract; beyond them it hangs."""
VERSION_PATIENCE = 60.0 * PATIENCE
"""Seconds for Version, which is asked all the time: where others have the CPUs it once took over 10."""
MOMENT = 0.3
"""Seconds that streams, and calls that wait for a container, are given."""
SHRINKS = 60
"""Attempts to make a failing request smaller."""
MAX_SHOWN = 3000
"""Characters of a request in a message."""
_WAITING = frozenset(
    {
        *("ExecSync", "StopContainer", "GetContainerEvents", "Events", "PullImageProgress", "PullImage"),
        "CheckImages",
    }
)
_WEIGHTS = {"CreateContainer": 14, "RunPodSandbox": 5, "UpdateContainerResources": 6, "ExplainContainer": 6}
_WEIGHTS |= {"StartContainer": 5, "ExecSync": 3, "StopContainer": 3, "UpdatePodSandboxResources": 3}
_OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
EXPECTED: tuple[tuple[str, str, str], ...] = (
    ("PullImage", r"^RegistryUnavailable: ", "the kubelet reads this word in UNKNOWN only"),
    ("PullImage", r"^SignatureValidationFailed: ", "the kubelet reads this word in UNKNOWN only"),
)
"""Method, text and reason of the answers INTERNAL and UNKNOWN that are right."""


@dataclass
class Findings:
    """What went wrong, and figures of what was tried."""

    problems: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    slowest_version: float = 0.0


class Rounds:
    """All rounds of one seed against one daemon."""

    def __init__(self, cribd: Cribd, seed: str) -> None:
        self._cribd = cribd
        self._seed = seed
        top = cribd.root.with_name(f"{cribd.root.name}-haven")
        self._haven = Haven(str(top), str(cribd.logs), cribd.cgroup, cribd.subnet)
        self._archive = cribd.root.with_name(f"{cribd.root.name}.tar")
        self.findings = Findings()

    @contextlib.contextmanager
    def haven(self) -> Iterator[None]:
        """The directory that requests may name, and the cgroups below which they may put pods."""
        try:
            yield
        finally:
            shutil.rmtree(self._haven.top, ignore_errors=True)
            self._archive.unlink(missing_ok=True)

    async def warm_up(self) -> None:
        """Make what all pods share, so that each round leaves as much as it found."""
        self._refill()
        async with self._cribd.connect() as cri:
            world = World(IMAGE)
            await self._begin(cri, world, -1)
            draw = OddRequests(random.Random(self._seed), self._haven)
            shared = draw.request("RunPodSandbox", world, 0)
            assert isinstance(shared, pb.RunPodSandboxRequest)
            shared.config.linux.security_context.namespace_options.pid = pb.POD
            await cri.call(cri.runtime.RunPodSandbox, shared)
            await self._clear(cri)

    async def play(self, number: int) -> None:
        """One round; what is wrong is added to `findings`."""
        before = self._cribd.leftovers()
        log_size = len(self._cribd.log())
        self._refill()
        async with self._cribd.connect() as cri:
            world = World(IMAGE)
            watch = asyncio.ensure_future(self._ask_version(cri))
            try:
                await self._begin(cri, world, number)
                await asyncio.gather(
                    *(self._caller(cri, world, f"{self._seed}/{number}/{n}") for n in range(CALLERS))
                )
            finally:
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch
            await self._clear(cri)
            await self._look(cri, before, log_size, number)

    def _refill(self) -> None:
        shutil.rmtree(self._haven.top, ignore_errors=True)
        shutil.rmtree(self._haven.logs, ignore_errors=True)
        Path(self._haven.top).mkdir()
        self._haven.fill()
        write_saved_archive(Path(self._haven.top, "archive.tar"), [busybox_image(name=IMAGE)])
        shutil.copy(Path(self._haven.top, "archive.tar"), self._archive)

    async def _begin(self, cri: Cri, world: World, number: int) -> None:
        draw = OddRequests(random.Random(f"{self._seed}/{number}"), self._haven)
        for _ in range(2):
            asked: Any = draw.request("RunPodSandbox", world, 0)
            reply = await cri.call(cri.runtime.RunPodSandbox, asked)
            world.pods.append(reply.pod_sandbox_id)
            request: Any = draw.request("CreateContainer", world, 0)
            made = await cri.call(cri.runtime.CreateContainer, request)
            world.containers.append(made.container_id)

    async def _caller(self, cri: Cri, world: World, seed: str) -> None:
        choose = random.Random(seed)
        draw = OddRequests(choose, self._haven)
        names = sorted(METHODS)
        weights = [_WEIGHTS.get(name, 1) for name in names]
        for _ in range(CALLS):
            method = choose.choices(names, weights)[0]
            request = draw.request(method, world)
            limit = choose.choice((0.001, 0.02, 0.1)) if choose.random() < 0.1 else 0.0
            if choose.random() < 0.1:
                await self._damaged(cri, method, request, choose)
                continue
            code, text, reply = await self._send(cri, method, request, limit)
            self._note(world, reply)
            await self._judge(cri, method, request, code, text)

    async def _send(
        self, cri: Cri, method: str, request: Message, limit: float = 0.0
    ) -> tuple[grpc.StatusCode, str, Message | None]:
        """Code, text and last answer; a call with a limit is cut off then."""
        stub = _stub(cri, method)
        own = limit or (MOMENT if method in _WAITING else 0.0)
        call = stub(request, timeout=own or CALL_PATIENCE)
        reply: Message | None = None
        try:
            if METHODS[method].server_streaming:
                async for message in call:
                    reply = message
            else:
                reply = await call
        except grpc.aio.AioRpcError as error:
            code, text = error.code(), error.details() or ""
            if code == grpc.StatusCode.DEADLINE_EXCEEDED and not own:
                self.findings.problems.append(
                    f"{method} did not answer in {CALL_PATIENCE} s: {_shown(request)}"
                )
        else:
            code, text = grpc.StatusCode.OK, ""
        self.findings.calls += 1
        self.findings.codes[code.name] += 1
        return code, text, reply

    async def _damaged(self, cri: Cri, method: str, request: Message, choose: random.Random) -> None:
        """The request's bytes with some of them changed; what is still a message is tamed again."""
        data = bytearray(request.SerializeToString()[: 1 << 20])
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(data) + 1)
            data[at : at + choose.randrange(3)] = choose.randbytes(choose.randrange(4))
        with contextlib.suppress(DecodeError):
            again = type(request).FromString(bytes(data))
            tame(again, self._haven)
            data = bytearray(again.SerializeToString())
        service = METHODS[method].containing_service.full_name
        async with grpc.aio.insecure_channel(f"unix://{self._cribd.socket}") as channel:
            call = cast(Any, channel).unary_stream(f"/{service}/{method}")(bytes(data), timeout=MOMENT)
            code, text = grpc.StatusCode.OK, ""
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                code, text = error.code(), error.details() or ""
        self.findings.calls += 1
        self.findings.codes[code.name] += 1
        if code in _OURS and not _is_expected(method, text):
            self.findings.problems.append(
                f"{method} with the bytes {bytes(data)[:500]!r}: {code.name} {text}"
            )

    def _note(self, world: World, reply: Message | None) -> None:
        if isinstance(reply, pb.RunPodSandboxResponse):
            world.pods.append(reply.pod_sandbox_id)
        if isinstance(reply, pb.CreateContainerResponse):
            world.containers.append(reply.container_id)

    async def _judge(self, cri: Cri, method: str, request: Message, code: grpc.StatusCode, text: str) -> None:
        if not self._cribd.running:
            raise AssertionError(f"cribd died after {method}: {_shown(request)}\n{self._cribd.log()[-3000:]}")
        if code not in _OURS or _is_expected(method, text):
            return
        least = await self._shrink(cri, method, request, text)
        self.findings.problems.append(f"{method} answers {code.name}: {text}\n{_shown(least)}")

    async def _shrink(self, cri: Cri, method: str, request: Message, text: str) -> Message:
        """The least request that fails in the same words; ids and numbers in them may differ."""
        wanted, tries = _words(text), 0
        least, progress = request, True
        while progress and tries < SHRINKS:
            progress = False
            for less in smaller(least):
                tame(less, self._haven)
                tries += 1
                code, now, _ = await self._send(cri, method, less)
                if code in _OURS and _words(now) == wanted:
                    least, progress = less, True
                    break
                if tries >= SHRINKS:
                    break
        return least

    async def _ask_version(self, cri: Cri) -> None:
        while True:
            began = time.monotonic()
            await cri.call(cri.runtime.Version, pb.VersionRequest(), VERSION_PATIENCE)
            self.findings.slowest_version = max(self.findings.slowest_version, time.monotonic() - began)
            await asyncio.sleep(0.05)  # a period: the fuzzing ends it

    async def _clear(self, cri: Cri) -> None:
        """Remove pods, volumes and images, and give the bridge its range back."""
        for pod in (await cri.call(cri.runtime.ListPodSandbox, pb.ListPodSandboxRequest())).items:
            await cri.remove_pod(pod.id)
        await self._clear_volumes(cri)
        for image in (await cri.call(cri.image.ListImages, pb.ListImagesRequest())).images:
            await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=image.id)))
        # a fresh one each time: its layer's mount comes with the first container, and goes with the image
        await cri.import_archive(self._archive)
        ranges = pb.NetworkConfig(pod_cidr=self._haven.subnet)
        update = pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=ranges))
        await cri.call(cri.runtime.UpdateRuntimeConfig, update)

    async def _clear_volumes(self, cri: Cri) -> None:
        async for snapshot in volumes.list_snapshots(cri.connection):
            await volumes.remove_snapshot(cri.connection, snapshot.id)
        async for volume in volumes.list_volumes(cri.connection):
            for use in volume.uses:
                await volumes.unpublish(cri.connection, use.pod_uid)
            with contextlib.suppress(NotFound):  # it went with its pod
                await volumes.remove(cri.connection, volume.id)

    async def _look(self, cri: Cri, before: Leftovers, log_size: int, number: int) -> None:
        """Nothing may be left, in the daemon's places or in the haven, and nothing in its log but lines."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            remove_cgroups(f"{self._cribd.cgroup}/fuzz")  # the client's: it stays until the client removes it
            left = self._cribd.leftovers().differences(before)
            left += [f"mount {entry.path}" for entry in mounts_below(self._haven.top)]
            if not left or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)  # the kernel tells nobody when it has removed the last of them
            await self._clear(cri)  # what was being made for a caller who went away is made to its end
        if left:
            self.findings.problems.append(f"after round {number}, not as before: {'; '.join(left)}")
        log = self._cribd.log()[log_size:]
        if "Traceback" in log:
            at = log.index("Traceback")
            self.findings.problems.append(
                f"in round {number} a traceback:\n{log[max(at - 300, 0) : at + 3000]}"
            )


def _stub(cri: Cri, method: str) -> Any:
    for stub in (cri.runtime, cri.image, cri.node):
        if hasattr(stub, method):
            return getattr(stub, method)
    raise AssertionError(f"no stub has {method}")


def _is_expected(method: str, text: str) -> bool:
    return any(method == name and re.search(pattern, text) for name, pattern, _ in EXPECTED)


def _words(text: str) -> str:
    return re.sub(r"[0-9a-f]{8,}|[0-9]+|'[^']*'", "#", text)[:60]


def _shown(request: Message) -> str:
    text = str(request)
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[: MAX_SHOWN // 2]}\n…\n{text[-MAX_SHOWN // 2 :]}\n({request.ByteSize()} bytes)"


def resident(pid: int) -> int:
    """Bytes of a process's memory that no file backs."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
