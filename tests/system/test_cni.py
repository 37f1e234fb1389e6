"""CNI networks with real namespaces: the reference plugins, and recording ones written here."""

from __future__ import annotations

import json
import secrets
import shutil
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from crib.backends.network.cni import CniNetwork, CniSettings
from crib.host import links
from crib.host.netlink import Netlink
from crib.model.errors import Broken, Unavailable
from crib.model.sandbox import PortMapping
from tests.system.pod_namespaces import PodNamespace, PodNamespaces, no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]

PLUGIN_DIR = "/usr/lib/cni"

# Answers VERSION, and ADD with its ANSWER file; fails a command for which a file FAIL.<command> is there.
RECORDER = """#!/bin/sh
here=$(dirname "$0"); me=$(basename "$0")
input=$(cat)
printf '{"plugin":"%s","command":"%s","netns":"%s","args":"%s","id":"%s","input":%s}\\n' \\
  "$me" "$CNI_COMMAND" "$CNI_NETNS" "$CNI_ARGS" "$CNI_CONTAINERID" "$input" >>"$here/../calls"
if [ -f "$here/../$me.FAIL.$CNI_COMMAND" ]; then cat "$here/../$me.FAIL.$CNI_COMMAND"; exit 1; fi
if [ -f "$here/../$me.HANG" ]; then exec sleep 60; fi
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}';;
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],'\\
'"ips":[{"address":"10.9.8.7/24","interface":0}],"seen":"'"$me"'"}';;
esac
"""


