"""Routes that a guest is told of."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from crib.host.routes import Route
from crib.vm.shim.network import GuestInterface, GuestRoute, guest_routes

ETH0 = GuestInterface("eth0", "02:00:00:00:00:01", 1500, ("10.0.0.5/24", "fd00::5/64"))
NAMES = {3: "eth0"}


def test_what_the_guest_makes_by_itself_is_left_out() -> None:
    routes = [
        Route(IPv4Network("10.0.0.0/24"), None, 3, 0),
        Route(IPv6Network("fd00::/64"), None, 3, 256),
        Route(IPv4Network("10.9.0.0/16"), None, 9, 0),
    ]
    assert guest_routes(routes, NAMES, [ETH0]) == []


def test_ways_to_gateways_come_before_what_goes_by_them() -> None:
    routes = [
        Route(IPv4Network("0.0.0.0/0"), IPv4Address("169.254.1.1"), 3, 0),
        Route(IPv6Network("::/0"), IPv6Address("fd00::1"), 3, 1024),
        Route(IPv4Network("169.254.1.1/32"), None, 3, 0),
    ]
    assert guest_routes(routes, NAMES, [ETH0]) == [
        GuestRoute("169.254.1.1/32", "", "eth0", 0, onlink=False),
        GuestRoute("", "169.254.1.1", "eth0", 0, onlink=True),
        GuestRoute("", "fd00::1", "eth0", 1024, onlink=False),
    ]
