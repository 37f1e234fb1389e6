"""Limits of a pod's bandwidth on veth pairs in namespaces of this test's own."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from crib.backends.network.bridge import bandwidth
from crib.backends.network.runtime_config import Bandwidth
from crib.host import links
from crib.host.netlink import Netlink
from tests.patience import PATIENCE
from tests.system.labs.pod_namespaces import PodNamespace, PodNamespaces

pytestmark = [pytest.mark.root, pytest.mark.system]

HOST_END = "cribtest0"
HOST_ADDRESS = "10.9.0.1"
POD_ADDRESS = "10.9.0.2"
WAIT_SECONDS = 30.0 * PATIENCE
CHUNK = bytes(65536)

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A veth pair between a namespace that plays the host and one that is the pod's."""

    host: PodNamespace
    pod: PodNamespace

    def apply(self, limits: Bandwidth) -> None:
        self.host.inside(lambda: bandwidth.apply(HOST_END, limits))

    def read(self) -> Bandwidth:
        return self.host.inside(lambda: bandwidth.read(HOST_END))

    def names(self) -> set[str]:
        def look() -> set[str]:
            with Netlink() as netlink:
                return {link.name for link in links.list_links(netlink)}

        return self.host.inside(look)

    def delete(self, name: str) -> None:
        def work() -> None:
            with Netlink() as netlink:
                assert links.delete_link(netlink, name)

        self.host.inside(work)

    def into_the_pod(self) -> tuple[socket.socket, socket.socket]:
        return connected(self.host, self.pod, POD_ADDRESS)

    def out_of_the_pod(self) -> tuple[socket.socket, socket.socket]:
        return connected(self.pod, self.host, HOST_ADDRESS)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    namespaces = PodNamespaces(str(tmp_path))
    made = Pair(namespaces.make(), namespaces.make())
    ends = ((made.host, HOST_END, HOST_ADDRESS), (made.pod, "eth0", POD_ADDRESS))
    run_in(made.host, f"ip link add {HOST_END} type veth peer name eth0")
    # `ip` takes a namespace by its path only below /run/netns: a descriptor of this process is as good.
    with open(made.pod.path, "rb") as namespace:
        path = f"/proc/self/fd/{namespace.fileno()}"
        made.host.inside(
            lambda: subprocess.run(
                ["ip", "link", "set", "eth0", "netns", path], check=True, pass_fds=(namespace.fileno(),)
            )
        )
    for where, name, address in ends:
        run_in(where, f"ip address add {address}/24 dev {name}")
        run_in(where, f"ip link set {name} up")
    try:
        yield made
    finally:
        namespaces.unpin_all()


def run_in(where: PodNamespace, command: str) -> None:
    where.inside(lambda: subprocess.run(command.split(), check=True))


def opened_in(where: PodNamespace) -> socket.socket:
    made = where.socket()
    made.setblocking(True)
    made.settimeout(WAIT_SECONDS)
    return made


