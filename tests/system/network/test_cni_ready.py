"""The wait for CNI networks that are coming up, and what Status says of those that are not there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from crib.backends.network.cni import plugins as cni_plugins
from crib.backends.network.cni import ready as cni_ready
from crib.model.errors import Unavailable
from tests.fakes.world import bounded
from tests.system.labs.cni_lab import CniLab
from tests.system.labs.daemon import until
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CniLab]:
    made = CniLab(tmp_path)
    yield made
    made.remove()


@dataclass
class Stages:
    """A stage timer that keeps what was begun."""

    begun: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def __call__(self, name: str, detail: str) -> Iterator[None]:
        self.begun.append(f"{name} {detail}")
        yield


async def test_without_a_configuration_attach_is_unavailable(lab: CniLab) -> None:
    with pytest.raises(Unavailable, match="no network configuration"):
        await lab.network().attach(lab.namespaces.make().pod(), no_stage)


async def test_a_network_that_is_there_is_not_waited_for_and_not_asked(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    stages = Stages()
    await lab.network(ready_timeout=30.0).attach(lab.namespaces.make().pod(), stages)  # type: ignore[arg-type]  # as it comes
    assert stages.begun == ["network loopback", "network one"]
    assert [call["command"] for call in lab.calls("ADD", "STATUS", "VERSION")] == ["ADD"]


async def test_a_pod_waits_for_the_file_then_for_the_plugin_then_for_its_word(lab: CniLab) -> None:
    stages = Stages()
    network = lab.network(ready_timeout=30.0, cni_default_network="late")
    one = lab.recorder("one")
    program = lab.directory / "bin" / "one"
    program.rename(lab.directory / "one.aside")
    failing = lab.fail("one", "STATUS", code=50)
    async with bounded():
        pod = asyncio.ensure_future(network.attach(lab.namespaces.make().pod(), stages))  # type: ignore[arg-type]  # as it comes
        await until(lambda: "network wait" in stages.begun)
        lab.configure(one, version="1.1.0", name="another")
        lab.configure(one, version="1.1.0", name="late")
        (lab.directory / "one.aside").rename(program)
        await until(lambda: lab.calls("STATUS"))
        assert not pod.done()
        failing.unlink()
        assert (await pod).details == {"network": "late"}
    assert stages.begun == ["network wait", "network loopback", "network one"]
    assert len(lab.calls("ADD")) == 1


async def test_a_failed_add_of_a_plugin_that_is_not_available_is_undone_and_tried_again(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    failing = [lab.fail("one", "ADD"), lab.fail("one", "STATUS", code=51)]
    network = lab.network(ready_timeout=30.0)
    async with bounded():
        pods = [
            asyncio.ensure_future(network.attach(lab.namespaces.make().pod(), no_stage)) for _ in range(3)
        ]
        await until(lambda: len(lab.calls("DEL")) == 3)
        for file in failing:
            file.unlink()
        await asyncio.gather(*pods)
    assert len(lab.calls("ADD")) == 6


async def test_a_pod_that_came_at_the_second_try_is_no_garbage_of_a_sweep_that_was_not_told_of_it(
    lab: CniLab,
) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    failing = [lab.fail("one", "ADD"), lab.fail("one", "STATUS", code=51)]
    network = lab.network(ready_timeout=30.0)
    async with bounded():
        pod = asyncio.ensure_future(network.attach(lab.namespaces.make().pod(), no_stage))
        await until(lambda: lab.calls("DEL"))
        for file in failing:
            file.unlink()
        await pod
        assert await network.sweep(()) == []
    assert len(lab.calls("DEL")) == 1


async def test_a_failed_add_of_a_plugin_that_is_available_is_not_tried_again(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    lab.fail("one", "ADD")
    with pytest.raises(Exception, match="one ADD: no hard feelings"):
        await lab.network(ready_timeout=30.0).attach(lab.namespaces.make().pod(), no_stage)
    assert [call["command"] for call in lab.calls("ADD", "STATUS")] == ["ADD", "STATUS"]


async def test_what_was_missing_to_the_end_is_told_file_by_file(lab: CniLab) -> None:
    (lab.conf_dir / "05-broken.conflist").write_text("{")
    pod = lab.namespaces.make().pod()
    with pytest.raises(Unavailable, match=rf"attach pod {pod.id}: .*05-broken\.conflist"):
        await lab.network(ready_timeout=0.1).attach(pod, no_stage)
    file = lab.configure({"type": "not-there"}, name="other")
    with pytest.raises(
        Unavailable, match=rf"network other \({file}\): cni plugin not-there is in none of .*/bin"
    ):
        await lab.network(ready_timeout=0.1).attach(pod, no_stage)
    with pytest.raises(Unavailable, match=rf"network main is not in {lab.conf_dir}, which has other"):
        await lab.network(ready_timeout=0.1, cni_default_network="main").attach(pod, no_stage)


async def test_a_pod_that_waited_for_a_refusing_plugin_in_vain_says_what_it_said(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    lab.fail("one", "STATUS", code=50)
    network = lab.network(ready_timeout=2.0)
    assert not (await network.readiness()).ready
    with pytest.raises(Unavailable, match="one STATUS: no hard feelings; really"):
        await network.attach(lab.namespaces.make().pod(), no_stage)
    assert lab.calls("ADD") == []


async def test_a_hung_status_does_not_hold_a_pod_longer_than_it_waits(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    (lab.directory / "one.HANG.STATUS").touch()
    program = lab.directory / "bin" / "one"
    program.rename(lab.directory / "one.aside")
    async with bounded():
        network = lab.network(ready_timeout=3.0)
        stages = Stages()
        pod = asyncio.ensure_future(network.attach(lab.namespaces.make().pod(), stages))  # type: ignore[arg-type]  # as it comes
        await until(lambda: stages.begun)
        (lab.directory / "one.aside").rename(program)
        with pytest.raises(Unavailable, match="do not answer STATUS"):
            await pod


async def test_a_hung_status_holds_up_a_kubelet_for_a_moment_only(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_ready, "STATUS_SECONDS", 0.0)
    lab.configure(lab.recorder("one"), lab.recorder("two"), version="1.1.0")
    network = lab.network()
    assert (await network.readiness()).ready
    (lab.directory / "one.HANG.STATUS").touch()
    monkeypatch.setattr(cni_plugins, "ANSWER_SECONDS", 0.5)
    async with bounded():
        readiness = await network.readiness()
    assert not readiness.ready
    assert readiness.message.endswith("cni plugin one STATUS: no answer within 0.5 s, killed")


async def test_readiness_names_what_is_missing(lab: CniLab) -> None:
    network = lab.network()
    empty = await network.readiness()
    assert (empty.ready, empty.reason) == (False, "NetworkPluginNotReady")
    assert "net.d" in empty.message
    file = lab.configure({"type": "no-such-plugin"})
    missing = (await network.readiness()).message
    assert missing.startswith(f"network test-net ({file}): cni plugin no-such-plugin is in none of ")
    lab.configure(lab.recorder("one"), version="0.2.0")
    assert (
        "speaks 0.3.1, 0.4.0, 1.0.0, 1.1.0, network test-net is 0.2.0" in (await network.readiness()).message
    )
    lab.configure(lab.recorder("one"), version="1.0.0")
    lab.fail("one", "STATUS", code=50)
    assert (await network.readiness()).ready  # STATUS came with 1.1.0
    lab.configure(lab.recorder("one"), version="1.1.0")
    assert "no hard feelings" in (await network.readiness()).message


async def test_all_that_ask_at_a_time_get_one_word_of_each_plugin(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_ready, "STATUS_SECONDS", 1000.0)
    lab.configure(lab.recorder("one"), lab.recorder("two"), version="1.1.0")
    network = lab.network()
    assert all(one.ready for one in await asyncio.gather(*(network.readiness() for _ in range(5))))
    assert [call["plugin"] for call in lab.calls("STATUS")] == ["one", "two"]


async def test_a_directory_of_a_handler_that_is_missing_is_named_and_the_node_is_ready(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    missing = lab.directory / "missing.d"
    readiness = await lab.network(missing).readiness()
    assert readiness.ready
    assert readiness.message == f"cannot read {missing}: No such file or directory"


async def test_a_handlers_directory_need_not_have_the_default_network(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    own = lab.own_directory(lab.recorder("own"))
    network = lab.network(own, cni_default_network="test-net")
    pod = replace(lab.namespaces.make().pod(), conf_dir=str(own))
    assert (await network.attach(pod, no_stage)).details == {"network": "own-net"}
