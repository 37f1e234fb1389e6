"""What NRI's own generator makes of an adjustment (nri/pkg/runtime-tools/generate), worked out by hand.

`OURS` are the cases in which that loses something, and what is made here instead.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format

from crib.backends.nri.translate_adjustment import container_edits
from crib.ocispec.edits import with_edits
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "/r"},
    "process": {
        "user": {"uid": 1, "gid": 2},
        "cwd": "/",
        "args": ["/bin/sh", "-c", "x"],
        "env": ["A=1", "B=2", "C=3"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4, "soft": 3}],
        "oomScoreAdj": 5,
        "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 1},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "source": "/h"},
    ],
    "annotations": {"a": "1", "b": "2"},
    "linux": {
        "cgroupsPath": "/x",
        "namespaces": [{"type": "ipc", "path": "/ns/ipc"}, {"type": "pid"}],
        "devices": [{"path": "/dev/a", "type": "c", "major": 1, "minor": 2}],
        "resources": {
            "devices": [{"allow": False, "access": "rwm", "type": "a", "major": None, "minor": None}],
            "memory": {"limit": 100, "swap": 200},
            "cpu": {"shares": 10, "cpus": "0"},
            "pids": {"limit": 9},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        },
        "sysctl": {"kernel.a": "1"},
        "intelRdt": {"closID": "old", "schemata": ["L3:0=f"]},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
    },
}

Case = tuple[dict[str, Any], str, Any]
"""The adjustment, a place in the spec, and what is there then."""

THEIRS: dict[str, Case] = {
    "a variable that is there keeps its place": (
        {"env": [{"key": "D", "value": "4"}, {"key": "B", "value": "x"}]},
        "process.env",
        ["A=1", "B=x", "C=3", "D=4"],
    ),
    "a variable that is removed and set keeps its place too": (
        {"env": [{"key": "-B"}, {"key": "B", "value": "x"}]},
        "process.env",
        ["A=1", "B=x", "C=3"],
    ),
    "a variable's value may have an equals sign": (
        {"env": [{"key": "A", "value": "b=c"}]},
        "process.env",
        ["A=b=c", "B=2", "C=3"],
    ),
    "the command is replaced whole": ({"args": ["a", "b"]}, "process.args", ["a", "b"]),
    "the mark before the command is none of it": ({"args": ["", "a", "b"]}, "process.args", ["a", "b"]),
    "no command leaves the one that is there": ({"args": []}, "process.args", ["/bin/sh", "-c", "x"]),
    "annotations are set and removed": (
        {"annotations": {"a": "x", "-b": "", "c": "3"}},
        "annotations",
        {"a": "x", "c": "3"},
    ),
    "hooks are added behind those that are there": (
        {"hooks": {"prestart": [{"path": "/p", "args": ["p"], "timeout": {"value": 3}, "env": ["X=1"]}]}},
        "hooks.prestart",
        [{"path": "/p", "args": ["p"], "env": ["X=1"], "timeout": 3}],
    ),
    "a device takes the place of its namesake and may be used": (
        {"linux": {"devices": [{"path": "/dev/a", "type": "b", "major": 8, "minor": 1}]}},
        "linux.devices",
        [{"path": "/dev/a", "type": "b", "major": 8, "minor": 1, "uid": 0, "gid": 0}],
    ),
    "a block device may be made again": (
        {"linux": {"devices": [{"path": "/dev/a", "type": "b", "major": 8, "minor": 1}]}},
        "linux.resources.devices.1",
        {"allow": True, "type": "b", "major": 8, "minor": 1, "access": "rwm"},
    ),
    "a character device may not": (
        {
            "linux": {
                "devices": [
                    {"path": "/dev/b", "type": "c", "major": 8, "minor": 1, "file_mode": {"value": 0o444}}
                ]
            }
        },
        "linux.resources.devices.1",
        {"allow": True, "type": "c", "major": 8, "minor": 1, "access": "rw"},
    ),
    "a device is removed": ({"linux": {"devices": [{"path": "-/dev/a"}]}}, "linux.devices", None),
    "a memory limit is one with swap": (
        {"linux": {"resources": {"memory": {"limit": {"value": 50}}}}},
        "linux.resources.memory",
        {"limit": 50, "swap": 50},
    ),
    "a memory limit of 0 says nothing": (
        {"linux": {"resources": {"memory": {"limit": {"value": 0}}}}},
        "linux.resources.memory",
        {"limit": 100, "swap": 200},
    ),
    "of the CPU only what is named changes": (
        {"linux": {"resources": {"cpu": {"quota": {"value": 7}, "mems": "1"}}}},
        "linux.resources.cpu",
        {"shares": 10, "quota": 7, "cpus": "0", "mems": "1"},
    ),
    "a limit of huge pages takes the place of that of its size": (
        {"linux": {"resources": {"hugepage_limits": [{"page_size": "2MB", "limit": 5}]}}},
        "linux.resources.hugepageLimits",
        [{"pageSize": "2MB", "limit": 5}],
    ),
    "the number of processes": (
        {"linux": {"resources": {"pids": {"limit": 3}}}},
        "linux.resources.pids",
        {"limit": 3},
    ),
    "rules for devices come last": (
        {"linux": {"resources": {"devices": [{"allow": False, "type": "c", "access": "m"}]}}},
        "linux.resources.devices.1",
        {"allow": False, "type": "c", "major": None, "minor": None, "access": "m"},
    ),
    "a namespace takes the place of that of its type": (
        {"linux": {"namespaces": [{"type": "ipc", "path": "/other"}, {"type": "uts"}]}},
        "linux.namespaces",
        [{"type": "ipc", "path": "/other"}, {"type": "pid"}, {"type": "uts"}],
    ),
    "a namespace is removed": (
        {"linux": {"namespaces": [{"type": "-ipc"}]}},
        "linux.namespaces",
        [{"type": "pid"}],
    ),
    "sysctls are set and removed": (
        {"linux": {"sysctl": {"-kernel.a": "", "kernel.b": "2"}}},
        "linux.sysctl",
        {"kernel.b": "2"},
    ),
    "a class of RDT takes the place of all of it": (
        {"linux": {"resources": {"rdt_class": {"value": "gold"}}}},
        "linux.intelRdt",
        {"closID": "gold"},
    ),
    "an empty class of RDT takes it away": (
        {"linux": {"resources": {"rdt_class": {"value": ""}}}},
        "linux.intelRdt",
        None,
    ),
    "a part of RDT changes alone": (
        {"linux": {"rdt": {"clos_id": {"value": "new"}}}},
        "linux.intelRdt",
        {"closID": "new", "schemata": ["L3:0=f"]},
    ),
    "RDT is removed before it is set": (
        {"linux": {"rdt": {"remove": True, "enable_monitoring": {"value": True}}}},
        "linux.intelRdt",
        {"enableMonitoring": True},
    ),
    "a seccomp policy takes the place of the other": (
        {"linux": {"seccomp_policy": {"default_action": "SCMP_ACT_LOG"}}},
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_LOG"},
    ),
    "a priority of NONE takes it away": ({"linux": {"io_priority": {}}}, "process.ioPriority", None),
    "a mount takes the place of its namesake, parents come first": (
        {
            "mounts": [
                {"destination": "/etc/hosts", "type": "bind", "source": "/n"},
                {"destination": "/etc", "type": "tmpfs"},
            ]
        },
        "mounts",
        [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc", "type": "tmpfs"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/n"},
        ],
    ),
    "a mount is removed": (
        {"mounts": [{"destination": "-/etc/hosts"}]},
        "mounts",
        [{"destination": "/proc", "type": "proc", "source": "proc"}],
    ),
    "a shared mount needs a root that is": (
        {"mounts": [{"destination": "/a", "type": "bind", "source": "/b", "options": ["rbind", "rshared"]}]},
        "linux.rootfsPropagation",
        "rshared",
    ),
    "a following mount needs a root that follows": (
        {"mounts": [{"destination": "/a", "type": "bind", "source": "/b", "options": ["rbind", "rslave"]}]},
        "linux.rootfsPropagation",
        "rslave",
    ),
    "a network device gets its name": (
        {"linux": {"net_devices": {"eth1": {"name": "net0"}, "-eth2": {}}}},
        "linux.netDevices",
        {"eth1": {"name": "net0"}},
    ),
    "the cgroup": ({"linux": {"cgroups_path": "/y/z"}}, "linux.cgroupsPath", "/y/z"),
    "a score of 0 is one": ({"linux": {"oom_score_adj": {"value": 0}}}, "process.oomScoreAdj", 0),
}

OURS: dict[str, Case] = {
    # The mark is not handed on to the generator.
    "a variable is removed": ({"env": [{"key": "-B"}]}, "process.env", ["A=1", "C=3"]),
    # Added behind: the runtime would set both, one after the other.
    "a limit of the process takes the place of its namesake": (
        {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}]},
        "process.rlimits",
        [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}],
    ),
    # Only the limit is taken.
    "all of memory's limits are taken": (
        {
            "linux": {
                "resources": {
                    "memory": {"limit": {"value": 50}, "swap": {"value": 80}, "reservation": {"value": 40}}
                }
            }
        },
        "linux.resources.memory",
        {"limit": 50, "swap": 80, "reservation": 40},
    ),
    # The old limit stays.
    "no limit of processes": (
        {"linux": {"resources": {"pids": {"limit": -1}}}},
        "linux.resources.pids",
        {"limit": -1},
    ),
    # It is lost.
    "the number of the error that a seccomp policy answers with": (
        {"linux": {"seccomp_policy": {"default_action": "SCMP_ACT_ERRNO", "default_errno": {"value": 38}}}},
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38},
    ),
    # It is made without an environment, and so with the runtime's.
    "a hook without variables has the usual path": (
        {"hooks": {"poststop": [{"path": "/p"}]}},
        "hooks.poststop",
        [{"path": "/p", "env": [PATH]}],
    ),
}


@pytest.mark.parametrize("name", [*THEIRS, *OURS])
def test_an_adjustment_becomes_what_nri_makes_of_it(name: str) -> None:
    adjustment, place, expected = (THEIRS | OURS)[name]
    edits = container_edits("10-a", json_format.ParseDict(adjustment, pb.ContainerAdjustment()))
    spec = with_edits(oci.decode_spec(json.dumps(BASE).encode()), edits)
    found = json.loads(oci.encode(spec))
    for part in place.split("."):
        found = found[int(part)] if isinstance(found, list) else found.get(part)
        if found is None:
            break
    assert found == expected
