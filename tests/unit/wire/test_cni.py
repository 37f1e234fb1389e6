"""CNI documents: what is taken, what is passed on, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import cni


def conflist(**changes: Any) -> bytes:
    document: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {"type": "bridge", "bridge": "br0", "capabilities": {"ipRanges": True}},
            {"type": "portmap", "capabilities": {"portMappings": True, "bandwidth": False}},
        ],
    }
    return json.dumps(document | changes).encode()


def test_a_list_keeps_its_plugins_in_order_with_what_they_declare() -> None:
    network = cni.parse_network(conflist())
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap"]
    assert [sorted(plugin.capabilities) for plugin in network.plugins] == [["ipRanges"], ["portMappings"]]
    assert (network.name, network.version, network.disable_check) == ("pods", "1.0.0", False)


def test_a_single_plugin_configuration_becomes_a_list_of_one() -> None:
    network = cni.parse_network(b'{"cniVersion":"0.3.1","name":"one","type":"ptp","mtu":1400}')
    assert [plugin.type for plugin in network.plugins] == ["ptp"]
    assert network.plugins[0].raw["mtu"] == 1400
    assert cni.network_from_document(network.raw) == network


@pytest.mark.parametrize(
    "plugin_type", ["", ".", "..", "a/b", "../sh", "a..b", "/bin/sh", "a\\b", "a\0b", "a" * 256]
)
def test_a_plugin_type_that_could_leave_the_plugin_directories_is_refused(plugin_type: str) -> None:
    with pytest.raises(cni.MalformedCni, match=r"plugins\[0\]: type"):
        cni.parse_network(conflist(plugins=[{"type": plugin_type}]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
        ({"plugins": []}, "plugins"),
        ({"plugins": [{"type": "a"}] * 33}, "plugins"),
        ({"plugins": [{"bridge": "x"}]}, "type"),
        ({"plugins": ["bridge"]}, "plugins"),
        ({"plugins": [{"type": "a", "capabilities": ["x"]}]}, "capabilities"),
        ({"cniVersion": "9.0.0"}, "cniVersion"),
    ],
)
def test_a_configuration_with_a_wrong_field_is_refused_naming_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(cni.MalformedCni, match=words):
        cni.parse_network(conflist(**changes))


def test_a_document_that_is_too_long_or_no_object_is_refused() -> None:
    for data in (b" " * (cni.DOCUMENT_BYTES + 1), b"[]", b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(cni.MalformedCni):
            cni.parse_network(data)


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"cniVersion": ""}, "0.1.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "7.0.0"]}, "1.1.0"),
        ({"cniVersion": "0.4.0", "cniVersions": []}, "0.4.0"),
    ],
)
def test_the_highest_version_that_both_speak_is_used(changes: dict[str, Any], version: str) -> None:
    assert cni.parse_network(conflist(**changes)).version == version


@pytest.mark.parametrize(
    ("written", "meant"), [(True, True), ("true", True), ("false", False), (False, False)]
)
def test_disable_check_may_be_written_as_text(written: bool | str, meant: bool) -> None:
    assert cni.parse_network(conflist(disableCheck=written)).disable_check is meant


def test_a_request_holds_the_plugins_own_keys_and_only_declared_capabilities() -> None:
    network = cni.parse_network(conflist())
    runtime = {"ipRanges": [[{"subnet": "10.0.0.0/24"}]], "portMappings": [{"hostPort": 1}], "bandwidth": {}}
    first = json.loads(cni.request(network, network.plugins[0], runtime, None))
    second = json.loads(cni.request(network, network.plugins[1], runtime, {"ips": []}))
    assert first == {
        "type": "bridge",
        "bridge": "br0",
        "cniVersion": "1.0.0",
        "name": "pods",
        "runtimeConfig": {"ipRanges": runtime["ipRanges"]},
    }
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 1}]}
    assert second["prevResult"] == {"ips": []}


def test_the_environment_names_the_attachment_and_none_for_a_network_wide_command() -> None:
    attachment = cni.Attachment("abc", "/run/ns", "eth0", {"IgnoreUnknown": "1", "K8S_POD_NAME": "web"})
    assert cni.environment("ADD", attachment, ("/a", "/b")) == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/run/ns",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web",
        "CNI_PATH": "/a:/b",
    }
    assert set(cni.environment("STATUS", None, ("/a",))) == {"CNI_COMMAND", "CNI_PATH"}


@pytest.mark.parametrize(
    "attachment",
    [
        cni.Attachment("a/b", "", "eth0", {}),
        cni.Attachment("abc", "", "eth0", {"K8S_POD_NAME": "a;K8S_POD_UID=b"}),
    ],
)
def test_an_argument_that_would_read_as_two_is_refused(attachment: cni.Attachment) -> None:
    with pytest.raises(cni.MalformedCni):
        cni.environment("ADD", attachment, ())


def test_results_of_every_version_give_their_addresses() -> None:
    oldest = (
        b'{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1"},"ip6":{"ip":"fd00::2/64"}}'
    )
    middle = (
        b'{"cniVersion":"0.4.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/ns"}],'
        b'"ips":[{"version":"4","address":"10.0.0.3/24","interface":1},'
        b'{"version":"4","address":"10.0.0.1/24","interface":0}]}'
    )
    newest = b'{"cniVersion":"1.1.0","ips":[{"address":"fd00:0::4/64"}],"routes":[{"dst":"::/0","mtu":1400}]}'
    assert cni.parse_result(oldest, "eth0").addresses == ("10.0.0.2", "fd00::2")
    assert cni.parse_result(middle, "eth0").addresses == ("10.0.0.3",)
    assert cni.parse_result(newest, "eth0").addresses == ("fd00::4",)
    assert cni.parse_result(newest, "eth0").raw["routes"] == [{"dst": "::/0", "mtu": 1400}]


@pytest.mark.parametrize(
    "document",
    [
        {"ips": [{"address": "10.0.0.300/24"}]},
        {"ips": [{"gateway": "10.0.0.1"}]},
        {"ips": [{"address": "10.0.0.2/24", "interface": 3}], "interfaces": [{"name": "eth0"}]},
        {"ips": {"address": "10.0.0.2/24"}},
    ],
)
def test_a_result_that_breaks_the_specification_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(cni.MalformedCni, match="result"):
        cni.parse_result(json.dumps(document).encode(), "eth0")


def test_an_error_reads_as_one_line_and_other_output_is_none() -> None:
    error = cni.parse_error(b'{"cniVersion":"1.0.0","code":7,"msg":"bad config","details":"no subnet"}')
    assert str(error) == "bad config; no subnet (code 7)"
    assert cni.parse_error(b"panic: oh no") is None
    assert cni.parse_error(b'{"msg":"no code"}') is None


def test_supported_versions_are_read() -> None:
    assert cni.parse_versions(b'{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}') == (
        "0.4.0",
        "1.0.0",
    )


@given(st.binary(max_size=100))
def test_any_bytes_are_a_network_or_refused(data: bytes) -> None:
    try:
        assert cni.parse_network(data).plugins
    except cni.MalformedCni:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["ips", "interfaces", "ip4", "dns", "cniVersion", "plugins", "name", "type"]),
        json_values,
    )
)
def test_any_json_is_a_result_or_refused(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    for parse in (cni.parse_network, lambda raw: cni.parse_result(raw, "eth0")):
        try:
            parse(data)
        except cni.MalformedCni:
            pass
