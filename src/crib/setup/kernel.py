"""The kernel: its version, file systems, cgroups, modules, sysctls, limits and security modules."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator

from crib.model.settings import Settings
from crib.setup.host import HostView, SetupFinding, note, ok, problem

MIN_KERNEL = (6, 1)
"""What crib is tested with."""
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io")
"""Of cgroup v2, that limits of pods need."""
FAVORDYNMODS_KERNEL = 6
"""The first major version that knows this mount option."""
MIN_FILES = 65536
"""Open files that a container is likely to want: it gets the limit that cribd was started with."""
MIN_INOTIFY = 512
"""Instances that root's processes share: cribd, the kubelet and each container that runs as root."""


def look(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    """All of it."""
    yield _version(host)
    yield from _file_systems(host)
    yield from _cgroups(host)
    yield _driver(host, settings)
    yield _favordynmods(host, settings)
    yield from _features(host)
    yield from _security_modules(host)
    yield from _sysctls(host, settings)
    yield _open_files()


def _version(host: HostView) -> SetupFinding:
    found = re.match(r"(\d+)\.(\d+)", host.release)
    least = ".".join(map(str, MIN_KERNEL))
    if found is None:
        return note("kernel", "version", f"the kernel calls itself {host.release!r}")
    if (int(found[1]), int(found[2])) < MIN_KERNEL:
        return problem(
            "kernel", "version", f"{host.release}: crib needs {least} or later", "install a later kernel"
        )
    return ok("kernel", "version", host.release)


def _file_systems(host: HostView) -> Iterator[SetupFinding]:
    known = {line.split("\t")[-1] for line in host.lines("/proc/filesystems")}
    for name, without in (("overlay", ""), ("erofs", "image layers are unpacked into directories then")):
        if name in known:
            yield ok("kernel", name, "mounted by this kernel")
        elif host.can_load(name):
            text = "the module is there, and is loaded when it is needed"
            yield note("kernel", name, text, f"modprobe {name} && echo {name} >/etc/modules-load.d/crib.conf")
        elif without:
            yield note("kernel", name, f"this kernel has no {name}: {without}")
        else:
            cure = f"use a kernel with CONFIG_{name.upper()}_FS"
            yield problem("kernel", name, f"this kernel has no {name}, which every container needs", cure)


def cgroup_version(host: HostView) -> int:
    """2, or 1 (also for a hybrid tree); 0 where none is mounted."""
    if host.exists("/sys/fs/cgroup/cgroup.controllers"):
        return 2
    return 1 if host.exists("/sys/fs/cgroup/memory") or host.exists("/sys/fs/cgroup/unified") else 0


def _cgroups(host: HostView) -> Iterator[SetupFinding]:
    version = cgroup_version(host)
    if not version:
        cure = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        yield problem("cgroups", "version", "no cgroup tree is mounted at /sys/fs/cgroup", cure)
        return
    boot = "boot with systemd.unified_cgroup_hierarchy=1"
    if version == 1:
        text = "version 1 (or hybrid); a kubelet of 1.35 or later wants 2, unless failCgroupV1 is false"
        yield note("cgroups", "version", text, boot)
        on = {line.split()[0] for line in host.lines("/proc/cgroups")[1:] if line.split()[-1:] == ["1"]}
        there = on | ({"io"} if "blkio" in on else set())
    else:
        yield ok("cgroups", "version", "2")
        there = set(host.text("/sys/fs/cgroup/cgroup.controllers").split())
    missing = [name for name in CONTROLLERS if name not in there]
    if missing:
        cure = "boot with " + " ".join(f"cgroup_enable={name}" for name in missing)
        text = f"not there: {', '.join(missing)}; limits of these kinds do nothing"
        yield problem("cgroups", "controllers", text, cure)
    else:
        yield ok("cgroups", "controllers", ", ".join(CONTROLLERS))


def _driver(host: HostView, settings: Settings) -> SetupFinding:
    driver, has_systemd = settings.cgroup_driver, host.exists("/run/systemd/system")
    if driver == "systemd" and not has_systemd:
        cure = 'cgroup_driver = "cgroupfs" in /etc/crib/config.toml'
        return problem("cgroups", "driver", "cgroup_driver is systemd, but systemd does not run here", cure)
    if driver == "cgroupfs" and has_systemd and cgroup_version(host) == 2:
        text = "cgroup_driver is cgroupfs, beside systemd: each manages cgroups that the other does not know"
        cure = 'cgroup_driver = "systemd" in /etc/crib/config.toml, and cgroupDriver: systemd for the kubelet'
        return note("cgroups", "driver", text, cure)
    return ok("cgroups", "driver", driver)


def _favordynmods(host: HostView, settings: Settings) -> SetupFinding:
    """The mount option of cgroup v2; `cgroup_favordynmods` is the setting."""
    subject, found = "favordynmods", re.match(r"(\d+)\.", host.release)
    trees = [line for line in host.lines("/proc/self/mountinfo") if " /sys/fs/cgroup " in line]
    if any(subject in line.rpartition(" ")[2].split(",") for line in trees):
        return ok("cgroups", subject, "on: cgroups change faster, forks and exits are a little slower")
    if not settings.cgroup_favordynmods:
        return ok("cgroups", subject, "off")
    if cgroup_version(host) != 2:
        why = "cgroups are not version 2"
    elif found is not None and int(found[1]) < FAVORDYNMODS_KERNEL:
        why = f"it came with kernel {FAVORDYNMODS_KERNEL}.0"
    else:
        return ok("cgroups", subject, "off; cribd puts it on when it starts")
    cure = "take cgroup_favordynmods out of /etc/crib/config.toml"
    return note("cgroups", subject, f"cgroup_favordynmods has no effect: {why}", cure)


def _features(host: HostView) -> Iterator[SetupFinding]:
    if "Seccomp:" in host.text("/proc/self/status"):
        yield ok("kernel", "seccomp", "there")
    else:
        cure = "use a kernel with CONFIG_SECCOMP_FILTER"
        yield problem("kernel", "seccomp", "this kernel has no seccomp: containers cannot be confined", cure)
    most = host.text("/proc/sys/user/max_user_namespaces").strip()
    if most in ("", "0"):
        text = "there are none: pods with hostUsers: false are refused"
        yield note("kernel", "user namespaces", text, "sysctl -w user.max_user_namespaces=15000")
    else:
        yield ok("kernel", "user namespaces", f"at most {most}")


def _security_modules(host: HostView) -> Iterator[SetupFinding]:
    modules = host.text("/sys/kernel/security/lsm").strip().split(",")
    found = [name for name in ("apparmor", "selinux") if name in modules]
    if "apparmor" in found and not host.find("apparmor_parser"):
        text = "AppArmor is on, but apparmor_parser is not here: containers run without crib's profile"
        yield note("security", "apparmor", text, "apt install apparmor")
    elif found:
        yield ok("security", " and ".join(found), "on")
    else:
        yield note(
            "security", "modules", "neither AppArmor nor SELinux is on; seccomp and capabilities remain"
        )


def _sysctls(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    if host.text("/proc/sys/net/ipv4/ip_forward").strip() == "1":
        yield ok("sysctl", "net.ipv4.ip_forward", "1")
    elif settings.network.mode == "bridge":
        yield note("sysctl", "net.ipv4.ip_forward", "0; cribd sets it when it makes its bridge")
    else:
        text = "0: pods reach nothing beyond this node, unless the CNI plugin sets it"
        yield problem("sysctl", "net.ipv4.ip_forward", text, _set("net.ipv4.ip_forward", 1))
    key = "net.bridge.bridge-nf-call-iptables"
    if settings.network.mode == "cni" and host.has_module("br_netfilter"):
        if host.text(f"/proc/sys/{key.replace('.', '/', 2)}").strip() == "1":
            yield ok("sysctl", key, "1")
        else:
            text = "0: kube-proxy's rules do not see traffic between pods of one Linux bridge"
            yield note("sysctl", key, text, _set(key, 1))
    elif settings.network.mode == "cni" and host.can_load("br_netfilter"):
        text = "br_netfilter is not loaded; kube-proxy with a bridge plugin needs it"
        cure = "modprobe br_netfilter && echo br_netfilter >/etc/modules-load.d/kubernetes.conf"
        yield note("sysctl", key, text, cure)
    key = "fs.inotify.max_user_instances"
    instances = host.text("/proc/sys/fs/inotify/max_user_instances").strip()
    if instances.isdigit() and int(instances) < MIN_INOTIFY:
        text = f"{instances}: all of root's processes share them, the containers' too"
        yield note("sysctl", key, text, _set(key, 8192))
    else:
        yield ok("sysctl", key, instances or "not told")


def _set(key: str, value: int) -> str:
    return f"sysctl -w {key}={value} && echo '{key} = {value}' >>/etc/sysctl.d/90-crib.conf"


def _open_files() -> SetupFinding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
        text = f"at most {hard} here; containers get what cribd was started with"
        return note("limits", "open files", text, "ulimit -n 1048576 before cribd, or start it as a unit")
    return ok("limits", "open files", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")
