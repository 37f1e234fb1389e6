"""A container's config.json becomes one for the guest: what changes, what goes, what is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from typing import Any

import pytest

from crib.vm.shim.spec import (
    GuestDisks,
    GuestSpec,
    NotInVm,
    Shared,
    SourceKind,
    SpecSurroundings,
    for_guest,
    guest_resources,
)

KINDS = {
    "/host/dir": stat.S_IFDIR,
    "/host/file": stat.S_IFREG,
    "/host/socket": stat.S_IFSOCK,
    "/host/disk": stat.S_IFBLK,
    "/host/tty": stat.S_IFCHR,
    "/pods/shm": stat.S_IFDIR,
}


def look(path: str) -> SourceKind:
    if path not in KINDS:
        raise FileNotFoundError(2, "No such file or directory", path)
    return SourceKind(KINDS[path] | 0o644)


def surroundings(**changes: Any) -> SpecSurroundings:
    known: dict[str, Any] = {
        "container": "one",
        "bundle": "/bundles/one",
        "shm": "/pods/shm",
        "shared_pid": False,
        "look": look,
        "pid_of": {"other": 42}.get,
    }
    found = {**known, **changes}
    return SpecSurroundings(**{**found, "pid_of": lambda name: found["pid_of"](name) or 0})


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/true"],
            "cwd": "/",
            "apparmorProfile": "p",
            "selinuxLabel": "l",
            "user": {},
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pod",
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
        **changes,
    }


def made(asked: Mapping[str, Any], **around: Any) -> GuestSpec:
    return for_guest(asked, surroundings(**around))


def mount(source: str, *options: str, **changes: Any) -> dict[str, Any]:
    return {"destination": "/at", "type": "bind", "source": source, "options": list(options), **changes}


def test_the_root_is_shared_and_named_within_the_bundle() -> None:
    found = made(spec())
    assert found.document["root"] == {"path": "rootfs", "readonly": True}
    assert found.shared == (Shared("/bundles/one/rootfs", "c/one/rootfs", directory=True),)
    assert made(spec(root={"path": "/elsewhere"})).shared[0].source == "/elsewhere"


def test_what_is_not_given_stays_as_it_is_and_the_spec_itself_too() -> None:
    asked = spec(
        annotations={"a": "b"}, linux={"namespaces": [], "maskedPaths": ["/proc/kcore"], "seccomp": {"x": 1}}
    )
    before = repr(asked)
    found = made(asked, shared_pid=True).document
    assert found["annotations"] == {"a": "b"}
    assert found["linux"]["maskedPaths"] == ["/proc/kcore"]
    assert found["linux"]["seccomp"] == {"x": 1}
    assert found["process"]["args"] == ["/bin/true"]
    assert repr(asked) == before


def test_host_names_labels_and_cgroups_of_the_host_go() -> None:
    found = made(
        spec(
            linux={
                "namespaces": [{"type": "pid"}],
                "cgroupsPath": "kubepods.slice:crib:one",
                "mountLabel": "l",
                "sysctl": {"net.core.somaxconn": "1"},
                "intelRdt": {"closID": "x"},
            }
        )
    ).document
    assert "hostname" not in found
    assert found["process"].keys() == {"args", "cwd", "user"}
    assert found["linux"].keys() == {"cgroupsPath", "namespaces", "resources", "devices"}
    assert found["linux"]["cgroupsPath"] == "/crib/one"


@pytest.mark.parametrize(
    ("asked", "shared_pid", "expected"),
    [
        ([{"type": "pid"}], False, {"type": "pid"}),
        ([{"type": "pid", "path": "/containers/one/ns/pid"}], False, {"type": "pid"}),
        (
            [{"type": "pid", "path": "/containers/other/ns/pid"}],
            False,
            {"type": "pid", "path": "/proc/42/ns/pid"},
        ),
        ([], True, {"type": "pid", "path": "/run/crib/ns/pid"}),
    ],
    ids=["new", "its own", "another container's", "the pod's"],
)
def test_pids_are_the_containers_own_or_anothers(
    asked: list[dict[str, str]], shared_pid: bool, expected: dict[str, str]
) -> None:
    others = [{"type": kind, "path": f"/pod/{kind}"} for kind in ("network", "ipc", "uts")]
    namespaces = [*asked, *others, {"type": "mount"}, {"type": "cgroup"}]
    found = made(spec(linux={"namespaces": namespaces}), shared_pid=shared_pid).document["linux"][
        "namespaces"
    ]
    by_type = {one["type"]: one for one in found}
    assert len(by_type) == len(found)
    assert by_type == {"pid": expected, "mount": {"type": "mount"}, "cgroup": {"type": "cgroup"}}


def test_binds_are_shared_and_other_mounts_are_the_guests() -> None:
    plain = {"destination": "/proc", "type": "proc", "source": "proc"}
    found = made(
        spec(
            mounts=[
                plain,
                mount("/host/dir", "rbind", "rslave", "rw"),
                mount("/host/file", "bind", "ro"),
                mount("/host/dir", "bind", "ro", type=""),
            ]
        )
    )
    share = "/run/crib/share/c/one/m"
    assert [one["source"] for one in found.document["mounts"]] == [
        "proc",
        f"{share}/1",
        f"{share}/2",
        f"{share}/3",
    ]
    assert found.document["mounts"][1]["options"] == ["rbind", "rslave", "rw"]
    assert found.shared[1:] == (
        Shared("/host/dir", "c/one/m/1", directory=True, follows=True),
        Shared("/host/file", "c/one/m/2", directory=False, recursive=False, read_only=True),
        Shared("/host/dir", "c/one/m/3", directory=True, recursive=False, read_only=True),
    )


def test_shared_memory_of_the_pod_is_the_guests_and_a_volume_there_is_not() -> None:
    found = made(
        spec(mounts=[mount("/pods/shm", "rbind"), mount("/host/dir", "rbind", destination="/dev/shm")])
    )
    assert [one["source"] for one in found.document["mounts"]] == [
        "/run/crib/shm",
        "/run/crib/share/c/one/m/1",
    ]


def test_devices_that_are_the_same_on_every_kernel_stay() -> None:
    null = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
    other = {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}
    forged = {"path": "/dev/null", "type": "c", "major": 8, "minor": 0}
    asked = spec(
        linux={"namespaces": [{"type": "pid"}], "devices": [null, other, forged]},
        mounts=[mount("/dev/null", "bind")],
    )
    found = made(asked)
    assert found.document["linux"]["devices"] == [null]
    assert found.document["mounts"][0]["source"] == "/dev/null"


def test_a_block_volume_has_the_numbers_that_the_guest_gave_it() -> None:
    volume = {"path": "/dev/data", "type": "b", "major": 7, "minor": 3, "uid": 5}
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "b", "major": 7, "minor": 3, "access": "rw"},
        {"allow": True, "type": "c", "major": 7, "minor": 3, "access": "rw"},
    ]
    linux = {"namespaces": [{"type": "pid"}], "devices": [volume], "resources": {"devices": rules}}
    found = made(spec(linux=linux), disks=GuestDisks(devices={"/dev/data": (8, 16)})).document["linux"]
    assert found["devices"] == [{**volume, "major": 8, "minor": 16}]
    assert found["resources"]["devices"] == [rules[0], {**rules[1], "major": 8, "minor": 16}, rules[2]]
    with pytest.raises(NotInVm, match=r"^linux\.devices\[0\]: /dev/data was not given"):
        made(spec(linux=linux))


def test_a_root_of_disks_is_the_agents_to_make_and_nobody_else_says_so() -> None:
    asked = spec(annotations={"a": "b", "crib.vm/root": "forged", "crib.vm/memory": "forged"})
    found = made(asked, disks=GuestDisks((3, 1), 4))
    assert json.loads(found.document["annotations"].pop("crib.vm/root")) == {"layers": [3, 1], "disk": 4}
    assert found.document["annotations"] == {"a": "b"}
    assert not [one for one in found.shared if one.target.endswith("rootfs")]
    found = made(asked)
    assert found.document["annotations"] == {"a": "b"}
    assert [one.target for one in found.shared] == ["c/one/rootfs"]


def test_limits_that_mean_the_same_stay() -> None:
    rules = [{"allow": False, "access": "rwm"}]
    assert guest_resources(
        {
            "memory": {"limit": 1, "swap": 2, "kernel": 3, "swappiness": 4, "disableOOMKiller": True},
            "cpu": {"shares": 5, "quota": 6, "period": 7, "cpus": "0-3", "mems": "0", "realtimeRuntime": 8},
            "pids": {"limit": 9},
            "blockIO": {"weight": 10},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "network": {"classID": 1},
            "unified": {"memory.high": "1", "io.max": "8:0 rbps=1", "cpuset.cpus": "1"},
            "devices": rules,
        }
    ) == {
        "memory": {"limit": 1, "swap": 2},
        "cpu": {"shares": 5, "quota": 6, "period": 7},
        "pids": {"limit": 9},
        "unified": {"memory.high": "1"},
        "devices": rules,
    }


PID = {"namespaces": [{"type": "pid"}]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mounts": [mount("/host/dir", "rbind", "rshared")]}, r"mounts\[0\]: Bidirectional"),
        ({"mounts": [mount("/host/socket", "rbind")]}, r"mounts\[0\]: /host/socket is a socket"),
        ({"mounts": [mount("/host/disk", "rbind")]}, r"mounts\[0\]: /host/disk is a device"),
        ({"mounts": [mount("/host/tty", "rbind")]}, r"mounts\[0\]: /host/tty is a device"),
        ({"mounts": [mount("/host/dir", "rbind", "ridmap")]}, r"mounts\[0\]: .*shifted owners"),
        ({"mounts": [mount("/host/dir", "rbind", uidMappings=[{}])]}, r"mounts\[0\]: .*shifted owners"),
        ({"hooks": {"prestart": [{"path": "/bin/x"}]}}, "hooks.prestart"),
        ({"linux": {"uidMappings": [{}], **PID}}, "linux.uidMappings"),
        ({"linux": {"seccomp": {"listenerPath": "/s"}, **PID}}, "linux.seccomp.listenerPath"),
        ({"linux": {"namespaces": [{"type": "user"}, {"type": "pid"}]}}, "linux.namespaces: a user"),
        ({"linux": {"namespaces": []}}, "hostPID"),
        ({"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}, "one of the host"),
        (
            {"linux": {"namespaces": [{"type": "pid", "path": "/containers/gone/ns/pid"}]}},
            "gone.*does not run",
        ),
        ({"root": {}}, "root.path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_by_its_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotInVm, match=words):
        made(spec(**changes))


def test_empty_lists_of_hooks_are_no_hooks() -> None:
    assert "hooks" not in made(spec(hooks={"prestart": [], "poststop": None})).document


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError) as error:
        made(spec(mounts=[mount("/host/nothing", "rbind")]))
    assert error.value.filename == "/host/nothing"
