from __future__ import annotations

import json

import pytest

from crib.wire import oci_runtime as oci
from crib.wire.oci_features import decode_features


def test_names_are_as_the_specification_has_them_and_defaults_are_left_out() -> None:
    process = oci.Process(
        user=oci.User(uid=0, gid=0, additional_gids=(1,)), args=("a",), cwd="/", oom_score_adj=0
    )
    assert json.loads(oci.encode(process)) == {
        "user": {"uid": 0, "gid": 0, "additionalGids": [1]},
        "args": ["a"],
        "cwd": "/",
        "oomScoreAdj": 0,
    }


def test_device_rules_are_written_whole() -> None:
    rule = json.loads(oci.encode(oci.DeviceRule(allow=False)))
    assert rule == {"allow": False, "access": "rwm", "type": "a", "major": None, "minor": None}


def test_state_and_features_are_read() -> None:
    state = oci.decode_state(b'{"ociVersion":"1.0.0","id":"x","status":"running","pid":5,"rootfs":"/"}')
    assert (state.status, state.pid) == ("running", 5)
    features = decode_features(
        b'{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0","mountOptions":["rro"],'
        b'"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}'
    )
    assert features.mount_options == ("rro",)
    assert features.linux is not None
    assert features.linux.mount_extensions is not None
    assert features.linux.mount_extensions.idmap.enabled


def test_text_that_is_not_unicode_is_an_error() -> None:
    with pytest.raises(ValueError):
        oci.encode(oci.Process(user=oci.User(uid=0, gid=0), args=("\udcff",), cwd="/"))


def test_new_fields_have_the_names_of_the_specification() -> None:
    process = oci.Process(
        user=oci.User(uid=0, gid=0),
        args=("a",),
        cwd="/",
        scheduler=oci.Scheduler("SCHED_FIFO", priority=5),
        io_priority=oci.IoPriority("IOPRIO_CLASS_BE", 4),
    )
    rate = (oci.ThrottleDevice(8, 0, 5),)
    resources = oci.Resources(
        memory=oci.Memory(kernel_tcp=1, disable_oom_killer=True, use_hierarchy=False),
        block_io=oci.BlockIo(throttle_read_bps_device=rate, throttle_write_iops_device=rate),
    )
    linux = oci.Linux(
        resources=resources,
        net_devices={"eth1": oci.NetDevice("net0")},
        intel_rdt=oci.IntelRdt("gold", ("L3:0=f",), enable_monitoring=True),
        memory_policy=oci.MemoryPolicy("MPOL_BIND", "0", ("MPOL_F_STATIC_NODES",)),
    )
    written = json.loads(oci.encode(oci.Spec("1.3.0", process, oci.Root("/r"), linux)))
    assert written["process"]["ioPriority"] == {"class": "IOPRIO_CLASS_BE", "priority": 4}
    assert written["process"]["scheduler"] == {"policy": "SCHED_FIFO", "priority": 5}
    assert written["linux"] == {
        "resources": {
            "memory": {"kernelTCP": 1, "disableOOMKiller": True, "useHierarchy": False},
            "blockIO": {
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}],
            },
        },
        "netDevices": {"eth1": {"name": "net0"}},
        "intelRdt": {"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
    }


def test_a_null_in_a_spec_stands_for_a_field_that_is_not_there() -> None:
    spec = oci.Spec("1.0.2", oci.Process(oci.User(0, 0), ("a",), "/"), oci.Root("/r"), oci.Linux())
    document = json.loads(oci.encode(spec)) | {"mounts": None, "linux": {"devices": None}}
    assert oci.decode_spec(json.dumps(document).encode()) == spec