class Rig:
    """Directories for one CNI network, and namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bridge = f"cct{secrets.token_hex(4)}"
        self.subnet = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/24")
        for name in ("net.d", "bin", "ipam", "namespaces"):
            (directory / name).mkdir()
        self.namespaces = PodNamespaces(str(directory / "namespaces"))

    def network(self, *own: Path, timeout: float = 20.0) -> CniNetwork:
        """The network as a daemon that has just started makes it; `own`: directories of handlers."""
        directories = (str(self.directory / "bin"), PLUGIN_DIR)
        kept, handlers = str(self.directory / "kept"), tuple(map(str, own))
        return CniNetwork(CniSettings(str(self.directory / "net.d"), directories, kept, timeout, handlers))

    def own_directory(self, *plugins: dict[str, Any]) -> Path:
        """A handler's directory, with a network of these plugins."""
        directory = self.directory / "own.d"
        directory.mkdir()
        conf = {"cniVersion": "1.1.0", "name": "own-net", "plugins": plugins}
        (directory / "10-own.conflist").write_text(json.dumps(conf), encoding="utf-8")
        return directory

    def configure(self, *plugins: dict[str, Any], version: str = "1.0.0") -> None:
        conf = {"cniVersion": version, "name": "test-net", "plugins": plugins}
        (self.directory / "net.d" / "10-test.conflist").write_text(json.dumps(conf), encoding="utf-8")

    def bridge_plugin(self) -> dict[str, Any]:
        ipam = {
            "type": "host-local",
            "dataDir": str(self.directory / "ipam"),
            "ranges": [[{"subnet": str(self.subnet)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipam": ipam}

    def recorder(self, name: str, *capabilities: str) -> dict[str, Any]:
        """A plugin that records its calls."""
        path = self.directory / "bin" / name
        path.write_text(RECORDER, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {"type": name, "own": "key", "capabilities": dict.fromkeys(capabilities, True)}

    def fail(self, name: str, command: str, code: int = 7) -> Path:
        path = self.directory / f"{name}.FAIL.{command}"
        error = {"cniVersion": "1.0.0", "code": code, "msg": "no hard feelings", "details": "really"}
        path.write_text(json.dumps(error), encoding="utf-8")
        return path

    def calls(self, *commands: str) -> list[dict[str, Any]]:
        path = self.directory / "calls"
        if not path.exists():
            return []
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [call for call in found if call["command"] in commands]

    def held_addresses(self) -> list[str]:
        """What host-local has on file."""
        names = [path.name for path in (self.directory / "ipam").glob("*/*")]
        return sorted(name for name in names if name[0].isdigit())

    def kept_file(self, namespace: PodNamespace) -> Path:
        return self.directory / "kept" / f"{namespace.id}.json"

    def remove(self) -> None:
        self.namespaces.unpin_all()
        with Netlink() as netlink:
            links.delete_link(netlink, self.bridge)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.remove()


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
async def test_the_reference_plugins_give_an_address_and_take_it_back(rig: Rig, version: str) -> None:
    rig.configure(rig.bridge_plugin(), {"type": "tuning"}, version=version)
    network = rig.network()
    assert (await network.readiness()).ready
    namespace = rig.namespaces.make()
    attachment = await network.attach(namespace.pod(), no_stage)
    assert IPv4Address(attachment.addresses[0]) in rig.subnet
    assert rig.held_addresses() == [attachment.addresses[0]]

    def look() -> dict[str, bool]:
        with Netlink() as netlink:
            return {link.name: link.up for link in links.list_links(netlink)}

    found = namespace.inside(look)
    assert found["lo"]
    assert found["eth0"]
    await network.check(namespace.pod())
    (usage,) = await network.usage(namespace.pod())
    assert usage.name == "eth0"
    await network.detach(namespace.pod())
    assert rig.held_addresses() == []
    await network.detach(namespace.pod())
    assert not rig.kept_file(namespace).exists()


async def test_a_restarted_network_gives_back_what_a_pod_without_namespace_still_holds(rig: Rig) -> None:
    rig.configure(rig.bridge_plugin())
    namespace = rig.namespaces.make()
    await rig.network().attach(namespace.pod(), no_stage)
    namespace.unpin()
    (rig.directory / "net.d" / "10-test.conflist").unlink()
    await rig.network().detach(namespace.pod())
    assert rig.held_addresses() == []


async def test_a_failed_later_plugin_leaves_no_address_after_detach(rig: Rig) -> None:
    rig.configure(rig.bridge_plugin(), rig.recorder("second"))
    rig.fail("second", "ADD")
    namespace = rig.namespaces.make()
    network = rig.network()
    with pytest.raises(Broken, match=f"{namespace.id}.*second ADD.*no hard feelings; really"):
        await network.attach(namespace.pod(), no_stage)
    assert len(rig.held_addresses()) == 1
    await network.detach(namespace.pod())
    assert rig.held_addresses() == []


async def test_add_chains_results_in_order_and_del_goes_back_with_the_last_one(rig: Rig) -> None:
    rig.configure(rig.recorder("one"), rig.recorder("two"))
    namespace = rig.namespaces.make()
    network = rig.network()
    await network.attach(namespace.pod(), no_stage)
    await network.detach(namespace.pod())
    assert [call["plugin"] for call in rig.calls("ADD", "DEL")] == ["one", "two", "two", "one"]
    first, second = rig.calls("ADD")
    assert "prevResult" not in first["input"]
    assert second["input"]["prevResult"]["seen"] == "one"
    assert [call["input"]["prevResult"]["seen"] for call in rig.calls("DEL")] == ["two", "two"]
    assert first["netns"] == namespace.path
    assert first["input"]["own"] == "key"
    assert first["args"] == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
        f"K8S_POD_INFRA_CONTAINER_ID={namespace.id};K8S_POD_UID={namespace.id[:8]}"
    )


async def test_a_plugin_is_told_only_of_the_capabilities_that_it_declares(rig: Rig) -> None:
    rig.configure(rig.recorder("one", "portMappings", "ipRanges", "bandwidth"), rig.recorder("two"))
    network = rig.network()
    await network.configure("10.1.0.0/24")
    annotations = (("kubernetes.io/ingress-bandwidth", "10M"),)
    pod = rig.namespaces.make().pod(PortMapping(80, 8080), annotations=annotations)
    await network.attach(pod, no_stage)
    first, second = rig.calls("ADD")
    assert first["input"]["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2147483647},
        "ipRanges": [[{"subnet": "10.1.0.0/24"}]],
    }
    assert "runtimeConfig" not in second["input"]


async def test_del_uses_the_configuration_of_add_even_when_the_file_has_changed(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    network = rig.network()
    pod = rig.namespaces.make().pod()
    await network.attach(pod, no_stage)
    rig.configure(rig.recorder("other"))
    await network.detach(pod)
    assert [call["plugin"] for call in rig.calls("DEL")] == ["one"]


async def test_a_failed_del_goes_on_with_the_other_plugins_and_is_tried_again(rig: Rig) -> None:
    rig.configure(rig.recorder("one"), rig.recorder("two"))
    network = rig.network()
    pod = rig.namespaces.make().pod()
    await network.attach(pod, no_stage)
    failing = rig.fail("two", "DEL")
    with pytest.raises(Broken, match="two DEL"):
        await network.detach(pod)
    failing.unlink()
    await network.detach(pod)
    assert [call["plugin"] for call in rig.calls("DEL")] == ["two", "one", "two", "one"]


async def test_a_torn_result_file_means_del_by_the_current_configuration(rig: Rig) -> None:
    rig.configure(rig.bridge_plugin())
    network = rig.network()
    namespace = rig.namespaces.make()
    await network.attach(namespace.pod(), no_stage)
    rig.kept_file(namespace).write_bytes(b'{"network":')
    await network.detach(namespace.pod())
    assert rig.held_addresses() == []
    assert not rig.kept_file(namespace).exists()


async def test_sweep_runs_del_for_unknown_pods_and_garbage_collection(rig: Rig) -> None:
    rig.configure(rig.recorder("one"), version="1.1.0")
    network = rig.network()
    kept, lost = rig.namespaces.make(), rig.namespaces.make()
    await network.attach(kept.pod(), no_stage)
    await network.attach(lost.pod(), no_stage)
    assert await rig.network().sweep({kept.id}) == [f"network of pod {lost.id}"]
    assert [call["id"] for call in rig.calls("DEL")] == [lost.id]
    (garbage,) = rig.calls("GC")
    assert garbage["input"]["cni.dev/valid-attachments"] == [{"containerID": kept.id, "ifname": "eth0"}]


async def test_a_plugin_that_hangs_is_killed_and_named(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    (rig.directory / "one.HANG").touch()
    with pytest.raises(Broken, match=r"one ADD: no answer within 0\.3 s"):
        await rig.network(timeout=0.3).attach(rig.namespaces.make().pod(), no_stage)


async def test_try_again_later_is_unavailable(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    rig.fail("one", "ADD", code=11)
    with pytest.raises(Unavailable, match="code 11"):
        await rig.network().attach(rig.namespaces.make().pod(), no_stage)


async def test_attach_to_a_missing_namespace_fails_before_any_plugin_runs(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    namespace = rig.namespaces.make()
    namespace.unpin()
    with pytest.raises(Broken, match=namespace.id):
        await rig.network().attach(namespace.pod(), no_stage)
    assert rig.calls("ADD") == []


async def test_readiness_names_what_is_missing(rig: Rig) -> None:
    network = rig.network()
    empty = await network.readiness()
    assert (empty.ready, empty.reason) == (False, "NetworkPluginNotReady")
    assert "net.d" in empty.message
    rig.configure({"type": "no-such-plugin"})
    assert "no-such-plugin" in (await network.readiness()).message
    rig.configure(rig.recorder("one"), version="0.3.1")
    assert "speaks 0.4.0, 1.0.0, 1.1.0" in (await network.readiness()).message
    rig.configure(rig.recorder("one"), version="1.1.0")
    assert (await network.readiness()).ready
    rig.fail("one", "STATUS", code=50)
    assert "no hard feelings" in (await network.readiness()).message


async def test_a_pod_that_names_a_directory_has_its_network_from_there_and_gives_it_back(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    own = rig.own_directory(rig.recorder("own"))
    network = rig.network(own)
    pod, plain = replace(rig.namespaces.make().pod(), conf_dir=str(own)), rig.namespaces.make().pod()
    assert (await network.attach(pod, no_stage)).details == {"network": "own-net"}
    assert (await network.attach(plain, no_stage)).details == {"network": "test-net"}
    shutil.rmtree(own)
    restarted = rig.network(own)
    await restarted.detach(pod)
    await restarted.detach(plain)
    assert [call["plugin"] for call in rig.calls("DEL")] == ["own", "one"]
    with pytest.raises(Unavailable, match=rf"{pod.id}: cannot read {own}"):
        await restarted.attach(pod, no_stage)


async def test_a_torn_result_file_means_del_by_the_directory_that_the_pod_names(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    own = rig.own_directory(rig.recorder("own"))
    namespace = rig.namespaces.make()
    pod = replace(namespace.pod(), conf_dir=str(own))
    await rig.network(own).attach(pod, no_stage)
    rig.kept_file(namespace).write_bytes(b'{"network":')
    await rig.network(own).detach(pod)
    assert [call["plugin"] for call in rig.calls("DEL")] == ["own"]


async def test_garbage_of_every_directory_is_collected_before_any_pod_names_one(rig: Rig) -> None:
    rig.configure(rig.recorder("one"), version="1.1.0")
    own = rig.own_directory(rig.recorder("own"))
    assert await rig.network(own).sweep(()) == []
    assert [call["plugin"] for call in rig.calls("GC")] == ["one", "own"]


async def test_a_directory_of_a_handler_that_is_missing_is_named_and_the_node_is_ready(rig: Rig) -> None:
    rig.configure(rig.recorder("one"))
    missing = rig.directory / "missing.d"
    readiness = await rig.network(missing).readiness()
    assert readiness.ready
    assert readiness.message == f"cannot read {missing}: No such file or directory"


async def test_without_a_configuration_attach_is_unavailable(rig: Rig) -> None:
    with pytest.raises(Unavailable, match="no network configuration"):
        await rig.network().attach(rig.namespaces.make().pod(), no_stage)
