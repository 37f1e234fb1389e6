"""Where addresses are, and who may send us to them."""

from __future__ import annotations

import pytest

from crib.backends.images.worker.places import Place, Places, Way, may_lead, place_of, place_of_name


@pytest.mark.parametrize(
    ("place", "addresses"),
    [
        (
            Place.LOOPBACK,
            "127.0.0.1 127.255.0.9 0.0.0.0 0.1.2.3 ::1 :: ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::",
        ),
        (
            Place.LINK_LOCAL,
            "169.254.169.254 169.254.0.1 fe80::1 fe80::1%eth0 febf::1 ::ffff:169.254.169.254 224.0.0.1"
            " ff02::1 64:ff9b::a9fe:a9fe fd00:ec2::254 fd20:ce::254 100.100.100.200 192.0.0.192",
        ),
        (
            Place.PRIVATE,
            "10.0.0.1 172.16.0.1 172.31.255.1 192.168.1.1 100.64.0.1 fc00::1 fd12::1 ::ffff:10.0.0.1"
            " 192.0.2.1 240.0.0.1 255.255.255.255 2001:db8::1",
        ),
        (Place.PUBLIC, "1.1.1.1 172.32.0.1 100.128.0.1 2606:4700::1 ::ffff:8.8.8.8 64:ff9b::808:808"),
    ],
)
def test_an_address_has_its_place(place: Place, addresses: str) -> None:
    assert {address: place_of(address) for address in addresses.split()} == dict.fromkeys(
        addresses.split(), place
    )


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost.", "x.localhost"])
def test_some_names_are_this_node(name: str) -> None:
    assert place_of_name(name) is Place.LOOPBACK
    assert place_of_name(f"{name}.example") is None


def test_who_may_send_us_where() -> None:
    def leads(registry: Place, *, token: bool) -> set[Place]:
        return {target for target in Place if may_lead(registry, target, token=token)}

    both = {Place.PUBLIC, Place.PRIVATE}
    assert leads(Place.PUBLIC, token=True) == {Place.PUBLIC}
    assert leads(Place.PUBLIC, token=False) == both
    for token in (True, False):
        assert leads(Place.PRIVATE, token=token) == both
        assert leads(Place.LOOPBACK, token=token) == {*both, Place.LOOPBACK}
        assert leads(Place.LINK_LOCAL, token=token) == {*both, Place.LINK_LOCAL}


def test_a_proxy_is_judged_by_what_the_url_says() -> None:
    places = Places()
    Way(places, "https://10.0.0.1", "10.0.0.1", own=True, token=False).check_name()
    Way(places, "https://10.0.0.1", "192.168.0.1", own=False, token=True).check_name()
    Way(places, "https://r.example", "auth.example", own=False, token=True).check_name()
    for name in ("localhost", "169.254.169.254", "::1"):
        way = Way(places, "https://r.example", name, own=False, token=False)
        with pytest.raises(OSError, match=r"https://r\.example is public"):
            way.check_name()
        assert name in way.refused


def test_an_address_that_was_passed_over_is_not_the_fault_of_what_comes_later() -> None:
    way = Way(Places(), "https://r.example", "auth.example", own=False, token=True)
    with pytest.raises(OSError, match=r"10\.0\.0\.1"):
        way.check(Place.PRIVATE, "10.0.0.1")
    assert way.refused
    way.arrived(Place.PUBLIC, "8.8.8.8")
    assert way.refused == ""


def test_what_is_known_of_registries_is_bounded() -> None:
    places = Places()
    for number in range(2000):
        places.found(f"https://{number}.example", Place.LOOPBACK)
    assert len(places._found) == 1000
    assert places.of("https://1999.example") is Place.LOOPBACK
    assert places.of("https://0.example") is Place.PUBLIC
