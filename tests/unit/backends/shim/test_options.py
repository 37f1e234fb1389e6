"""What shims are given of the administrator's options, and what they tell of usage."""

from __future__ import annotations

import tomllib
from typing import Any

from crib.backends.shim.nouns import Typed
from crib.backends.shim.options import runtime_options
from crib.backends.shim.statistics import read_metrics
from crib.model.stats import CgroupUsage
from crib.stubs.shim import metrics_v1_pb2, metrics_v2_pb2
from crib.stubs.shim.runc_options_pb2 import Options as RuncOptions
from crib.stubs.shim.runtime_options_pb2 import Options as RuntimeOptions


def runc(**options: str | int | bool) -> RuncOptions:
    found = runtime_options("io.containerd.runc.v2", options, root="/root", systemd=True)
    assert found is not None
    assert found.type_url == "containerd.runc.v1.Options"
    return RuncOptions.FromString(found.value)


def test_runcs_shim_is_told_its_root_and_the_cgroup_driver() -> None:
    found = runc()
    assert (found.root, found.systemd_cgroup, found.binary_name) == ("/root", True, "")


def test_options_win_over_what_crib_says() -> None:
    found = runc(BinaryName="crun", Root="/other", SystemdCgroup=False, IoUid=7)
    assert (found.binary_name, found.root, found.systemd_cgroup, found.io_uid) == ("crun", "/other", False, 7)


def test_another_runtime_is_given_the_file_and_its_type() -> None:
    options: dict[str, Any] = {"TypeUrl": "io.containerd.runsc.v1.options", "ConfigPath": "/etc/runsc.toml"}
    found = runtime_options("io.containerd.runsc.v1", options, root="/r", systemd=False)
    assert found is not None
    assert found.type_url == "runtimeoptions.v1.Options"
    said = RuntimeOptions.FromString(found.value)
    assert (said.type_url, said.config_path) == tuple(options.values())
    assert said.config_body == b""


def test_without_a_file_another_runtime_is_given_all_options_in_toml() -> None:
    options: dict[str, Any] = {"TypeUrl": "x", "debug": True, "ratio": 0.5, "name": 'a "b"\n'}
    found = runtime_options("io.containerd.kata.v2", options, root="/r", systemd=False)
    assert found is not None
    body = RuntimeOptions.FromString(found.value).config_body
    assert tomllib.loads(body.decode()) == options


def test_another_runtime_without_options_is_given_nothing() -> None:
    assert runtime_options("io.containerd.kata.v2", {}, root="/r", systemd=False) is None


def test_what_a_shim_tells_of_cgroup_v1_is_understood() -> None:
    said = metrics_v1_pb2.Metrics()
    said.cpu.usage.total = 5_000
    said.memory.usage.usage, said.memory.usage.limit = 100, 1000
    said.memory.total_inactive_file = 30
    said.pids.current = 3
    found = read_metrics(Typed("io.containerd.cgroups.v1.Metrics", said.SerializeToString()), 1)
    assert found.cpu is not None
    assert found.memory is not None
    assert found.processes is not None
    assert found.cpu.usage == 5_000
    assert (found.memory.usage, found.memory.working_set, found.memory.available) == (100, 70, 930)
    assert found.processes.processes == 3


def test_what_a_shim_tells_of_cgroup_v2_is_understood() -> None:
    said = metrics_v2_pb2.Metrics()
    said.cpu.usage_usec = 5
    said.memory.usage, said.memory.usage_limit = 100, (1 << 64) - 1
    said.memory.inactive_file = 30
    url = "types.containerd.io/io.containerd.cgroups.v2.Metrics"
    found = read_metrics(Typed(url, said.SerializeToString()), 1)
    assert found.cpu is not None
    assert found.memory is not None
    assert found.cpu.usage == 5_000
    assert (found.memory.working_set, found.memory.limit) == (70, None)
    assert found.processes is None


def test_of_a_type_that_nobody_knows_nothing_is_told() -> None:
    assert read_metrics(Typed("my.own.Metrics", b"\xff\xff"), 1) == CgroupUsage()
