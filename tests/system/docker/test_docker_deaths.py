"""Engines and daemons that are killed, at each step: every exit is told once and truly, nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.docker.api import EngineApi, EngineCall, EngineLost
from crib.backends.docker.handler import DockerHandler
from crib.backends.docker.nouns import engine_name
from crib.backends.known_processes import is_alive
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode
from crib.model.streams import ExecProcess
from crib.ports.containers import CreateRequest
from tests.contract.handler_lab import HandlerLab, finish
from tests.fakes.world import bounded
from tests.system.labs.docker_engine import DockerLab, Engine, docker_engine, docker_lab
from tests.system.labs.oci_streams import comes_true
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]
COUNTING = ("/bin/sh", "-c", "n=0; until [ -e /go ]; do n=$((n+1)); echo $n; echo e$n >&2; done; exit 3")


@pytest.fixture
async def real(engine: Engine) -> AsyncIterator[DockerLab]:
    before = engine.count()
    async with docker_lab(engine) as made:
        yield made
    assert engine.count() == before, "containers or images are left in the Engine"


@pytest.fixture
async def lab(real: DockerLab) -> AsyncIterator[HandlerLab]:
    made = HandlerLab(real.handler, real.logs)
    yield made
    await made.close()


async def next_daemon(real: DockerLab, lab: HandlerLab) -> HandlerLab:
    """As after a kill -9: the handler of before does nothing more, the next knows nothing."""
    await lab.close()
    return HandlerLab(await real.again(), real.logs)


class Killed(BaseException):
    """The daemon is gone in the middle of a call."""


def killing_at(monkeypatch: pytest.MonkeyPatch, method: str, ending: str, *, done: bool) -> None:
    """The next such call is the daemon's last: before it is made, or after the Engine has done it."""
    ask = EngineApi.ask

    async def asked(self: EngineApi, call: EngineCall) -> object:
        if call.method == method and call.path.endswith(ending):
            if done:
                await ask(self, call)
            raise Killed
        return await ask(self, call)

    monkeypatch.setattr(EngineApi, "ask", asked)


STEPS = [
    ("POST", "/containers/create"),
    ("GET", "/json"),
    ("GET", "/images/json"),
]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("method", "ending"), STEPS)
async def test_a_create_that_was_killed_leaves_nothing(
    real: DockerLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch, method: str, ending: str, done: bool
) -> None:
    pod = await lab.pod()
    record = lab.container(pod)
    with monkeypatch.context() as patch:
        killing_at(patch, method, ending, done=done)
        with pytest.raises(Killed):
            await lab.handler.containers.create(CreateRequest(record, pod, ImageConfig()), no_stage)
    later = await next_daemon(real, lab)
    async with bounded():
        await later.handler.sweep(lambda: {pod.id})
        assert (await later.handler.containers.observe(record)).status == "gone"
        await later.handler.pods.remove(pod)
    await later.close()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("method", "ending"), [("POST", "/containers/create"), ("POST", "/start"), ("GET", "/json")]
)
async def test_a_pod_that_was_killed_while_it_was_made_leaves_nothing(
    real: DockerLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch, method: str, ending: str, done: bool
) -> None:
    record = lab.sandbox(NamespaceMode.POD)
    with monkeypatch.context() as patch:
        killing_at(patch, method, ending, done=done)
        with pytest.raises(Killed):
            await lab.handler.pods.prepare(record, no_stage)
    later = await next_daemon(real, lab)
    async with bounded():
        await later.handler.sweep(set)
        assert await later.handler.sweep(set, dry=True) == []
    await later.close()


