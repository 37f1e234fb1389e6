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
    ("written", "meant"), [(True, True), ("true", True), ("False", False), ("1", True), (False, False)]
)
def test_disable_check_and_disable_gc_may_be_written_as_text(written: bool | str, meant: bool) -> None:
    assert cni.parse_network(conflist(disableCheck=written)).disable_check is meant
    assert cni.parse_network(conflist(disableGC=written)).disable_gc is meant


@pytest.mark.parametrize("field", ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"])
def test_a_text_that_is_no_truth_value_is_refused_naming_the_field(field: str) -> None:
    with pytest.raises(cni.MalformedCni, match=f"{field} 'perhaps'"):
        cni.parse_network(conflist(**{field: "perhaps"}), lambda _name: [])


def beside(*configurations: dict[str, Any]) -> cni.Beside:
    def found(name: str) -> list[tuple[str, bytes]]:
        return [(f"/net.d/{name}/{i}.conf", json.dumps(raw).encode()) for i, raw in enumerate(configurations)]

    return found


def test_plugins_beside_a_list_follow_its_own() -> None:
    network = cni.parse_network(conflist(), beside({"type": "tuning", "own": 1}, {"type": "sbr"}))
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap", "tuning", "sbr"]
    assert cni.network_from_document(network.raw) == network


def test_a_list_may_have_all_of_its_plugins_beside_it() -> None:
    data = b'{"cniVersion":"1.1.0","name":"pods"}'
    assert [plugin.type for plugin in cni.parse_network(data, beside({"type": "ptp"})).plugins] == ["ptp"]
    with pytest.raises(cni.MalformedCni, match="plugins: 0 entries"):
        cni.parse_network(data, beside())


def test_a_list_that_loads_only_inlined_plugins_has_no_others() -> None:
    network = cni.parse_network(conflist(loadOnlyInlinedPlugins=True), beside({"type": "tuning"}))
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap"]
    with pytest.raises(cni.MalformedCni, match="loadOnlyInlinedPlugins"):
        cni.parse_network(b'{"name":"pods","loadOnlyInlinedPlugins":true}', beside({"type": "tuning"}))


def test_a_bad_plugin_beside_a_list_is_named_by_its_file() -> None:
    for raw in ({"type": "../sh"}, {"bridge": "x"}):
        with pytest.raises(cni.MalformedCni, match=r"/net\.d/pods/0\.conf: .*type"):
            cni.parse_network(conflist(), beside(raw))


def test_a_name_that_is_a_path_is_refused_before_anything_beside_it_is_read() -> None:
    def never(name: str) -> list[tuple[str, bytes]]:
        raise AssertionError(name)

    for name in ("../etc", "a/b", "..", "", ".hidden"):
        with pytest.raises(cni.MalformedCni, match="name"):
            cni.parse_network(conflist(name=name), never)


def test_capabilities_may_be_null() -> None:
    network = cni.parse_network(conflist(plugins=[{"type": "a", "capabilities": None}]))
    assert network.plugins[0].capabilities == frozenset()


def test_keys_that_are_the_runtimes_are_not_passed_on_from_the_file() -> None:
    plugin: dict[str, Any] = {
        "type": "a",
        "prevResult": {"ips": []},
        "cni.dev/attachments": [],
        "args": {"cni": {}},
        "x": None,
    }
    network = cni.parse_network(conflist(plugins=[plugin]))
    assert json.loads(cni.request(network, network.plugins[0], {}, None)) == {
        "type": "a",
        "args": {"cni": {}},
        "x": None,
        "cniVersion": "1.0.0",
        "name": "pods",
    }


def test_gc_names_the_valid_attachments_by_both_names_that_plugins_look_for() -> None:
    network = cni.parse_network(conflist(cniVersion="1.1.0"))
    told = json.loads(cni.gc_request(network, network.plugins[0], [("abc", "eth0"), ("abc", "net1")]))
    valid = [{"containerID": "abc", "ifname": "eth0"}, {"containerID": "abc", "ifname": "net1"}]
    assert told["cni.dev/valid-attachments"] == told["cni.dev/attachments"] == valid
    assert "runtimeConfig" not in told
    assert json.loads(cni.gc_request(network, network.plugins[0], []))["cni.dev/valid-attachments"] == []


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
        cni.Attachment("a/b", "/ns", "eth0", {}),
        cni.Attachment("", "/ns", "eth0", {}),
        cni.Attachment("-abc", "/ns", "eth0", {}),
        cni.Attachment("abc", "", "eth0", {}),
        cni.Attachment("abc", "/ns", "eth0", {"K8S_POD_NAME": "a;K8S_POD_UID=b"}),
        cni.Attachment("abc", "/ns", "eth0", {"K8S_POD_NAME": "a=b"}),
        cni.Attachment("abc", "/ns", "eth0", {"K8S_POD_NAME": "a\0"}),
        cni.Attachment("abc", "/ns", "eth0", {"A=B;C": "d"}),
        cni.Attachment("abc", "/ns", "eth0/..", {}),
    ],
)
def test_what_would_read_as_something_else_is_refused(attachment: cni.Attachment) -> None:
    with pytest.raises(cni.MalformedCni):
        cni.environment("ADD", attachment, ())


def test_del_needs_no_namespace() -> None:
    assert cni.environment("DEL", cni.Attachment("abc", "", "eth0", {}), ())["CNI_NETNS"] == ""


@pytest.mark.parametrize(
    "name", ["", "a" * 16, "é" * 8, ".", "..", "a/b", "a:b", "a b", "a\tb", "a\0b", "a\u00a0"]
)
def test_an_interface_name_that_the_kernel_refuses_is_refused(name: str) -> None:
    with pytest.raises(cni.MalformedCni, match="interface name"):
        cni.check_interface_name(name)


def test_an_interface_name_may_have_fifteen_bytes() -> None:
    assert cni.check_interface_name("a" * 15) == "a" * 15


def test_an_error_reads_as_one_line_and_other_output_is_none() -> None:
    error = cni.parse_error(b'{"cniVersion":"1.0.0","code":7,"msg":"bad config","details":"no subnet"}')
    assert str(error) == "bad config; no subnet (code 7)"
    assert str(cni.parse_error(b'{"code":50}')) == "plugin not available (code 50)"
    assert str(cni.parse_error(b'{"code":123,"msg":" "}')) == "no message (code 123)"
    assert cni.parse_error(b"panic: oh no") is None
    assert cni.parse_error(b'{"msg":"no code"}') is None


def test_supported_versions_are_read() -> None:
    assert cni.parse_versions(b'{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}') == (
        "0.4.0",
        "1.0.0",
    )


def test_a_plugin_that_names_no_version_is_refused_but_for_what_0_2_0_allowed() -> None:
    assert cni.parse_versions(b'{"cniVersion":"0.2.0"}') == ("0.1.0", "0.2.0")
    for data in (b'{"cniVersion":"1.0.0"}', b'{"cniVersion":"1.0.0","supportedVersions":[]}', b"{}"):
        with pytest.raises(cni.MalformedCni, match="supportedVersions"):
            cni.parse_versions(data)


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
        st.sampled_from(
            ["cniVersion", "cniVersions", "plugins", "name", "type", "capabilities", "disableGC"]
        ),
        json_values,
    )
)
def test_any_json_is_a_network_or_refused(document: dict[str, Any]) -> None:
    try:
        assert cni.parse_network(json.dumps(document).encode(), lambda _name: []).plugins
    except cni.MalformedCni:
        pass
