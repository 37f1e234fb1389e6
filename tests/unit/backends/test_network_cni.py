"""The files around CNI plugins: kept results, what a pod tells plugins."""

from __future__ import annotations

import contextlib
import sqlite3
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from crib.backends.network.bridge.addresses import AddressBook
from crib.backends.network.cni.kept_results import Kept, KeptResults, TornFile
from crib.backends.network.cni.plugins import Plugins
from crib.backends.network.networks import Host, open_network
from crib.backends.network.runtime_config import (
    Bandwidth,
    bandwidth_of,
    of_further_network,
    parse_rate,
    plugin_arguments,
    runtime_config,
    wishes_of,
)
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.ids import SandboxId, new_sandbox_id
from crib.model.paths import Paths
from crib.model.sandbox import PodMetadata, PortMapping, Protocol
from crib.model.settings import HandlerSettings, NetworkSettings
from crib.ports.networks import PodNetwork
from crib.wire import cni
from tests.fakes.stages import NoStages

POD = SandboxId("ab" * 32)


def pod(**changes: Any) -> PodNetwork:
    return PodNetwork(POD, PodMetadata("web", "u-1", "shop"), "/run/ns", **changes)


async def test_a_pod_without_a_network_is_told_which_directory_was_looked_in(tmp_path: Path) -> None:
    handlers = {"crun": HandlerSettings(), "kata": HandlerSettings(cni_conf_dir=str(tmp_path / "kata.d"))}
    settings = NetworkSettings(cni_conf_dir=str(tmp_path / "net.d"), ready_timeout=0.0)
    paths = Paths(data=str(tmp_path), state=str(tmp_path))
    connection = sqlite3.connect(":memory:")
    network = open_network(settings, Host(paths, connection, handlers))
    for conf_dir, looked_in in (("", "net.d"), (str(tmp_path / "kata.d"), "kata.d")):
        with pytest.raises(Unavailable, match=f"{POD}: cannot read {tmp_path / looked_in}"):
            await network.attach(pod(conf_dir=conf_dir), NoStages())
    readiness = await network.readiness()
    connection.close()
    assert not readiness.ready
    assert "net.d" in readiness.message


def kept(result: dict[str, Any] | None = None, interface: str = "eth0") -> Kept:
    plugin = b'{"type":"bridge","own":1,"capabilities":{"portMappings":true,"mac":true}}'
    network = cni.parse_network(b'{"cniVersion":"1.0.0","name":"a","plugins":[' + plugin + b"]}")
    return Kept(network, interface, {"K8S_POD_NAME": "web"}, {"portMappings": [], "ips": []}, result)


def test_what_was_kept_is_read_back_as_it_was(tmp_path: Path) -> None:
    results = KeptResults(str(tmp_path / "kept"))
    assert results.read(POD) == ()
    assert results.pods() == []
    results.write(POD, [kept()])
    both = (kept({"ips": [{"address": "10.0.0.2/24"}]}), kept(interface="eth1"))
    results.write(POD, both)
    assert results.read(POD) == both
    assert results.pods() == [POD]
    results.remove(POD)
    results.remove(POD)
    assert results.pods() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b'{"network":{},"interface":"","args":{},"runtime_config":{}}',
        b'{"attachments":[]}',
        b'{"attachments":[{}]}',
        b"[" * 100_000,
    ],
)
def test_a_torn_file_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{POD}.json").write_bytes(content)
    with pytest.raises(TornFile, match=POD):
        KeptResults(str(tmp_path)).read(POD)


def test_what_a_daemon_that_was_killed_was_just_writing_goes_at_the_next_start(tmp_path: Path) -> None:
    results = KeptResults(str(tmp_path))
    results.write(POD, [kept()])
    torn = tmp_path / f"{new_sandbox_id()}.json.new"
    torn.write_text("{")
    (tmp_path / "pod-cidr").write_text("10.1.0.0/24")
    again = KeptResults(str(tmp_path))
    assert again.read(POD) == (kept(),)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{POD}.json", "pod-cidr"]


def test_only_a_sandbox_id_may_become_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sandbox id"):
        KeptResults(str(tmp_path)).read(SandboxId("../etc"))
    (tmp_path / "notes.json").touch()
    assert KeptResults(str(tmp_path)).pods() == []


@pytest.mark.parametrize(("mode", "other"), [("cni", "bridge"), ("bridge", "cni")])
def test_a_mode_is_refused_while_pods_hold_something_of_the_other_one(
    tmp_path: Path, mode: str, other: str
) -> None:
    paths = Paths(data=str(tmp_path), state=str(tmp_path))
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        book = AddressBook(connection, IPv4Network("10.1.0.0/24"), None)
        results = KeptResults(paths.network)
        if other == "bridge":
            book.reserve(POD, "shop/web")
        else:
            results.write(POD, [kept()])
        network = open_network(NetworkSettings(mode=other), Host(paths, connection))
        assert network.shared == {"bridge": "bridge crib0 and its rules", "cni": ""}[other]
        with pytest.raises(InvalidRequest, match=f"1 pods hold something of {other}") as refused:
            open_network(NetworkSettings(mode=mode), Host(paths, connection))
        assert refused.value.field == "network.mode"
        book.release(POD)
        results.remove(POD)
        open_network(NetworkSettings(mode=mode), Host(paths, connection))


