"""CDI edits, hooks and base specs, applied to a spec."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from crib.model.container import Mount
from crib.model.edits import AddedDevice, AddedHook, AddedMount, ContainerEdits
from crib.model.settings import HandlerSettings
from crib.ocispec.base_spec import usable_part
from crib.ocispec.container import (
    container_document,
    container_spec,
    made_mounts,
    runs_hooks_at_delete,
)
from crib.ocispec.devices import device_nodes, device_rules
from crib.ocispec.inputs import HookRule, HostDevice
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import inputs, with_config, with_security


def test_edits_are_put_into_the_parts_that_they_concern() -> None:
    edits = ContainerEdits(
        "a driver",
        env=(("A", "cdi"), ("GPU", "0")),
        devices=(AddedDevice("/dev/gpu0", "c", 195, 0, "rw", mode=0o660, gid=44),),
        mounts=(AddedMount("/usr/lib/gpu", "/opt/gpu", options=("ro", "bind")),),
        hooks=(AddedHook("createContainer", "/bin/hook", ("hook", "x")),),
        groups=(44, 44),
    )
    spec = container_spec(replace(with_security(run_as_user=1000), edits=(edits,)))
    assert "A=cdi" in spec.process.env
    assert spec.process.env[-1] == "GPU=0"
    assert spec.process.user.additional_gids[-1] == 44
    assert spec.linux.devices == (oci.Device("/dev/gpu0", "c", 195, 0, 0o660, uid=1000, gid=44),)
    assert spec.linux.resources is not None
    assert spec.linux.resources.devices[-1] == oci.DeviceRule(True, "rw", "c", 195, 0)
    assert [m.source for m in spec.mounts if m.destination == "/usr/lib/gpu"] == ["/opt/gpu"]
    assert spec.hooks is not None
    (hook,) = spec.hooks.create_container
    assert hook.env[0].startswith("PATH="), "a hook without its own environment has not the container's"


def test_an_edits_mount_takes_the_place_of_its_namesake_and_parents_come_first() -> None:
    made = with_config(mounts=(Mount("/data/in", "/host/in"),))
    mounts = (
        AddedMount("/data", "/cdi", options=("rbind",)),
        AddedMount("/data/in", "/new", options=("rbind",)),
    )
    spec = container_spec(replace(made, edits=(ContainerEdits("a driver", mounts=mounts),)))
    found = [(m.destination, m.source) for m in spec.mounts if m.destination.startswith("/data")]
    assert found == [("/data", "/cdi"), ("/data/in", "/new")]


def rule(stage: str = "prestart", **conditions: object) -> HookRule:
    edits = ContainerEdits("hook file 10.json", hooks=(AddedHook(stage, "/bin/hook"),))
    return HookRule(edits, **conditions)  # type: ignore[arg-type]


NAME = re.compile("^io.kubernetes.cri.container-name$")


@pytest.mark.parametrize(
    ("conditions", "met"),
    [
        ({}, False),
        ({"always": True}, True),
        ({"always": False}, False),
        ({"commands": (re.compile("ngin"), re.compile("^x"))}, True),
        ({"commands": (re.compile("^x"),)}, False),
        ({"annotations": ((NAME, re.compile("ngi")),)}, True),
        ({"annotations": ((NAME, re.compile("ngi")), (re.compile("nosuch"), re.compile("")))}, False),
        ({"has_bind_mounts": True}, False),
        ({"has_bind_mounts": False}, True),
        ({"always": True, "commands": (re.compile("^x"),)}, False),
    ],
)
def test_a_hook_is_added_when_all_conditions_hold(conditions: dict[str, Any], met: bool) -> None:
    spec = container_spec(replace(inputs(), hook_rules=(rule(**conditions),)))
    assert (spec.hooks is not None and len(spec.hooks.prestart) == 1) is met


def stop_hook(origin: str, path: str) -> ContainerEdits:
    return ContainerEdits(origin, env=(("LAST", origin),), hooks=(AddedHook("poststop", path),))


def test_devices_hook_files_and_the_requests_edits_come_over_the_authors_in_this_order() -> None:
    base, _ = usable_part({"hooks": {"poststop": [{"path": "/bin/base"}]}, "process": {"env": ["LAST=base"]}})
    made = replace(
        with_config(mounts=(Mount("/m", "/tmp"),), envs=(("LAST", b"request"),)),
        cdi=(stop_hook("CDI 1", "/bin/cdi-1"), stop_hook("CDI 2", "/bin/cdi-2")),
        hook_rules=(
            HookRule(stop_hook("hook file 10.json", "/bin/file"), has_bind_mounts=True),
            HookRule(stop_hook("hook file 20.json", "/bin/none"), has_bind_mounts=False),
        ),
        edits=(stop_hook("plugin 1", "/bin/plugin-1"), stop_hook("plugin 2", "/bin/plugin-2")),
        base_spec=base,
    )
    spec = container_spec(made)
    document = json.loads(container_document(made, spec))
    added = ["/bin/cdi-1", "/bin/cdi-2", "/bin/file", "/bin/plugin-1", "/bin/plugin-2"]
    assert [hook["path"] for hook in document["hooks"]["poststop"]] == ["/bin/base", *added]
    layers = (made, *(replace(made, edits=made.edits[:left]) for left in (1, 0)))
    layers = (*layers, replace(layers[-1], hook_rules=()))
    layers = (*layers, *(replace(layers[-1], cdi=made.cdi[:left]) for left in (1, 0)))
    last = [entry for one in layers for entry in container_spec(one).process.env if entry.startswith("LAST=")]
    assert [entry.partition("=")[2] for entry in last] == [
        *("plugin 2", "plugin 1", "hook file 10.json", "CDI 2", "CDI 1", "request")
    ]
    assert runs_hooks_at_delete(made, spec)


def test_poststop_hooks_of_whoever_make_the_delete_run_them() -> None:
    made = replace(inputs(), edits=(stop_hook("plugin", "/bin/x"),))
    assert runs_hooks_at_delete(made, container_spec(made))
    assert not runs_hooks_at_delete(inputs(), container_spec(inputs()))
    base, _ = usable_part({"hooks": {"poststop": [{"path": "/bin/x"}]}})
    assert runs_hooks_at_delete(replace(inputs(), base_spec=base), container_spec(inputs()))


def test_a_base_spec_holds_where_ours_says_nothing() -> None:
    base, dropped = usable_part(
        {
            "ociVersion": "9.9",
            "process": {
                "args": ["evil"],
                "user": {"uid": 0},
                "capabilities": {"bounding": ["CAP_SYS_ADMIN"]},
                "noNewPrivileges": True,
                "env": ["A=base", "HTTP_PROXY=proxy"],
                "rlimits": [
                    {"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1},
                    {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
                ],
            },
            "mounts": [
                {"destination": "/proc", "type": "bind", "source": "/"},
                {"destination": "/certs", "type": "bind", "source": "/etc/certs", "options": ["ro", "rbind"]},
            ],
            "hooks": {"prestart": [{"path": "/bin/base"}]},
            "linux": {
                "namespaces": [{"type": "mount"}],
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
                "sysctl": {"net.core.somaxconn": "4096"},
                "resources": {"devices": [{"allow": True}], "pids": {"limit": 77}, "cpu": {"shares": 7}},
            },
        }
    )
    assert set(dropped) == {
        *("ociVersion", "process.args", "process.user", "process.capabilities", "linux.namespaces"),
        *("linux.seccomp", "linux.resources.devices"),
    }
    made = replace(inputs(), base_spec=base, hook_rules=(rule(always=True),))
    spec = container_spec(made)
    document, ours = json.loads(container_document(made, spec)), json.loads(oci.encode(spec))
    assert [hook["path"] for hook in document.pop("hooks")["prestart"]] == ["/bin/base", "/bin/hook"]
    assert document["process"]["args"] == ours["process"]["args"]
    assert document["process"]["noNewPrivileges"] is True
    assert document["process"]["env"] == ["HTTP_PROXY=proxy", *ours["process"]["env"]]
    assert [limit["type"] for limit in document["process"]["rlimits"]] == ["RLIMIT_NOFILE", "RLIMIT_CORE"]
    assert document["process"]["rlimits"][0] == ours["process"]["rlimits"][0]
    assert [m for m in document["mounts"] if m["destination"] == "/proc"] == [
        m for m in ours["mounts"] if m["destination"] == "/proc"
    ]
    assert "/certs" in [mount["destination"] for mount in document["mounts"]]
    assert document["linux"]["sysctl"] == {"net.core.somaxconn": "4096"}
    assert document["linux"]["resources"]["pids"] == {"limit": 77}
    assert document["linux"]["resources"]["devices"] == ours["linux"]["resources"]["devices"]
    assert document["linux"]["namespaces"] == ours["linux"]["namespaces"]


def test_the_mounts_that_are_checked_are_those_of_the_document_in_its_order() -> None:
    wanted = with_config(mounts=(Mount("/a/b/c", "/x"),))
    for mounts in (
        [],
        [{"destination": "/a", "type": "tmpfs", "options": None}, {"destination": "/proc", "source": "/"}],
    ):
        made = replace(wanted, base_spec={"mounts": mounts})
        spec = container_spec(made)
        document = json.loads(container_document(made, spec))["mounts"]
        found = [(mount.destination, mount.type, mount.source) for mount in made_mounts(made, spec)]
        assert found == [(m["destination"], m.get("type", ""), m.get("source", "")) for m in document]
    assert "/a" in [place for place, *_ in found]


@pytest.mark.parametrize(
    ("base", "place"),
    [
        ({"process": []}, "process"),
        ({"linux": {"resources": 1}}, r"linux\.resources"),
        ({"mounts": {}}, "mounts"),
        ({"mounts": [{"source": "/x"}]}, "destination"),
        ({"process": {"rlimits": [1]}}, "type"),
        ({"process": {"env": ["A"]}}, r"process\.env"),
        ({"hooks": {"prestart": 1}}, r"hooks\.prestart"),
    ],
)
def test_a_base_spec_of_another_shape_is_refused_with_the_place(base: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        usable_part(base)


def test_no_base_spec_leaves_ours_as_it_is() -> None:
    spec = container_spec(inputs())
    assert container_document(inputs(), spec) == oci.encode(spec)


def test_device_nodes_belong_to_the_user_where_that_is_set() -> None:
    device = HostDevice("/dev/x", "c", 1, 3, 0o600, 0, 6, "rw")
    made = replace(with_security(run_as_user=1000, run_as_group=1001), devices=(device,))
    assert [(node.uid, node.gid) for node in device_nodes(made)] == [(0, 6)]
    assert [(n.uid, n.gid) for n in device_nodes(replace(made, device_ownership=True))] == [(1000, 1001)]
    without = replace(inputs(), devices=(device,), device_ownership=True)
    assert [(node.uid, node.gid) for node in device_nodes(without)] == [(0, 6)]


def test_a_privileged_container_may_open_what_its_handler_does_not_withhold() -> None:
    made = with_security(privileged=True)
    assert device_rules(made) == (oci.DeviceRule(allow=True),)
    withheld = replace(made, options=HandlerSettings(privileged_without_host_devices=True))
    assert device_rules(withheld)[0] == oci.DeviceRule(allow=False)