def connected(source: PodNamespace, sink: PodNamespace, address: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection: the one that sends, the one that receives."""
    with opened_in(sink) as listener:
        listener.bind((address, 0))
        listener.listen()
        sender = opened_in(source)
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
    receiver.settimeout(WAIT_SECONDS)
    return sender, receiver


def seconds_for(ends: tuple[socket.socket, socket.socket], size: int) -> float:
    """How long it takes until `size` bytes have come."""
    sender, receiver = ends

    def send() -> None:
        with sender:
            for start in range(0, size, len(CHUNK)):
                sender.sendall(CHUNK[: size - start])

    thread = threading.Thread(target=send)
    began = time.monotonic()
    thread.start()
    with receiver:
        received = 0
        while received < size:
            piece = receiver.recv(1 << 20)
            assert piece, "the connection ended early"
            received += len(piece)
    took = time.monotonic() - began
    thread.join(WAIT_SECONDS)
    return took


def test_each_direction_is_slowed_down_to_its_own_limit_and_is_free_again_without(pair: Pair) -> None:
    limits = Bandwidth(ingress=8_000_000, egress=16_000_000)
    pair.apply(limits)
    assert pair.read() == limits
    size = 500_000
    for ends, limit in ((pair.into_the_pod(), limits.ingress), (pair.out_of_the_pod(), limits.egress)):
        allowed_at_once = bandwidth.bucket(limit, 1500).burst
        assert seconds_for(ends, size) >= (size - allowed_at_once) * 8 / limit
    pair.apply(Bandwidth())
    assert pair.read() == Bandwidth()
    # At the limits these would take 16 s and 8 s.
    assert seconds_for(pair.into_the_pod(), 16_000_000) < 8
    assert seconds_for(pair.out_of_the_pod(), 16_000_000) < 4


@pytest.mark.nightly
@pytest.mark.parametrize("limit", [1_000_000, 10_000_000, 100_000_000, 1_000_000_000])
@pytest.mark.parametrize("direction", [Pair.into_the_pod, Pair.out_of_the_pod])
def test_a_tcp_flow_comes_within_a_tenth_of_its_limit(
    pair: Pair, limit: int, direction: Callable[[Pair], tuple[socket.socket, socket.socket]]
) -> None:
    pair.apply(Bandwidth(limit, limit))
    size = 3 * limit // 8
    assert size * 8 / seconds_for(direction(pair), size) == pytest.approx(limit, rel=0.1)


def test_limits_are_changed_and_taken_away_one_by_one_and_twice_is_as_good_as_once(pair: Pair) -> None:
    shaper = bandwidth.shaper_name(HOST_END)
    assert pair.read() == Bandwidth()
    for limits in (
        Bandwidth(1_000_000, 2_000_000),
        Bandwidth(4_000_000, 3_000_000),
        Bandwidth(0, 3_000_000),
        Bandwidth(100_000_000_000, 0),
        Bandwidth(1_000_000_000_000_000, 1_000_000_000_000_000),
        Bandwidth(1_000, 1_000),
        Bandwidth(),
    ):
        for _ in range(2):
            pair.apply(limits)
            assert pair.read() == Bandwidth(limits.ingress // 8 * 8, limits.egress // 8 * 8)
            assert (shaper in pair.names()) == bool(limits.egress)


def test_a_limit_that_somebody_took_away_is_seen_and_comes_back(pair: Pair) -> None:
    limits = Bandwidth(8_000_000, 16_000_000)
    pair.apply(limits)
    run_in(pair.host, f"tc qdisc delete dev {HOST_END} ingress")
    assert pair.read() == Bandwidth(8_000_000, 0)
    pair.apply(limits)
    pair.delete(bandwidth.shaper_name(HOST_END))
    assert pair.read() == Bandwidth(8_000_000, 0)
    pair.apply(limits)
    assert pair.read() == limits
    seconds_for(pair.out_of_the_pod(), 10_000)


def test_nothing_stays_of_a_veth_pair_that_is_gone_after_release(pair: Pair) -> None:
    before = pair.names()
    pair.apply(Bandwidth(1_000_000, 1_000_000))
    assert pair.host.inside(lambda: bandwidth.orphans("crib")) == []
    pair.delete(HOST_END)
    left = pair.names() - before
    assert left == {bandwidth.shaper_name(HOST_END)}
    assert set(pair.host.inside(lambda: bandwidth.orphans("crib"))) == left
    assert pair.host.inside(lambda: bandwidth.orphans("other")) == []
    assert pair.host.inside(lambda: bandwidth.release(HOST_END))
    assert not pair.host.inside(lambda: bandwidth.release(HOST_END))
    assert pair.names() == before - {HOST_END}


def test_an_interface_that_is_not_there_is_named_in_the_error(pair: Pair) -> None:
    for work in (lambda: bandwidth.apply("nosuch0", Bandwidth()), lambda: bandwidth.read("nosuch0")):
        with pytest.raises(OSError, match="look up interface") as caught:
            pair.host.inside(work)
        assert caught.value.filename == "nosuch0"
