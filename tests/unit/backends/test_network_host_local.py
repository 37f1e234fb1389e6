"""The host-local IPAM plugin's store: what is held in it, and what is given back."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.network.cni import host_local
from crib.backends.network.cni.host_local import DEFAULT_DATA_DIR, Allocation, Store, stores_of
from crib.model.errors import Broken, Unavailable
from crib.wire import cni

POD = "ab" * 32


def network(*plugins: Mapping[str, Any]) -> cni.NetworkConf:
    return cni.parse_network(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}).encode())


def directories(*plugins: Mapping[str, Any]) -> list[str]:
    return [store.directory for store in stores_of(network(*plugins))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """As the plugin leaves it: two addresses of one pod, one of another, and its own two files."""
    directory = tmp_path / "pods"
    directory.mkdir()
    (directory / "10.1.0.2").write_bytes(f"{POD}\r\neth0".encode())
    (directory / "fd00::2").write_bytes(f"{POD}\r\neth0".encode())
    (directory / "10.1.0.3").write_bytes(b"other\r\nnet1")
    (directory / "last_reserved_ip.0").write_bytes(b"10.1.0.3")
    (directory / "lock").touch()
    return Store(str(directory))


def test_the_store_is_in_the_ipam_sections_directory() -> None:
    section = {"type": "host-local", "dataDir": "/srv/ipam"}
    assert directories({"type": "bridge", "ipam": section}) == ["/srv/ipam/pods"]
    assert directories({"type": "bridge", "ipam": {"type": "host-local"}}) == [f"{DEFAULT_DATA_DIR}/pods"]
    assert directories({"type": "bridge", "ipam": {**section, "dataDir": ""}}) == [f"{DEFAULT_DATA_DIR}/pods"]


def test_every_plugin_and_those_within_are_looked_at_and_each_store_is_named_once() -> None:
    local = {"type": "host-local"}
    delegates = [
        {"type": "flannel"},
        {"name": "second", "plugins": [{"type": "macvlan", "ipam": {**local, "dataDir": "/srv"}}]},
    ]
    assert directories(
        {"type": "bridge", "ipam": local},
        {"type": "ptp", "ipam": local},
        {"type": "portmap"},
        {"type": "multus", "delegates": delegates},
    ) == [f"{DEFAULT_DATA_DIR}/pods", "/srv/second"]


def test_flannel_delegates_to_host_local_unless_told_otherwise() -> None:
    assert directories({"type": "flannel", "delegate": {"bridge": "x"}}) == [f"{DEFAULT_DATA_DIR}/pods"]
    assert directories({"type": "flannel", "ipam": {"dataDir": "/srv"}}) == ["/srv/pods"]
    assert directories({"type": "flannel", "ipam": {"type": "dhcp"}}) == []


@pytest.mark.parametrize(
    "plugin",
    [
        {"type": "bridge"},
        {"type": "bridge", "ipam": {"type": "dhcp"}},
        {"type": "bridge", "ipam": {}},
        {"type": "bridge", "ipam": "host-local"},
        {"type": "bridge", "ipam": {"type": "host-local", "dataDir": "relative"}},
        {"type": "bridge", "ipam": {"type": "host-local", "dataDir": ["/srv"]}},
        {"type": "bridge", "ipam": {"type": "host-local", "dataDir": "/srv\0"}},
    ],
)
def test_a_network_without_host_local_has_no_store(plugin: dict[str, Any]) -> None:
    assert directories(plugin) == []


def test_a_name_within_that_is_a_path_does_not_lead_out() -> None:
    inner = {"name": "../../etc", "type": "bridge", "ipam": {"type": "host-local", "dataDir": "/srv"}}
    assert directories({"type": "multus", "delegates": [inner]}) == ["/srv/pods"]


def test_sections_deeper_than_the_bound_are_not_looked_for() -> None:
    plugin: dict[str, Any] = {"type": "bridge", "ipam": {"type": "host-local"}}
    for _ in range(host_local.NESTING):
        plugin = {"type": "wrap", "delegate": plugin}
    assert len(directories(plugin)) == 1
    assert directories({"type": "wrap", "delegate": plugin}) == []


def test_what_is_held_is_told_with_whom_and_since_when(store: Store) -> None:
    path = f"{store.directory}/10.1.0.2"
    os.utime(path, ns=(0, 1_700_000_000_000_000_007))
    allocations = store.allocations()
    assert allocations[0] == Allocation("10.1.0.2", POD, "eth0", 1_700_000_000_000_000_007, path)
    assert [(held.address, held.container_id, held.interface) for held in allocations] == [
        ("10.1.0.2", POD, "eth0"),
        ("10.1.0.3", "other", "net1"),
        ("fd00::2", POD, "eth0"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"old-id", ("old-id", "")),
        (b"old-id\n", ("old-id", "")),
        (b"id\r\neth0\r\n", ("id", "eth0")),
        (b"", ("", "")),
        (b"\0\0\0", ("\0\0\0", "")),
        (b"\xff", ("\ufffd", "")),
    ],
)
def test_files_of_old_plugins_and_torn_ones_are_read(
    store: Store, content: bytes, told: tuple[str, str]
) -> None:
    Path(store.directory, "10.1.0.2").write_bytes(content)
    held = store.allocations()[0]
    assert (held.container_id, held.interface) == told


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path, store: Store) -> None:
    allocations = store.allocations()
    assert Store(str(tmp_path / "none")).allocations() == []
    assert Store(str(tmp_path / "none")).release(allocations) == []
    assert not (tmp_path / "none").exists()


def test_what_is_no_plain_file_named_by_an_address_is_left_alone(store: Store, tmp_path: Path) -> None:
    directory = Path(store.directory)
    (tmp_path / "secret").write_bytes(b"secret")
    (directory / "10.1.0.4").symlink_to(tmp_path / "secret")
    (directory / "10.1.0.5").mkdir()
    os.mkfifo(directory / "10.1.0.6")
    (directory / "10.1.0.7").write_bytes(b"x" * (host_local.CONTENT_BYTES + 1))
    (directory / "10.1.0").write_bytes(b"id")
    (directory / "fe80::1%eth0").write_bytes(b"id")
    assert [held.address for held in store.allocations()] == ["10.1.0.2", "10.1.0.3", "fd00::2"]


def test_a_store_that_is_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(store.directory)
    with pytest.raises(Broken, match=f"host-local store {tmp_path}/linked"):
        Store(str(tmp_path / "linked")).allocations()


def test_what_is_given_back_is_gone_and_told_and_the_rest_stays(store: Store) -> None:
    mine = [held for held in store.allocations() if held.container_id == POD]
    assert store.release(mine) == mine
    assert sorted(os.listdir(store.directory)) == ["10.1.0.3", "last_reserved_ip.0", "lock"]
    assert store.release(mine) == []


def test_an_address_that_was_reused_meanwhile_stays(store: Store) -> None:
    held = store.allocations()
    path = Path(store.directory, "10.1.0.2")
    path.unlink()
    path.write_bytes(b"new\r\neth0")
    assert [released.address for released in store.release(held)] == ["10.1.0.3", "fd00::2"]
    assert path.read_bytes() == b"new\r\neth0"


def test_an_address_that_its_pod_got_again_stays(store: Store) -> None:
    held = store.allocations()[0]
    os.utime(held.path, ns=(0, held.made_at_ns + 1))
    assert store.release([held]) == []


def test_only_files_of_the_store_itself_are_given_back(store: Store, tmp_path: Path) -> None:
    held = store.allocations()[0]
    (tmp_path / "10.1.0.2").write_bytes(f"{POD}\r\neth0".encode())
    os.utime(tmp_path / "10.1.0.2", ns=(0, held.made_at_ns))
    for path in (str(tmp_path / "10.1.0.2"), f"{store.directory}/../10.1.0.2", f"{store.directory}/lock", ""):
        assert store.release([replace(held, path=path)]) == []
    assert (tmp_path / "10.1.0.2").exists()


def test_nothing_is_given_back_while_the_plugin_holds_its_lock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_local, "LOCK_SECONDS", 0.0)
    with open(f"{store.directory}/lock", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=f"{store.directory} is locked"):
            store.release(store.allocations())
    assert len(store.allocations()) == 3
    assert len(store.release(store.allocations())) == 3


def test_the_lock_is_waited_for_and_files_are_read_under_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = store.allocations()
    with open(f"{store.directory}/lock", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def plugin_works_meanwhile(_seconds: float) -> None:
            Path(store.directory, "10.1.0.2").write_bytes(b"new\r\neth0")
            fcntl.flock(lock, fcntl.LOCK_UN)

        monkeypatch.setattr("crib.backends.network.cni.host_local.time.sleep", plugin_works_meanwhile)
        assert [released.address for released in store.release(held)] == ["10.1.0.3", "fd00::2"]


def test_a_store_without_a_lock_file_gets_one(store: Store) -> None:
    os.unlink(f"{store.directory}/lock")
    assert len(store.release(store.allocations())) == 3
    assert os.path.exists(f"{store.directory}/lock")


def test_as_many_files_as_the_bound_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_local, "ENTRIES", 2)
    assert len(store.allocations()) <= 2
    assert "more than 2 files" in caplog.text
