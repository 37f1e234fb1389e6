"""Where cgroups are by each driver, what systemd is told, and limits on trees of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.oci.command_lines import Monitored, MonitorProgram, RuntimeProgram
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.slices import change_argv, check_systemd, start_argv, stop_argv
from crib.model.errors import Broken, InvalidRequest
from tests.unit.ocispec.inputs_for_tests import sandbox

POD, BOX = "5" * 64, "c" * 64
FILES = CgroupNames("/crib")
SYSTEMD = CgroupNames("/crib", systemd=True)


def named(parent: str) -> CgroupNames | object:
    plain = sandbox()
    return replace(plain, config=replace(plain.config, cgroup_parent=parent))


def test_with_cgroupfs_paths_are_what_they_seem() -> None:
    pod = FILES.pod(sandbox())
    assert pod == FILES.own_pod(POD) == f"/crib/{POD}"
    assert FILES.below(pod, BOX) == FILES.oci_path(pod, BOX) == f"/crib/{POD}/{BOX}"
    assert FILES.own == "/crib"
    assert list(FILES.pods_among([POD, "other"])) == [POD]


def test_with_systemd_pods_are_slices_and_containers_scopes() -> None:
    pod = SYSTEMD.pod(sandbox())
    assert pod == SYSTEMD.own_pod(POD) == f"/crib.slice/crib-{POD}.slice"
    assert SYSTEMD.below(pod, BOX) == f"{pod}/crib-{BOX}.scope"
    assert SYSTEMD.oci_path(pod, BOX) == f"crib-{POD}.slice:crib:{BOX}"
    assert list(SYSTEMD.pods_among([f"crib-{POD}.slice", "crib-x.slice", "cgroup.procs"])) == [POD]
    assert CgroupNames("/a/b", systemd=True).own == "/a.slice/a-b.slice"
    assert CgroupNames("/x.slice", systemd=True).own == "/x.slice"
    with pytest.raises(Broken, match="cgroup_root"):
        assert CgroupNames("/a--b", systemd=True).own


@pytest.mark.parametrize(
    "parent",
    [
        "kubepods-burstable-pod1.slice",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice",
    ],
)
@pytest.mark.parametrize("names", [FILES, SYSTEMD])
def test_a_kubelets_slice_is_found_by_name_or_path(names: CgroupNames, parent: str) -> None:
    pod = names.pod(named(parent))  # type: ignore[arg-type]  # a record
    assert pod == "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
    if names.systemd:
        assert names.oci_path(pod, BOX) == f"kubepods-burstable-pod1.slice:crib:{BOX}"


def test_a_path_is_no_slice() -> None:
    assert FILES.pod(named("/kubepods/pod1")) == "/kubepods/pod1"  # type: ignore[arg-type]  # a record
    with pytest.raises(InvalidRequest, match="not a slice"):
        SYSTEMD.pod(named("/kubepods/pod1"))  # type: ignore[arg-type]  # a record


@pytest.mark.parametrize("parent", ["/", "../x", "a--b.slice", "/a/../b", ".slice"])
@pytest.mark.parametrize("names", [FILES, SYSTEMD])
def test_what_leads_elsewhere_is_refused(names: CgroupNames, parent: str) -> None:
    with pytest.raises(InvalidRequest, match="cgroup_parent"):
        names.pod(named(parent))  # type: ignore[arg-type]  # a record


def test_runtime_and_monitor_are_told_the_driver() -> None:
    runtime = RuntimeProgram("/usr/bin/crun", "/run/r", systemd=True)
    assert runtime.start("x") == ("/usr/bin/crun", "--root=/run/r", "--systemd-cgroup", "start", "x")
    assert "--systemd-cgroup" not in RuntimeProgram("/usr/bin/crun", "/run/r").start("x")
    monitored = Monitored("id", "name", "/b", "/p", "true", "short")
    argv = MonitorProgram("conmon", "/e", "/s").create(runtime, "/usr/bin/crun", monitored)
    assert argv.count("--systemd-cgroup") == 1
    assert "--runtime-arg=--systemd-cgroup" not in argv


def test_systemd_is_told_limits_as_d_bus_has_them() -> None:
    properties = (("CPUWeight", "t", "20"), ("AllowedCPUs", "ay", "1", "3"))
    start = ("StartTransientUnit", "ssa(sv)a(sa(sv))", "a.slice", "replace", "0", "0")
    assert start_argv("a.slice")[-6:] == start
    assert change_argv("a.slice", properties)[-12:] == (
        *("SetUnitProperties", "sba(sv)", "a.slice", "true"),
        *("2", "CPUWeight", "t", "20", "AllowedCPUs", "ay", "1", "3"),
    )
    assert stop_argv("a.slice")[-4:] == ("StopUnit", "ss", "a.slice", "replace")


def test_the_systemd_driver_needs_systemd(tmp_path: Path) -> None:
    check_systemd(str(tmp_path))
    with pytest.raises(Broken, match="systemd does not run"):
        check_systemd(str(tmp_path / "none"))


def test_a_cgroup_of_somebody_elses_choice_must_be_below_the_pods() -> None:
    """All that is in it is killed with the container."""
    pod = FILES.pod(sandbox())
    assert FILES.moved(pod, f"{pod}/mine/deeper") == f"{pod}/mine/deeper"
    for odd in ("/", "", pod, f"{pod}/", f"{pod}/../other", f"{pod}/./x", f"{pod}x/y", "/crib"):
        with pytest.raises(Broken, match="must be below"):
            FILES.moved(pod, odd)
    pod = SYSTEMD.pod(sandbox())
    assert SYSTEMD.moved(pod, f"crib-{POD}.slice:other:{BOX}") == f"{pod}/other-{BOX}.scope"
    for odd in (f"system.slice:crib:{BOX}", f"crib-{POD}.slice:../..:x/../../y", "no colon"):
        with pytest.raises(Broken, match="must be below"):
            SYSTEMD.moved(pod, odd)
