"""The port `ContainerRuntime`: in memory, and crun with conmon."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from crib.model.edits import ContainerEdits
from crib.model.errors import CribError, InvalidRequest, WrongState
from crib.model.image import ImageConfig
from crib.model.sandbox import Resources
from crib.ports.containers import CreateRequest
from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded
from tests.system.labs.pod_namespaces import no_stage


async def test_an_explanation_is_the_spec_with_origins_and_makes_nothing(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = lab.container(pod, "/bin/sleep", "5")
    image = ImageConfig(entrypoint=("/bin/never",))
    async with bounded():
        told = await lab.handler.containers.explain(CreateRequest(record, pod, image))
        assert json.loads(told.spec)["process"]["args"] == ["/bin/sleep", "5"]
        assert told.origins["/process/args"] == "container command"
        assert (await lab.handler.containers.observe(record)).status == "gone"
        bare = replace(record, config=replace(record.config, command=()))
        told = await lab.handler.containers.explain(CreateRequest(bare, pod, image))
        assert told.origins["/process/args"] == "image ENTRYPOINT"
        with pytest.raises(InvalidRequest, match="command"):
            await lab.handler.containers.explain(CreateRequest(bare, pod, ImageConfig()))
        await lab.handler.pods.remove(pod)


async def test_what_edits_change_is_in_the_container_and_is_told_with_its_origin(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = lab.container(pod)
    edits = (
        ContainerEdits("plugin 10-first", env=(("COLOUR", "blue"), ("SHAPE", "round"))),
        ContainerEdits("plugin 20-second", env=(("COLOUR", "red"),)),
    )
    request = CreateRequest(record, pod, ImageConfig(), edits)
    async with bounded():
        told = await lab.handler.containers.explain(request)
        env = json.loads(told.spec)["process"]["env"]
        places = {entry: f"/process/env/{position}" for position, entry in enumerate(env)}
        assert "COLOUR=blue" not in env
        assert "plugin 20-second" in told.origins[places["COLOUR=red"]]
        assert told.origins[places["SHAPE=round"]] == "plugin 10-first"
        made = await lab.handler.containers.create(request, no_stage)
        assert json.loads(lab.handler.containers.made_spec(record))["process"]["env"] == env
        await lab.gone(replace(record, process=made.process, monitor=made.monitor, user=made.user))
        await lab.handler.pods.remove(pod)


async def test_who_may_change_a_container_sees_the_spec_and_what_he_changes_is_in_it(
    lab: HandlerLab,
) -> None:
    pod = await lab.pod()
    record = lab.container(pod, "/bin/sleep", "5")
    shown: list[bytes] = []

    async def adjust(spec: bytes) -> tuple[ContainerEdits, ...]:
        shown.append(spec)
        return (ContainerEdits("NRI 10-first", env=(("COLOUR", "blue"),)),)

    before = (ContainerEdits("other", env=(("COLOUR", "red"),)),)
    async with bounded():
        request = CreateRequest(record, pod, ImageConfig(), before, adjust)
        made = await lab.handler.containers.create(request, no_stage)
        assert len(shown) == 1
        told = json.loads(shown[0])["process"]
        assert told["args"] == ["/bin/sleep", "5"]
        assert "COLOUR=red" in told["env"]
        env = json.loads(lab.handler.containers.made_spec(record))["process"]["env"]
        assert "COLOUR=blue" in env
        assert "COLOUR=red" not in env
        await lab.gone(replace(record, process=made.process, monitor=made.monitor, user=made.user))
        await lab.handler.pods.remove(pod)


async def test_a_container_that_somebody_refuses_to_have_made_leaves_nothing(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = lab.container(pod)

    async def refuse(spec: bytes) -> tuple[ContainerEdits, ...]:
        raise WrongState("no")

    async with bounded():
        request = CreateRequest(record, pod, ImageConfig(), adjust=refuse)
        with pytest.raises(WrongState, match="no"):
            await lab.handler.containers.create(request, no_stage)
        await lab.handler.containers.delete(record)
        assert (await lab.handler.containers.observe(record)).status == "gone"
        await lab.handler.pods.remove(pod)


async def test_the_specs_of_what_was_made_are_told_until_it_is_gone(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.created(pod, "/bin/sleep", "5")
    assert json.loads(lab.handler.containers.made_spec(record))["process"]["args"] == ["/bin/sleep", "5"]
    network = {"type": "network", "path": lab.handler.pods.netns_path(pod)}
    assert network in json.loads(lab.handler.pods.made_spec(pod))["linux"]["namespaces"]
    await lab.gone(record)
    assert lab.handler.containers.made_spec(record) == b""
    lab.lose(pod)
    assert network not in json.loads(lab.handler.pods.made_spec(pod))["linux"]["namespaces"]
    async with bounded():
        await lab.handler.pods.remove(pod)
    assert json.loads(lab.handler.pods.made_spec(pod))["linux"]["namespaces"] == []


async def test_a_container_lives_from_created_to_gone(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.created(pod)
    async with bounded():
        seen = await lab.handler.containers.observe(record)
        assert (seen.status, seen.exit, seen.monitor_alive) == ("created", None, True)
        await lab.handler.containers.start(record)
        seen = await lab.handler.containers.observe(record)
        assert (seen.status, seen.exit, seen.monitor_alive) == ("running", None, True)
        await lab.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        told = await lab.exit_of(record)
        assert (told.code, told.oom_killed, told.lost) == (137, False, False)
        seen = await lab.handler.containers.observe(record)
        assert seen.status in ("stopped", "gone")
        assert seen.exit is not None
        assert seen.exit.code == 137
        await lab.handler.containers.delete(record)
        await lab.handler.containers.delete(record)
        seen = await lab.handler.containers.observe(record)
        assert (seen.status, seen.exit) == ("gone", None)
        await lab.handler.pods.remove(pod)


@pytest.mark.parametrize(
    ("argv", "code"),
    [(("/bin/true",), 0), (("/bin/false",), 1), (("/bin/sh", "-c", "exit 143"), 143)],
)
async def test_an_exit_is_told_with_its_code(lab: HandlerLab, argv: tuple[str, ...], code: int) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, *argv)
    told = await lab.exit_of(record)
    assert told.code == code
    assert told.at > 0
    async with bounded():
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_a_created_container_that_is_killed_is_told_too(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.created(pod)
    async with bounded():
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_exits_on_file_are_told_to_who_asks_later(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/sh", "-c", "exit 4")
    first = await lab.exit_of(record)
    await lab.close()
    again = HandlerLab(lab.handler, lab.logs)
    assert (await again.exit_of(record)).code == first.code == 4
    await again.close()
    async with bounded():
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_a_program_that_is_not_there_fails_with_words(lab: HandlerLab) -> None:
    pod = await lab.pod()
    with pytest.raises(CribError, match=r"no-such-program|not found|No such file|no such file"):  # noqa: PT012  # at create or at start
        record = await lab.created(pod, "/no-such-program")
        await lab.handler.containers.start(record)
    async with bounded():
        await lab.handler.sweep(lambda: {pod.id})
        await lab.handler.pods.remove(pod)


async def test_signalling_or_deleting_what_is_gone_is_fine(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = lab.container(pod)
    async with bounded():
        await lab.handler.containers.signal(record, signal.SIGTERM)
        await lab.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_limits_of_created_and_running_containers_can_be_changed(lab: HandlerLab) -> None:
    pod = await lab.pod()
    wanted = Resources(cpu_shares=512, memory_limit_in_bytes=64 << 20, oom_score_adj=500)
    for record in (await lab.created(pod), await lab.running(pod)):
        async with bounded():
            await lab.handler.containers.update(record, wanted)
            await lab.handler.containers.update(
                replace(record, resources=wanted), replace(wanted, cpu_shares=256)
            )
            with pytest.raises(InvalidRequest, match=r"^cpuset_cpus"):
                await lab.handler.containers.update(record, Resources(cpuset_cpus="x"))
            await lab.gone(record)
            with pytest.raises(WrongState):
                await lab.handler.containers.update(record, wanted)
    async with bounded():
        await lab.handler.pods.remove(pod)
