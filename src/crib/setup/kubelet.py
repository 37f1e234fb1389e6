"""The kubelet's side, other runtimes, and crictl."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from crib.model.settings import Settings
from crib.setup.host import HostView, SetupFinding, note, ok, problem
from crib.setup.kernel import cgroup_version

CONFIGS = ("/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet-config.yaml")
"""Where kubeadm and most others put it."""
UNIT_DIRECTORIES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
CRICTL = "/etc/crictl.yaml"
_OTHERS = {
    "/run/containerd/containerd.sock": "containerd",
    "/run/crio/crio.sock": "crio",
    "/run/cri-dockerd.sock": "cri-docker",
    "/run/k3s/containerd/containerd.sock": "k3s",
}


def endpoint(settings: Settings) -> str:
    """As the kubelet and crictl write it."""
    return f"unix://{settings.socket_path}"


def look(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    """The kubelet's configuration file, if there is one, then the others."""
    path = next((one for one in CONFIGS if host.exists(one)), "")
    if path:
        yield from _configuration(host, settings, path)
    elif host.find("kubelet"):
        yield note("kubelet", "configuration", f"none at {' or '.join(CONFIGS)}; looked at nothing of it")
    else:
        yield ok("kubelet", "kubelet", "not installed; crib runs pods without one, too")
    for socket, name in _OTHERS.items():
        if host.exists(socket):
            text = f"{socket} is there: {name} runs, or did; its pods stay until it is asked to end them"
            yield note("others", name, text, f"systemctl disable --now {name}, once the kubelet uses crib")
    told = re.search(r"^runtime-endpoint:\s*[\"']?([^\s\"'#]+)", host.text(CRICTL), re.MULTILINE)
    if told is None:
        yield note("crictl", CRICTL, "crictl asks whichever runtime it finds", "crib setup --write")
    elif told[1] not in (endpoint(settings), settings.socket_path):
        yield note("crictl", CRICTL, f"crictl asks {told[1]}", "crib setup --write")
    else:
        yield ok("crictl", CRICTL, told[1])


def _configuration(host: HostView, settings: Settings, path: str) -> Iterator[SetupFinding]:
    try:
        found: Any = yaml.safe_load(host.text(path))
    except yaml.YAMLError as error:
        yield problem("kubelet", path, " ".join(str(error).split()), "mend the file")
        return
    config: dict[str, Any] = found if isinstance(found, dict) else {}
    wanted, told = endpoint(settings), config.get("containerRuntimeEndpoint") or ""
    if told == wanted:
        yield ok("kubelet", "containerRuntimeEndpoint", wanted)
    elif told:
        cure = f"sed -i 's|^containerRuntimeEndpoint:.*|containerRuntimeEndpoint: {wanted}|' {path}"
        yield problem("kubelet", "containerRuntimeEndpoint", f"{path} says {told}", cure)
    else:
        text = f"{path} says nothing; without a flag the kubelet takes containerd"
        yield note("kubelet", "containerRuntimeEndpoint", text, "crib setup --write, or add it to the file")
    driver = config.get("cgroupDriver") or "cgroupfs"
    if driver == settings.cgroup_driver:
        yield ok("kubelet", "cgroupDriver", driver)
    else:
        text = f"{path} says {driver}, and crib's cgroup_driver is {settings.cgroup_driver}"
        cure = f'cgroup_driver = "{driver}" in /etc/crib/config.toml'
        yield problem("kubelet", "cgroupDriver", text, cure)
    if cgroup_version(host) == 1 and config.get("failCgroupV1") is not False:
        text = "this host has cgroup v1; a kubelet of 1.35 or later does not start so"
        yield note("kubelet", "failCgroupV1", text, f"echo 'failCgroupV1: false' >>{path}")
    if len(host.lines("/proc/swaps")) > 1 and config.get("failSwapOn") is not False:
        text = "swap is on, and the kubelet refuses to start so"
        yield problem("kubelet", "failSwapOn", text, f"swapoff -a, or echo 'failSwapOn: false' >>{path}")


def takes_extra_arguments(host: HostView) -> bool:
    """Whether the kubelet's unit passes $KUBELET_EXTRA_ARGS on, as that of kubeadm's package."""
    for directory in UNIT_DIRECTORIES:
        drop_ins = f"{directory}/kubelet.service.d"
        files = [f"{directory}/kubelet.service", *(f"{drop_ins}/{name}" for name in host.names(drop_ins))]
        if any("$KUBELET_EXTRA_ARGS" in host.text(file) for file in files):
            return True
    return False


def has_unit(host: HostView) -> bool:
    return any(host.exists(f"{directory}/kubelet.service") for directory in UNIT_DIRECTORIES)
