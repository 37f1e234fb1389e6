"""What is told of hosts of many kinds: trees of files that look like one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from crib.config import parse
from crib.model.settings import Settings
from crib.setup import kernel
from crib.setup.__main__ import findings, main, of_configuration
from crib.setup.files import DROP_IN, offers
from crib.setup.host import HostView, SetupFinding, State

RELEASE = "6.1.0-18-amd64"
CONFLIST = '{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}'
GOOD: Mapping[str, str] = {
    "/proc/sys/kernel/osrelease": f"{RELEASE}\n",
    "/proc/filesystems": "nodev\tproc\nnodev\toverlay\n\terofs\n\text4\n",
    "/proc/self/status": "Name:\tx\nSeccomp:\t0\n",
    "/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / /run rw - tmpfs tmpfs rw\n",
    "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    "/proc/net/tcp": "  sl  local_address rem_address   st\n   0: 0100007F:2710 00000000:0000 0A 0\n",
    "/proc/sys/net/ipv4/ip_forward": "1\n",
    "/proc/sys/user/max_user_namespaces": "15000\n",
    "/proc/sys/fs/inotify/max_user_instances": "8192\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids\n",
    "/sys/kernel/security/lsm": "capability,apparmor\n",
    "/etc/cni/net.d/10-pods.conflist": CONFLIST,
    "/opt/cni/bin/bridge": "",
    "/opt/cni/bin/portmap": "",
    "/var/lib/kubelet/config.yaml": (
        "containerRuntimeEndpoint: unix:///run/crib/crib.sock\ncgroupDriver: cgroupfs\n"
    ),
    "/etc/crictl.yaml": "runtime-endpoint: unix:///run/crib/crib.sock\n",
    "/run/keep": "",
    "/var/lib/keep": "",
}
PROGRAMS = ("crun", "conmon", "catatonit", "unshare", "apparmor_parser")


def host(root: Path, changes: Mapping[str, str | None], programs: tuple[str, ...] = PROGRAMS) -> HostView:
    """A good one with these changes; a file that is None is not there."""
    for path, text in {**GOOD, **changes}.items():
        if text is not None:
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / path[1:]).write_text(text)
    (root / "bin").mkdir()
    for name in programs:
        (root / "bin" / name).write_text(f"#!/bin/sh\necho {name} version 1.2\n")
        (root / "bin" / name).chmod(0o755)
    return HostView(str(root), [str(root / "bin")])


async def told(found: HostView, settings: Settings | None = None) -> dict[str, SetupFinding]:
    """What is not ok but for what depends on this machine, by subject."""
    return {
        one.subject: one
        for one in await findings(found, settings or Settings())
        if one.state is not State.OK and one.subject not in ("open files", "free space")
    }


async def test_of_a_good_host_there_is_nothing_to_tell(tmp_path: Path) -> None:
    found = host(tmp_path, {})
    assert await told(found) == {}
    every = {one.subject: one.text for one in await findings(found, Settings())}
    assert every["version"] == "2"
    assert every["handler crun"] == f"{tmp_path}/bin/crun: crun version 1.2"
    assert every["data"] == "/var/lib/crib is on ext4 (/)"


@pytest.mark.parametrize(
    ("changes", "subject", "state", "text", "cure"),
    [
        (
            {"/proc/sys/kernel/osrelease": "5.15.0"},
            "version",
            "problem",
            "needs 6.1 or later",
            "later kernel",
        ),
        ({"/proc/filesystems": "\terofs\n"}, "overlay", "problem", "has no overlay", "CONFIG_OVERLAY_FS"),
        ({"/proc/filesystems": "nodev\toverlay\n"}, "erofs", "note", "unpacked into directories", ""),
        (
            {
                "/proc/filesystems": "nodev\toverlay\n",
                f"/lib/modules/{RELEASE}/modules.dep": "kernel/fs/erofs/erofs.ko.xz: kernel/lib/x.ko.xz\n",
            },
            "erofs",
            "note",
            "loaded when it is needed",
            "modprobe erofs",
        ),
        (
            {"/sys/fs/cgroup/cgroup.controllers": "cpu pids"},
            "controllers",
            "problem",
            "memory",
            "cgroup_enable",
        ),
        ({"/run/systemd/system/x": ""}, "driver", "note", "beside systemd", "cgroupDriver: systemd"),
        ({"/proc/self/status": ""}, "seccomp", "problem", "no seccomp", "CONFIG_SECCOMP_FILTER"),
        ({"/proc/sys/user/max_user_namespaces": "0"}, "user namespaces", "note", "hostUsers", "sysctl -w"),
        ({"/sys/kernel/security/lsm": "capability"}, "modules", "note", "neither AppArmor nor", ""),
        (
            {"/proc/sys/net/ipv4/ip_forward": "0"},
            "net.ipv4.ip_forward",
            "problem",
            "reach nothing beyond",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            {"/sys/module/br_netfilter/x": "", "/proc/sys/net/bridge/bridge-nf-call-iptables": "0"},
            "net.bridge.bridge-nf-call-iptables",
            "note",
            "kube-proxy",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        (
            {"/etc/cni/net.d/10-pods.conflist": None},
            "/etc/cni/net.d",
            "note",
            "no configuration",
            "network add-on",
        ),
        (
            {"/etc/cni/net.d/10-pods.conflist": "{"},
            "/etc/cni/net.d/10-pods.conflist",
            "problem",
            "",
            "mend the file",
        ),
        (
            {"/opt/cni/bin/portmap": None},
            "/etc/cni/net.d/10-pods.conflist",
            "problem",
            "network pods: portmap in none of /opt/cni/bin",
            "apt install containernetworking-plugins",
        ),
        (
            {"/proc/self/mountinfo": "1 0 8:1 / / rw - nfs4 s:/x rw\n2 1 0:2 / /run rw - tmpfs t rw\n"},
            "data",
            "problem",
            "is on nfs4 (/)",
            "local disk",
        ),
        (
            {"/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"},
            "state",
            "note",
            "is on ext4",
            "below /run",
        ),
        (
            {"/proc/swaps": "Filename\n/swap file 1 0 -2\n"},
            "failSwapOn",
            "problem",
            "swap is on",
            "swapoff -a",
        ),
        (
            {
                "/var/lib/kubelet/config.yaml": "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n"
            },
            "containerRuntimeEndpoint",
            "problem",
            "containerd.sock",
            "sed -i",
        ),
        (
            {"/var/lib/kubelet/config.yaml": "cgroupDriver: systemd\n"},
            "cgroupDriver",
            "problem",
            "says systemd, and crib's cgroup_driver is cgroupfs",
            'cgroup_driver = "systemd"',
        ),
        ({"/var/lib/kubelet/config.yaml": "a: [\n"}, "/var/lib/kubelet/config.yaml", "problem", "", "mend"),
        (
            {"/run/containerd/containerd.sock": ""},
            "containerd",
            "note",
            "runs, or did",
            "systemctl disable --now containerd",
        ),
        ({"/etc/crictl.yaml": None}, "/etc/crictl.yaml", "note", "whichever", "crib setup --write"),
        (
            {"/etc/crictl.yaml": 'runtime-endpoint: "unix:///run/containerd/containerd.sock"\n'},
            "/etc/crictl.yaml",
            "note",
            "asks unix:///run/containerd/containerd.sock",
            "crib setup --write",
        ),
    ],
)
async def test_what_is_odd_is_told_with_what_to_do(
    tmp_path: Path, changes: dict[str, str | None], subject: str, state: str, text: str, cure: str
) -> None:
    found = (await told(host(tmp_path, changes)))[subject]
    assert found.state == state
    assert text in found.text
    assert cure in found.cure
    assert found.cure or state != "problem"


async def test_cgroup_v1_matters_to_a_kubelet_that_does_not_allow_it(tmp_path: Path) -> None:
    one = {
        "/sys/fs/cgroup/cgroup.controllers": None,
        "/sys/fs/cgroup/memory/tasks": "",
        "/proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
        + "".join(f"{name}\t1\t1\t1\n" for name in ("cpuset", "cpu", "blkio", "memory", "pids")),
    }
    found = await told(host(tmp_path, one))
    assert found.keys() == {"version", "failCgroupV1"}
    assert "1.35" in found["version"].text


async def test_missing_programs_are_told_by_what_they_are_needed_for(tmp_path: Path) -> None:
    settings = parse('[handlers.crun]\n[handlers.runc]\npath = "/usr/sbin/runc"\n')
    found = await told(host(tmp_path, {}, ("apparmor_parser",)), settings)
    states = {subject: (one.state, one.cure) for subject, one in found.items()}
    assert states == {
        "handler crun": (State.PROBLEM, "apt install crun"),
        "handler runc": (State.NOTE, "apt install runc"),
        "conmon": (State.PROBLEM, "apt install conmon"),
        "catatonit": (State.NOTE, "apt install catatonit"),
        "unshare": (State.NOTE, "apt install util-linux"),
    }


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    settings = parse('[streaming]\nport = 10000\n[metrics]\nlisten = "127.0.0.1:9641"\n')
    found = await told(host(tmp_path, {}), settings)
    assert found.keys() == {"streaming.port"}
    assert "listens on port 10000 already" in found["streaming.port"].text


@pytest.mark.parametrize(
    ("changes", "setting", "state", "text"),
    [
        ({}, "false", "ok", "off"),
        ({}, "true", "ok", "off; cribd puts it on when it starts"),
        ({"/proc/sys/kernel/osrelease": "5.15.0\n"}, "true", "note", "no effect: it came with kernel 6.0"),
        (
            {"/sys/fs/cgroup/cgroup.controllers": None, "/sys/fs/cgroup/memory/x": ""},
            "true",
            "note",
            "no effect: cgroups are not version 2",
        ),
        (
            {"/proc/self/mountinfo": "1 0 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,favordynmods\n"},
            "false",
            "ok",
            "on: cgroups change faster, forks and exits are a little slower",
        ),
    ],
)
async def test_favordynmods_is_told_and_where_it_has_no_effect(
    changes: Mapping[str, str | None], setting: str, state: str, text: str, tmp_path: Path
) -> None:
    settings = parse(f"cgroup_favordynmods = {setting}")
    [found] = [one for one in kernel.look(host(tmp_path, changes), settings) if one.subject == "favordynmods"]
    assert (found.state, found.text.removeprefix("cgroup_favordynmods has ")) == (state, text)


async def test_the_driver_systemd_needs_systemd(tmp_path: Path) -> None:
    found = await told(host(tmp_path, {}), parse('cgroup_driver = "systemd"'))
    assert found["driver"].state is State.PROBLEM


def test_faults_of_the_configuration_are_findings(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("dta = 1\nnice = 7\n")
    settings, found = of_configuration(str(file))
    assert settings == Settings()
    assert [one.subject for one in found] == [f"{file}:1:1", f"{file}:2:1"]
    assert {one.state for one in found} == {State.PROBLEM}


def test_crictl_keeps_its_other_lines_and_nothing_is_offered_twice(tmp_path: Path) -> None:
    found = host(tmp_path, {"/etc/crictl.yaml": "runtime-endpoint: unix:///x\ndebug: true\n"})
    (offer,) = offers(found, Settings())
    assert offer.after == (
        "runtime-endpoint: unix:///run/crib/crib.sock\n"
        "image-endpoint: unix:///run/crib/crib.sock\n"
        "debug: true\n"
    )
    (tmp_path / "etc/crictl.yaml").write_text(offer.after)
    assert list(offers(found, Settings())) == []


@pytest.mark.parametrize("passes_on", [True, False])
def test_the_kubelets_unit_gets_the_socket_where_it_passes_arguments_on(
    tmp_path: Path, passes_on: bool
) -> None:
    line = "ExecStart=/usr/bin/kubelet $KUBELET_EXTRA_ARGS" if passes_on else "ExecStart=/usr/bin/kubelet"
    found = host(tmp_path, {"/usr/lib/systemd/system/kubelet.service": f"[Service]\n{line}\n"})
    (offer,) = (one for one in offers(found, Settings()) if one.path == DROP_IN)
    assert "After=cribd.service\n" in offer.after
    flag = "--container-runtime-endpoint=unix:///run/crib/crib.sock"
    assert (flag in offer.after) is passes_on
    assert offer.then == "systemctl daemon-reload && systemctl restart kubelet"


def test_the_program_tells_findings_and_offers_as_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host(tmp_path, {"/etc/crictl.yaml": None})
    file = tmp_path / "cribd.toml"
    file.write_text("")
    assert main(["--root", str(tmp_path), "--file", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0] == {
        "area": "configuration",
        "subject": "files",
        "state": "ok",
        "text": f"{file}: ok",
        "cure": "",
    }
    assert [one["path"] for one in document["offers"]] == ["/etc/crictl.yaml"]