@pytest.mark.parametrize("done", [False, True])
async def test_a_start_that_was_killed_is_seen_as_what_it_came_to(
    real: DockerLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    pod = await lab.pod()
    record = await lab.created(pod, *COUNTING)
    with monkeypatch.context() as patch:
        killing_at(patch, "POST", "/start", done=done)
        with pytest.raises(Killed):
            await lab.handler.containers.start(record)
    later = await next_daemon(real, lab)
    async with bounded():
        seen = await later.handler.containers.observe(record)
        assert (seen.status, seen.monitor_alive) == ("running" if done else "created", True)
        await later.gone(record)
        await later.handler.pods.remove(pod)
    await later.close()


async def test_a_delete_that_was_killed_is_done_by_the_next(
    real: DockerLab, lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    with monkeypatch.context() as patch:
        killing_at(patch, "DELETE", engine_name(record.id), done=True)
        with pytest.raises(Killed):
            await lab.handler.containers.delete(record)
    later = await next_daemon(real, lab)
    async with bounded():
        await later.handler.containers.delete(record)
        assert (await later.handler.containers.observe(record)).status == "gone"
        await later.handler.pods.remove(pod)
    await later.close()


def first_pid(real: DockerLab, container: ContainerId) -> int:
    return real.handler.tools.bundles.first_pid(container)


async def test_output_and_exits_of_all_are_whole_however_often_a_daemon_is_killed(
    real: DockerLab, lab: HandlerLab
) -> None:
    random_ = random.Random(7)
    pod = await lab.pod()
    record = await lab.running(pod, *COUNTING)
    for _ in range(5):
        await asyncio.sleep(random_.uniform(0.05, 0.3))  # the kill comes at another moment each time
        lab = await next_daemon(real, lab)
        assert (await lab.handler.containers.observe(record)).status == "running"
    Path(f"/proc/{first_pid(real, record.id)}/root/go").touch()
    assert (await lab.exit_of(record)).code == 3
    copy = real.handler.tools.logs.of(record.id)
    assert copy is not None
    await comes_true(lambda: copy.has_ended)  # an exit waits for its log for a bounded time only
    streams: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for text in Path(record.log_path).read_text().splitlines():
        _time, stream, tag, content = text.split(" ", 3)
        assert tag == "F", text
        streams[stream].append(content)
    count = len(streams["stdout"])
    assert count > 100
    assert streams["stdout"] == [str(number + 1) for number in range(count)]
    assert streams["stderr"] == [f"e{number + 1}" for number in range(count)]
    async with bounded():
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)
    await lab.close()


async def test_containers_of_others_are_left_alone(real: DockerLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    mine = real.handler.tools.containers
    other = replace(real.opening, name=real.opening.name)
    theirs = DockerHandler.closed(other, "another daemon")
    theirs.tools.environment.owner = "/another/state:crun"
    assert await theirs.tools.containers.all() == {}
    with pytest.raises(CribError, match="left alone"):
        await theirs.tools.containers.remove(record.id)
    assert record.id in await mine.all()
    assert await theirs.sweep(lambda: {record.id, pod.id}) == []
    await theirs.close()
    await lab.gone(record)
    await lab.handler.pods.remove(pod)


async def test_a_container_that_somebody_removes_is_lost_and_told(real: DockerLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    real.engine.ask("DELETE", f"/containers/{engine_name(record.id)}?force=1")
    told = await lab.exit_of(record)
    assert told.code in (137, 255), "as the Engine told its end before, or not"
    await lab.handler.containers.delete(record)
    await lab.handler.pods.remove(pod)


@pytest.mark.nightly
async def test_an_engine_that_is_killed_comes_back_with_what_ran_and_tells_what_ended() -> None:
    """Its own one, which leaves containers alive (live-restore)."""
    with docker_engine() as engine:
        async with docker_lab(engine) as real:
            lab = HandlerLab(real.handler, real.logs)
            pod = await lab.pod()
            ends, stays = await lab.running(pod, *COUNTING[:2], "exec sleep 600"), await lab.running(pod)
            pid = first_pid(real, ends.id)
            engine.kill()
            with pytest.raises(EngineLost):
                await lab.handler.streams.exec(stays, ExecProcess(("/bin/true",), stdout=True))
            assert not (await lab.handler.readiness()).ready
            await lab.handler.containers.signal(ends, signal.SIGKILL, everyone=True)
            await comes_true(lambda: not os.path.exists(f"/proc/{pid}/exe"))
            assert (await lab.handler.containers.observe(stays)).status == "running"
            with pytest.raises(EngineLost):
                await lab.handler.containers.delete(ends)
            engine.start()
            assert (await lab.exit_of(ends)).code == 137
            assert (await lab.handler.readiness()).ready
            session = await lab.handler.streams.exec(stays, ExecProcess(("/bin/echo", "hi"), stdout=True))
            assert await finish(session) == (0, b"hi\n", b"")
            await lab.handler.containers.delete(ends)
            await lab.gone(stays)
            await lab.handler.pods.remove(pod)
            await lab.close()
        assert engine.count() == (0, 0)


@pytest.mark.nightly
async def test_without_live_restore_an_engine_takes_its_containers_and_pods_along() -> None:
    with docker_engine(live_restore=False) as engine:
        async with docker_lab(engine) as real:
            lab = HandlerLab(real.handler, real.logs)
            pod = await lab.pod()
            record = await lab.running(pod)
            assert is_alive(pod.infra)
            losses = lab.handler.pods.losses(lambda: [pod])
            engine.kill()
            engine.start()
            assert (await lab.exit_of(record)).code != 0
            async with bounded():
                assert await anext(losses) == pod.id
                await losses.aclose()  # type: ignore[attr-defined]  # it is a generator
            assert not await lab.handler.pods.alive(pod)
            await lab.handler.containers.delete(record)
            await lab.handler.pods.remove(pod)
            await lab.close()
        assert engine.count() == (0, 0)


async def test_a_handler_opens_before_its_engine_is_there(engine: Engine, tmp_path: Path) -> None:
    moved = replace_socket(engine, tmp_path)
    async with docker_lab(moved) as real:
        lab = HandlerLab(real.handler, real.logs)
        ready = await lab.handler.readiness()
        assert not ready.ready
        assert "not to be reached" in ready.message
        with pytest.raises(EngineLost, match=str(tmp_path)):
            await lab.pod()
        os.symlink(engine.socket, moved.socket)
        pod = await lab.pod()
        assert (await lab.handler.readiness()).ready
        assert lab.handler.facts.version.startswith("20.") or lab.handler.facts.version
        await lab.gone(await lab.running(pod))
        await lab.handler.pods.remove(pod)
        await lab.close()


def replace_socket(engine: Engine, directory: Path) -> Engine:
    """The same Engine at a place where nothing is yet."""

    class Moved(Engine):
        @property
        def socket(self) -> str:
            return f"{directory}/docker.sock"

    return Moved(engine.top, engine.path)
