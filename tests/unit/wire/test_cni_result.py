"""Results of ADD: every version is read, and each can be said in each other as far as that one has words."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.cni import VERSIONS, MalformedCni
from crib.wire.cni_result import Address, Dns, Interface, Route, converted, parse_result, result_from_document

OLD = VERSIONS[:2]
MIDDLE = VERSIONS[2:5]
NEW = VERSIONS[5:]

OLDEST: dict[str, Any] = {
    "cniVersion": "0.2.0",
    "ip4": {
        "ip": "10.0.0.2/24",
        "gateway": "10.0.0.1",
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
    },
    "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0"}]},
    "dns": {"nameservers": ["10.1.0.1"], "search": ["a.example"]},
}
NEWEST: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "br0", "mac": "00:11:22:33:44:55"},
        {
            "name": "eth0",
            "mac": "00:11:22:33:44:66",
            "sandbox": "/ns",
            "mtu": 1400,
            "socketPath": "/s",
            "pciID": "0000:01:00.0",
        },
        {"name": "net1", "sandbox": "/ns"},
    ],
    "ips": [
        {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1},
        {"address": "10.0.0.1/24", "interface": 0},
        {"address": "10.9.0.2/24", "interface": 2},
        {"address": "fd00::2/64", "interface": 1},
    ],
    "routes": [
        {"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "advmss": 1300, "table": 0, "scope": 0},
        {"dst": "::/0", "priority": 7},
    ],
    "dns": {"domain": "example", "options": ["ndots:2"]},
}


def parsed(document: dict[str, Any], asked: str = "") -> Any:
    return parse_result(json.dumps(document).encode(), asked)


def test_the_newest_version_is_read_with_all_it_says() -> None:
    result = parsed(NEWEST)
    assert result.interfaces[1] == Interface("eth0", "00:11:22:33:44:66", "/ns", 1400, "/s", "0000:01:00.0")
    assert result.ips[0] == Address("10.0.0.2/24", "10.0.0.1", 1)
    assert result.routes == (
        Route("0.0.0.0/0", "10.0.0.1", mtu=1400, advmss=1300, table=0, scope=0),
        Route("::/0", priority=7),
    )
    assert result.dns == Dns(domain="example", options=("ndots:2",))
    assert result.raw == NEWEST


def test_an_old_version_is_read_as_if_it_had_lists() -> None:
    result = parsed(OLDEST)
    assert result.version == "0.2.0"
    assert result.ips == (Address("10.0.0.2/24", "10.0.0.1"), Address("fd00::2/64"))
    assert result.routes == (Route("0.0.0.0/0", "10.0.0.1"), Route("::/0"))
    assert result.dns == Dns(nameservers=("10.1.0.1",), search=("a.example",))
    assert result.raw == OLDEST


def test_addresses_are_those_of_one_interface_in_the_pod() -> None:
    result = parsed(NEWEST)
    assert result.addresses_of("eth0") == ("10.0.0.2", "fd00::2")
    assert result.addresses_of("net1") == ("10.9.0.2",)
    assert result.addresses_of("br0") == ()
    assert parsed(OLDEST).addresses_of("eth0") == ("10.0.0.2", "fd00::2")


@pytest.mark.parametrize(
    ("interfaces", "index", "is_pods"),
    [
        ([{"name": "eth0"}], 0, True),
        ([{"name": "veth1"}, {"name": "eth0"}], 1, True),
        ([{"name": "veth1"}, {"name": "eth0"}], 0, False),
        ([{"name": "eth0"}, {"name": "eth0", "sandbox": "/ns"}], 0, False),
        ([{"name": "eth0"}, {"name": "eth0", "sandbox": "/ns"}], 1, True),
    ],
)
def test_where_no_interface_tells_its_sandbox_the_name_alone_decides(
    interfaces: list[dict[str, str]], index: int, is_pods: bool
) -> None:
    document = {
        "cniVersion": "1.0.0",
        "interfaces": interfaces,
        "ips": [{"address": "10.9.8.7/24", "interface": index}],
    }
    assert parsed(document).addresses_of("eth0") == (("10.9.8.7",) if is_pods else ())


def test_an_address_without_an_interface_is_the_pods() -> None:
    assert parsed({"cniVersion": "1.0.0", "ips": [{"address": "fd00:0::4/64"}]}).addresses_of("eth0") == (
        "fd00::4",
    )
    chained = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.4/24", "interface": 2}]}
    assert parsed(chained).addresses_of("eth0") == ("10.0.0.4",)


@pytest.mark.parametrize("told", [{}, {"cniVersion": ""}, {"cniVersion": None}])
def test_an_answer_without_a_version_is_of_the_version_asked_for(told: dict[str, Any]) -> None:
    result = parsed({**told, "ips": [{"address": "10.0.0.2/24"}]}, "0.4.0")
    assert result.version == "0.4.0"
    assert result.raw["cniVersion"] == "0.4.0"
    assert parsed({**told, "ip4": {"ip": "10.0.0.2/24"}}).version == "0.2.0"
    assert parsed({**told, "ips": []}).version == "1.1.0"


def test_an_answer_of_an_older_version_than_asked_for_says_so() -> None:
    assert parsed(OLDEST, "1.0.0").addresses_of("eth0") == ("10.0.0.2", "fd00::2")


def test_null_stands_for_what_is_absent() -> None:
    for told, short in (
        ({"interfaces": None, "ips": None, "routes": None, "dns": None}, {}),
        (
            {
                "ips": [{"address": "10.0.0.2/24", "gateway": None, "interface": None}],
                "dns": {"search": None},
            },
            {"ips": [{"address": "10.0.0.2/24"}], "dns": {}},
        ),
        (
            {"cniVersion": "0.2.0", "ip4": None, "ip6": {"ip": "fd00::2/64", "routes": None}},
            {"cniVersion": "0.2.0", "ip6": {"ip": "fd00::2/64"}},
        ),
    ):
        assert replace(parsed(told), raw={}) == replace(parsed(short), raw={})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"ips": [{"address": "10.0.0.300/24"}]}, "address '10.0.0.300/24'"),
        ({"ips": [{"address": "10.0.0.2"}]}, "address '10.0.0.2'"),
        ({"ips": [{"address": "10.0.0.2/255.255.255.0"}]}, "address"),
        ({"ips": [{"address": "fe80::1%eth0/64"}]}, "address"),
        ({"ips": [{"address": "10.0.0.2/24", "gateway": "nowhere"}]}, "gateway 'nowhere'"),
        ({"ips": [{"gateway": "10.0.0.1"}]}, r"address.*\$\.ips\[0\]"),
        (
            {"ips": [{"address": "10.0.0.2/24", "interface": 3}], "interfaces": [{"name": "eth0"}]},
            "interface 3",
        ),
        (
            {"ips": [{"address": "10.0.0.2/24", "interface": -1}], "interfaces": [{"name": "a"}]},
            "interface -1",
        ),
        ({"ips": {"address": "10.0.0.2/24"}}, r"\$\.ips"),
        ({"interfaces": [{"name": 3}]}, r"\$\.interfaces\[0\]\.name"),
        ({"interfaces": [{"name": "a", "mtu": "1500"}]}, r"\.mtu"),
        ({"routes": [{"gw": "10.0.0.1"}]}, "dst"),
        ({"routes": [{"dst": "default"}]}, "dst 'default'"),
        ({"routes": [{"dst": "::/0", "gw": "x"}]}, "gw 'x'"),
        ({"dns": {"nameservers": "10.0.0.1"}}, r"\$\.dns\.nameservers"),
        ({"cniVersion": "9.0.0"}, "cniVersion '9.0.0'"),
        ({"cniVersion": 1}, "cniVersion"),
        ({"cniVersion": "0.2.0", "ip4": {"gateway": "10.0.0.1"}}, r"\$\.ip4"),
        ({"cniVersion": "0.2.0", "ip4": {"ip": "x"}}, "address 'x'"),
    ],
)
def test_a_result_that_breaks_the_specification_is_refused_naming_the_field(
    document: dict[str, Any], words: str
) -> None:
    with pytest.raises(MalformedCni, match=f"result.*{words}"):
        parsed(document)


def test_a_result_that_is_no_object_is_refused() -> None:
    for data in (b"", b"null", b"[]", b'"ok"', b"{", b"\xff"):
        with pytest.raises(MalformedCni, match="result"):
            parse_result(data)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_result_says_the_version_it_was_converted_to(version: str) -> None:
    for document in (OLDEST, NEWEST):
        result = parsed(converted(document, version))
        assert result.version == version
        assert result.addresses_of("eth0")[0] == "10.0.0.2"


@pytest.mark.parametrize("version", MIDDLE)
def test_on_the_way_to_the_middle_versions_addresses_say_their_family(version: str) -> None:
    document = converted(NEWEST, version)
    assert [item["version"] for item in document["ips"]] == ["4", "4", "4", "6"]
    assert document["interfaces"][1] == {"name": "eth0", "mac": "00:11:22:33:44:66", "sandbox": "/ns"}
    assert document["routes"] == NEWEST["routes"]
    assert converted(document, "1.1.0")["ips"] == NEWEST["ips"]


@pytest.mark.parametrize("version", MIDDLE + NEW)
def test_on_the_way_up_from_the_old_versions_addresses_and_routes_become_lists(version: str) -> None:
    family4, family6 = ({"version": "4"}, {"version": "6"}) if version in MIDDLE else ({}, {})
    assert converted(OLDEST, version) == {
        "cniVersion": version,
        "ips": [
            {"address": "10.0.0.2/24", "gateway": "10.0.0.1", **family4},
            {"address": "fd00::2/64", **family6},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0"}],
        "dns": OLDEST["dns"],
    }


@pytest.mark.parametrize("version", OLD)
def test_on_the_way_to_the_old_versions_the_first_address_of_each_family_stays(version: str) -> None:
    assert converted(NEWEST, version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.0.0.2/24",
            "gateway": "10.0.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
        },
        "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0"}]},
        "dns": NEWEST["dns"],
    }


def test_routes_of_a_family_without_an_address_cannot_be_said_in_an_old_version() -> None:
    document = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}], "routes": [{"dst": "::/0"}]}
    assert converted(document, "0.2.0") == {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}


def test_a_result_without_addresses_cannot_be_said_in_an_old_version() -> None:
    with pytest.raises(MalformedCni, match="need an address"):
        converted({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]}, "0.2.0")


def test_an_ipv4_address_in_ipv6_clothes_is_ipv4_as_for_go() -> None:
    document = {"cniVersion": "1.0.0", "ips": [{"address": "::ffff:10.0.0.2/120"}]}
    assert converted(document, "0.4.0")["ips"][0]["version"] == "4"


def test_no_version_that_is_not_known_is_converted_to() -> None:
    for version in ("", "2.0.0"):
        with pytest.raises(MalformedCni, match="cniVersion"):
            converted(NEWEST, version)


def test_what_is_converted_stays_as_it_was() -> None:
    before = json.dumps(NEWEST)
    for version in VERSIONS:
        converted(NEWEST, version)
    assert json.dumps(NEWEST) == before


ipv4 = st.builds(
    lambda number, bits: f"{IPv4Address(number)}/{bits}", st.integers(0, 2**32 - 1), st.integers(0, 32)
)
ipv6 = st.builds(
    lambda number, bits: f"{IPv6Address(number)}/{bits}", st.integers(2**64, 2**128 - 1), st.integers(0, 128)
)
texts = st.text("abc.:/", min_size=1, max_size=6)
dns = st.fixed_dictionaries(
    {},
    optional={
        "nameservers": st.lists(texts, min_size=1, max_size=2),
        "domain": texts,
        "search": st.lists(texts),
    },
)


def routes(of: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, str]]]:
    gateway = of.map(lambda text: text.partition("/")[0])
    return st.lists(st.fixed_dictionaries({"dst": of}, optional={"gw": gateway}), max_size=3)


def family(of: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    gateway = of.map(lambda text: text.partition("/")[0])
    return st.fixed_dictionaries({"ip": of, "routes": routes(of)}, optional={"gateway": gateway})


old_documents = st.fixed_dictionaries(
    {"dns": dns}, optional={"ip4": family(ipv4), "ip6": family(ipv6)}
).filter(lambda document: "ip4" in document or "ip6" in document)


@st.composite
def list_documents(draw: st.DrawFn) -> dict[str, Any]:
    interfaces = draw(
        st.lists(st.fixed_dictionaries({"name": texts}, optional={"sandbox": texts, "mac": texts}))
    )
    index = st.integers(0, len(interfaces) - 1) if interfaces else st.nothing()
    address = st.fixed_dictionaries(
        {"address": ipv4 | ipv6}, optional={"interface": index} if interfaces else {}
    )
    return {
        "interfaces": interfaces,
        "ips": draw(st.lists(address, max_size=4)),
        "routes": draw(routes(ipv4 | ipv6)),
        "dns": draw(dns),
    }


@given(old_documents, st.sampled_from(OLD), st.sampled_from(VERSIONS))
def test_an_old_result_comes_back_from_any_version(document: dict[str, Any], own: str, way: str) -> None:
    document = {**document, "cniVersion": own}
    there = converted(document, way)
    assert result_from_document(there).ips == result_from_document(document).ips
    assert replace(result_from_document(converted(there, own)), raw={}) == replace(
        result_from_document(document), raw={}
    )


@given(list_documents(), st.sampled_from(NEW), st.sampled_from(MIDDLE + NEW))
def test_a_new_result_comes_back_from_any_version_with_lists(
    document: dict[str, Any], own: str, way: str
) -> None:
    document = {**document, "cniVersion": own}
    assert converted(converted(document, way), own) == document


@given(list_documents(), st.sampled_from(MIDDLE + NEW), st.sampled_from(VERSIONS))
def test_the_way_over_a_third_version_adds_nothing(document: dict[str, Any], own: str, way: str) -> None:
    document = {**document, "cniVersion": own}
    try:
        there = result_from_document(converted(document, way))
    except MalformedCni:
        assert way in OLD
        assert not document["ips"]
        return
    assert {address.address for address in there.ips} <= {item["address"] for item in document["ips"]}
    assert {route.dst for route in there.routes} <= {route["dst"] for route in document["routes"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | ipv4,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ip", "address", "dst", "gw", "interface", "routes"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["ips", "interfaces", "ip4", "ip6", "dns", "routes"]), json_values),
    st.sampled_from(VERSIONS),
    st.sampled_from(VERSIONS),
)
def test_any_json_is_a_result_that_converts_or_is_refused(
    document: dict[str, Any], told: str, way: str
) -> None:
    try:
        assert parsed(converted({**document, "cniVersion": told}, way)).version == way
    except MalformedCni:
        pass
