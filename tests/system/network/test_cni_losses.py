"""CNI networks after a daemon that was killed or a power cut, and beside plugins that hang."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.network.cni import gc as cni_gc
from crib.backends.network.cni import network as cni_network
from crib.backends.network.cni import plugins as cni_plugins
from crib.model.errors import Broken, InvalidRequest, Unavailable
from crib.model.sandbox import PodMetadata
from tests.fakes.world import bounded
from tests.system.labs.cni_lab import CniLab
from tests.system.labs.daemon import until
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]

TEMPLATE = (
    """{"cniVersion": "1.0.0", "name": "templated", "plugins": [{"type": "one", "range": "{{.PodCIDR}}"}]}"""
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CniLab]:
    made = CniLab(tmp_path)
    yield made
    made.remove()


def hang(lab: CniLab, name: str, command: str) -> Path:
    """Have a recorder hang at a command until the file is removed; one that hangs already goes on hanging."""
    path = lab.directory / f"{name}.HANG.{command}"
    path.touch()
    return path


async def test_an_add_of_an_earlier_daemon_is_ended_before_the_pod_is_detached(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    pod = lab.namespaces.make().pod()
    hanging = hang(lab, "one", "ADD")
    async with bounded():
        adding = asyncio.ensure_future(lab.network().attach(pod, no_stage))
        await until(lambda: lab.calls("ADD"))
        await until((lab.directory / "child").exists)  # it has looked for the file
        hanging.unlink()
        await lab.network().detach(pod)
        with pytest.raises(Broken, match="one ADD: ended by SIGKILL"):
            await adding
    assert [call["command"] for call in lab.calls("ADD", "DEL")] == ["ADD", "DEL"]


async def test_a_gc_of_an_earlier_daemon_is_ended_before_a_pod_is_attached(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), version="1.1.0")
    namespace = lab.namespaces.make()
    hanging = hang(lab, "one", "GC")
    async with bounded():
        sweeping = asyncio.ensure_future(lab.network().sweep(()))
        await until(lambda: lab.calls("GC"))
        await until((lab.directory / "child").exists)  # it has looked for the file
        hanging.unlink()
        await lab.network().attach(namespace.pod(), no_stage)
        assert await sweeping == []
    assert [call["command"] for call in lab.calls("GC", "ADD")] == ["GC", "ADD"]


async def test_a_daemon_ends_plugins_of_an_earlier_one_and_none_of_its_own(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    network, (slow, quick) = lab.network(), (lab.namespaces.make().pod() for _ in range(2))
    await network.attach(quick, no_stage)
    hanging = hang(lab, "one", "ADD")
    async with bounded():
        adding = asyncio.ensure_future(network.attach(slow, no_stage))
        await until(lambda: len(lab.calls("ADD")) == 2)
        await until((lab.directory / "child").exists)  # it has looked for the file
        hanging.unlink()
        await network.detach(quick)
        assert not adding.done()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding


async def test_a_pod_whose_repair_was_cut_off_gets_its_network_at_the_next_start(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    network, pod = lab.network(), lab.namespaces.make().pod()
    await network.attach(pod, no_stage)
    hanging = hang(lab, "one", "ADD")
    async with bounded():
        repairing = asyncio.ensure_future(network.repair(pod, no_stage))
        await until(lambda: len(lab.calls("ADD")) == 2)
        await until((lab.directory / "child").exists)  # it has looked for the file
        hanging.unlink()
        attachment = await lab.network().resume(pod)
        with pytest.raises(Broken, match="one ADD: ended by SIGKILL"):
            await repairing
    assert attachment is not None
    assert attachment.addresses == ("10.9.8.7",)
    assert [call["command"] for call in lab.calls("ADD", "DEL")] == ["ADD", "DEL", "ADD", "DEL", "ADD"]


async def test_a_pod_that_has_its_network_is_let_alone_at_the_next_start(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    pod = lab.namespaces.make().pod()
    await lab.network().attach(pod, no_stage)
    assert await lab.network().resume(pod) is None
    assert [call["command"] for call in lab.calls("ADD", "DEL", "CHECK")] == ["ADD"]


async def test_a_plugin_that_does_not_die_is_told_and_looked_for_again(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def immortal(_owner: str, *, timeout: float) -> int:
        raise TimeoutError(timeout)

    lab.configure(lab.recorder("one"))
    network, namespace = lab.network(), lab.namespaces.make()
    with monkeypatch.context() as patch:
        patch.setattr(cni_network, "end_programs", immortal)
        for verb in (network.attach(namespace.pod(), no_stage), network.detach(namespace.pod())):
            with pytest.raises(Broken, match="that an earlier daemon ran does not die"):
                await verb
    assert lab.calls("ADD", "DEL") == []
    await network.attach(namespace.pod(), no_stage)


async def test_a_hung_status_does_not_hold_up_what_is_said_of_a_failed_add(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_plugins, "ANSWER_SECONDS", 1000.0)
    lab.configure(lab.recorder("one"), version="1.1.0")
    lab.fail("one", "ADD", code=7)
    hang(lab, "one", "STATUS")
    async with bounded():
        with pytest.raises(Broken, match="one ADD: no hard feelings"):
            await lab.network(plugin_timeout=1000.0, ready_timeout=3.0).attach(
                lab.namespaces.make().pod(), no_stage
            )


@pytest.mark.parametrize("field", ["name", "namespace", "uid"])
@pytest.mark.parametrize("name", ["a;b", "a=b"])
async def test_a_pod_that_no_plugin_could_be_told_of_is_refused_and_can_be_removed(
    lab: CniLab, field: str, name: str
) -> None:
    lab.configure(lab.recorder("one"))
    network = lab.network()
    namespace = lab.namespaces.make()
    changes: dict[str, Any] = {field: name}
    pod = replace(namespace.pod(), metadata=replace(PodMetadata("web", "u", "default"), **changes))
    with pytest.raises(InvalidRequest, match="contains a semicolon or an equals sign") as refused:
        await network.attach(pod, no_stage)
    assert refused.value.field == f"metadata.{field}"
    await network.detach(pod)
    assert lab.calls("ADD", "DEL") == []
    assert not lab.kept_file(namespace).exists()


async def test_an_allocation_that_a_power_cut_tore_is_released_but_not_one_that_is_just_being_made(
    lab: CniLab,
) -> None:
    lab.configure(lab.bridge_plugin())
    store = lab.directory / "ipam" / "test-net"
    store.mkdir()
    now, old = time.time(), time.time() - 2 * cni_gc.BOOT_MARGIN_SECONDS
    torn, being_made, strangers = (str(lab.subnet[number]) for number in (10, 11, 12))
    for address, text, at in ((torn, "", old), (being_made, "", now), (strangers, "somebody\r\neth0", old)):
        (store / address).write_text(text)
        os.utime(store / address, (at, at))
    assert await lab.network().sweep(()) == [f"address {torn} of test-net, held by nobody"]
    assert lab.held_addresses() == sorted([being_made, strangers])


async def test_garbage_waits_for_a_hung_plugin_for_a_moment_and_pods_start_all_the_while(
    lab: CniLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_gc, "ALONE_SECONDS", 0.1)
    lab.configure(lab.recorder("one"), version="1.1.0")
    network, (slow, quick) = lab.network(), (lab.namespaces.make().pod() for _ in range(2))
    hanging = hang(lab, "one", "ADD")
    async with bounded():
        adding = asyncio.ensure_future(network.attach(slow, no_stage))
        await until(lambda: lab.calls("ADD"))
        await until((lab.directory / "child").exists)  # it has looked for the file
        hanging.unlink()
        sweeping = asyncio.ensure_future(network.sweep({slow.id, quick.id}))
        with pytest.raises(Unavailable, match=r"at work for 0\.1 s: try again later"):
            await sweeping
        await network.attach(quick, no_stage)
        assert not adding.done()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        await network.sweep({slow.id, quick.id})
    assert [call["command"] for call in lab.calls("ADD", "GC")] == ["ADD", "ADD", "GC"]


async def test_a_template_that_is_set_or_changed_after_the_kubelet_told_the_range_is_written(
    lab: CniLab,
) -> None:
    lab.recorder("one")
    await lab.network().configure("10.1.2.0/24")
    template = lab.directory / "template"
    for name in ("templated", "changed"):
        template.write_text(TEMPLATE.replace("templated", name))
        network = lab.network(cni_conf_template=str(template))
        await network.sweep(())
        assert (await network.readiness()).ready
        (written,) = lab.conf_dir.iterdir()
        assert f'"name": "{name}"' in written.read_text()
        assert '"range": "10.1.2.0/24"' in written.read_text()


async def test_a_template_that_cannot_be_read_does_not_keep_pods_from_their_end(
    lab: CniLab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(lab.recorder("one"))
    before = lab.network()
    await before.configure("10.1.2.0/24")
    pod = lab.namespaces.make().pod()
    await before.attach(pod, no_stage)
    await lab.network(cni_conf_template=str(lab.directory / "none")).detach(pod)
    assert [call["command"] for call in lab.calls("DEL")] == ["DEL"]
    assert "none: cannot be read" in caplog.text


async def test_a_result_that_tells_no_sandbox_is_the_pods_by_its_interfaces_name(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    interfaces = [{"name": "veth1"}, {"name": "eth0"}]
    lab.answer(
        "one",
        {
            "cniVersion": "1.0.0",
            "interfaces": interfaces,
            "ips": [{"address": "10.9.8.7/24", "interface": 1}],
        },
    )
    attachment = await lab.network().attach(lab.namespaces.make().pod(), no_stage)
    assert attachment.addresses == ("10.9.8.7",)