def test_a_pod_tells_plugins_its_name_in_the_usual_words() -> None:
    assert plugin_arguments(pod()) == {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": "shop",
        "K8S_POD_NAME": "web",
        "K8S_POD_INFRA_CONTAINER_ID": POD,
        "K8S_POD_UID": "u-1",
    }


def test_a_pod_that_asks_for_nothing_has_no_runtime_config() -> None:
    assert runtime_config(pod(port_mappings=(PortMapping(80),))) == {}


def test_every_capability_is_filled_from_the_pod() -> None:
    full = pod(
        port_mappings=(PortMapping(53, 1053, Protocol.UDP, "10.0.0.1"),),
        annotations=(("kubernetes.io/egress-bandwidth", "1Mi"), ("a", "b")),
        dns_servers=("10.96.0.10",),
        dns_options=("ndots:5",),
        cgroup_parent="/kubepods/pod1",
    )
    assert runtime_config(full, ("10.1.0.0/24", "fd00::/64")) == {
        "portMappings": [{"hostPort": 1053, "containerPort": 53, "protocol": "udp", "hostIP": "10.0.0.1"}],
        "bandwidth": {"egressRate": 1 << 20, "egressBurst": 2147483647},
        "dns": {"servers": ["10.96.0.10"], "options": ["ndots:5"]},
        "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "io.kubernetes.cri.pod-annotations": {"kubernetes.io/egress-bandwidth": "1Mi", "a": "b"},
        "cgroupPath": "/kubepods/pod1",
    }


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10M", 10_000_000), ("1.5Gi", 1_610_612_736), ("2e6", 2_000_000), ("1000", 1000), ("5000000m", 5000)],
)
def test_bandwidth_is_a_quantity(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("+10M", 10_000_000),
        (".5M", 500_000),
        ("5.M", 5_000_000),
        ("1e+6", 1_000_000),
        ("1E6", 1_000_000),
        ("2000000000u", 2000),
        ("2000000000000n", 2000),
    ],
)
def test_bandwidth_is_whatever_kubernetes_takes_for_a_quantity(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", [".", "+", "+.M", "++1M", "1e", "1e++6", "M"])
def test_what_only_looks_like_a_quantity_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["", "10X", "-1M", "1", "2P", "1e99", "NaN", "10 M"])
def test_bandwidth_that_is_no_sensible_quantity_is_refused_naming_the_annotation(text: str) -> None:
    with pytest.raises(InvalidRequest, match="ingress-bandwidth"):
        runtime_config(pod(annotations=(("kubernetes.io/ingress-bandwidth", text),)))


def test_a_limit_of_one_direction_says_nothing_of_the_other() -> None:
    annotations = (("kubernetes.io/ingress-bandwidth", "10M"),)
    assert bandwidth_of(annotations) == Bandwidth(10_000_000, 0)
    assert bandwidth_of(()) == Bandwidth(0, 0)


def test_aliases_mac_and_addresses_come_from_annotations() -> None:
    annotations = (
        ("io.crib.network.aliases", "db, db-1.shop.example"),
        ("io.crib.network.mac", "02:00:5E:10:00:01"),
        ("io.crib.network.ips", "10.1.0.7, 10.1.0.8/24,FD00:0::7/64"),
    )
    config = runtime_config(pod(annotations=annotations))
    del config["io.kubernetes.cri.pod-annotations"]
    assert config == {
        "aliases": ["db", "db-1.shop.example"],
        "mac": "02:00:5e:10:00:01",
        "ips": ["10.1.0.7", "10.1.0.8/24", "fd00::7/64"],
    }
    assert of_further_network(config | {"dns": {}}) == {"dns": {}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("aliases", ""),
        ("aliases", "a,,b"),
        ("aliases", "-a"),
        ("aliases", "a b"),
        ("aliases", "a" * 64),
        ("aliases", ",".join(["a"] * 33)),
        ("mac", ""),
        ("mac", "02:00:5e:10:00"),
        ("mac", "01:00:5e:10:00:01"),
        ("mac", "00:00:00:00:00:00"),
        ("mac", "02-00-5e-10-00-01"),
        ("ips", ""),
        ("ips", "10.1.0"),
        ("ips", "10.1.0.7/33"),
        ("ips", "10.1.0.7,"),
    ],
)
def test_an_annotation_that_asks_for_nonsense_is_refused_and_named(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        wishes_of(((f"io.crib.network.{name}", text),))
    assert told.value.field == f"annotations[io.crib.network.{name}]"


def test_a_plugin_is_granted_what_it_declares_and_was_told() -> None:
    assert [kept().grants(one) for one in ("portMappings", "mac", "ips")] == [True, False, False]


async def test_a_plugin_is_the_first_executable_file_of_its_name(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        directory.mkdir()
        (directory / "bridge").touch()
    (second / "bridge").chmod(0o755)
    plugins = Plugins((str(first), str(second)), 1.0, "test")
    assert await plugins.find("bridge") == str(second / "bridge")
    with pytest.raises(Unavailable, match="portmap is in none of"):
        await plugins.find("portmap")


def test_ids_of_ours_are_container_ids_that_cni_takes() -> None:
    attachment = cni.Attachment(new_sandbox_id(), "", "eth0", {})
    assert cni.environment("DEL", attachment, ())["CNI_NETNS"] == ""
