"""containerd's configuration in our words: config.toml of version 2 (containerd 1.3 to 1.7) and 3 (2.x).

Keys of both versions are the same but for the tables that they are in (containerd's docs/cri/config.md).
"""

from __future__ import annotations

from typing import Any

from crib.config import nri_rules
from crib.config.carrying import ANY, KeyCarrier, Put, Rule, Rules, level, no, parsed, seconds, through, to
from crib.config.faults import ConfigError, Fault
from crib.config.places import Path
from crib.model.shim_settings import runtime_problem

_PLUGINS = {
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
}
_RUNC = "io.containerd.runc.v2"
_HOSTS = (
    "put it into hosts.toml of the registry's directory (docs/images.md), and its password into auth.json"
)


def carry(carrier: KeyCarrier, name: str, text: str) -> None:
    """Take one file over; ConfigError for a version that is not known."""
    version = parsed(name, text).get("version", 1)
    if version not in (2, 3):
        raise ConfigError((Fault(name, f"is of version {version}; 2 and 3 are read"),))
    carrier.take(name, text, _renamed)
    handlers: dict[str, dict[str, Any]] = carrier.table.get("handlers", {})
    for handler, keys in handlers.items():
        if keys.get("kind") == "shim":
            if "path" in keys:  # to another shim it is an option as all others
                keys.setdefault("options", {})["BinaryName"] = keys.pop("path")
        elif handler != "runc":
            keys.setdefault("path", "runc")  # their shim runs runc unless BinaryName says otherwise


def _renamed(path: Path) -> Path:
    """The three plugins of the CRI as one table."""
    if path[:1] == ("plugins",) and path[1:2] and path[1] in _PLUGINS:
        return ("cri", *path[2:])
    return path


def _runtime_type(value: str, names: tuple[str, ...], put: Put) -> str:
    """Their shim for runc runs what the handler can run by itself. All others are shims here too."""
    if value == _RUNC:
        put(("handlers", names[0], "kind"), "oci")
        return ""
    if problem := runtime_problem(value):
        return problem
    put(("handlers", names[0], "kind"), "shim")
    put(("handlers", names[0], "runtime"), value)
    return ""


def _systemd(value: bool, names: tuple[str, ...], put: Put) -> str:
    put(("cgroup_driver",), "systemd" if value else "cgroupfs")
    return ""


def _mirror(value: list[str], names: tuple[str, ...], put: Put) -> str:
    if names[0] == "*":
        return "a mirror for all registries: use a directory _default with hosts.toml"
    put(("images", "mirrors", names[0]), value)
    return ""


def _metrics(value: str, names: tuple[str, ...], put: Put) -> str:
    if not value:
        return "it is empty"
    put(("metrics", "listen"), value)
    if not value.startswith(("127.", "[::1]")):
        put(("metrics", "remote"), True)
    return ""


def _tls(value: bool, names: tuple[str, ...], put: Put) -> str:
    if value:
        put(("streaming", "tls"), "self-signed")
    return "" if value else "off, as here by default"


def _certificate(key: str) -> Rule:
    def rule(value: str, names: tuple[str, ...], put: Put) -> str:
        if not value:
            return "it is empty"
        put(("streaming", key), value)
        put(("streaming", "tls"), "files")
        return ""

    return rule


def _unprivileged(sysctl: str, off: str) -> Rule:
    def rule(value: bool, names: tuple[str, ...], put: Put) -> str:
        if value:
            return "on, as here by default"
        put(("containers", "sysctls", sysctl), off)
        return ""

    return rule


def _pinned(value: str, names: tuple[str, ...], put: Put) -> str:
    if names[0] == "sandbox":
        return "crib needs no pause image"
    put(("images", "pinned"), [value], join=True)
    return ""


def _annotations(value: list[str], names: tuple[str, ...], put: Put) -> str:
    """Of the pod and of its containers: crib has one list for both."""
    put(("handlers", names[0], "annotations"), value, join=True)
    return ""


def _unless_false(*path: str) -> Rule:
    def rule(value: bool, names: tuple[str, ...], put: Put) -> str:
        if not value:
            put(path, [])
        return "" if not value else "on, as here by default"

    return rule


_RUNTIME = ("cri", "containerd", "runtimes", ANY)
RULES: Rules = {
    ("version",): no("the form of this file"),
    ("imports",): no("those files are read, too"),
    ("root",): no("crib has a data directory of its own: data"),
    ("state",): no("crib has a state directory of its own: state"),
    ("oom_score",): no("crib's unit says it: OOMScoreAdjust"),
    ("grpc",): no("crib's socket has its own path and group: socket, socket_group"),
    ("debug", "level"): through(level, "log", "level"),
    ("debug", "format"): to("log", "format"),
    ("metrics", "address"): _metrics,
    ("cri", "disable_tcp_service"): no("crib listens on a unix socket only"),
    ("cri", "stream_server_address"): to("streaming", "address"),
    ("cri", "stream_server_port"): through(int, "streaming", "port"),
    ("cri", "stream_idle_timeout"): through(seconds, "streaming", "idle_timeout"),
    ("cri", "enable_tls_streaming"): _tls,
    ("cri", "x509_key_pair_streaming", "tls_cert_file"): _certificate("cert_file"),
    ("cri", "x509_key_pair_streaming", "tls_key_file"): _certificate("key_file"),
    ("cri", "enable_selinux"): no("crib labels containers wherever SELinux is on"),
    ("cri", "sandbox_image"): no("crib needs no pause image"),
    ("cri", "sandbox"): no("crib needs no pause image"),
    ("cri", "pinned_images", ANY): _pinned,
    ("cri", "max_concurrent_downloads"): to("images", "parallel_layers"),
    ("cri", "image_pull_progress_timeout"): through(seconds, "images", "stall_timeout"),
    ("cri", "device_ownership_from_security_context"): to("device_ownership_from_security_context"),
    ("cri", "ignore_image_defined_volumes"): through(lambda on: "ignore" if on else "bind", "image_volumes"),
    ("cri", "enable_unprivileged_ports"): _unprivileged("net.ipv4.ip_unprivileged_port_start", "1024"),
    ("cri", "enable_unprivileged_icmp"): _unprivileged("net.ipv4.ping_group_range", "1 0"),
    ("cri", "cdi_spec_dirs"): to("cdi_spec_dirs"),
    ("cri", "enable_cdi"): _unless_false("cdi_spec_dirs"),
    ("cri", "snapshotter"): no("layers are EROFS files: there are no snapshotters"),
    ("cri", "containerd", "snapshotter"): no("layers are EROFS files: there are no snapshotters"),
    ("cri", "containerd", "default_runtime_name"): to("default_handler"),
    (*_RUNTIME, "runtime_type"): _runtime_type,
    (*_RUNTIME, "options", "BinaryName"): to("handlers", ANY, "path"),
    (*_RUNTIME, "options", "SystemdCgroup"): _systemd,
    (*_RUNTIME, "options", "ConfigPath"): to("handlers", ANY, "options", "ConfigPath"),
    (*_RUNTIME, "options", "TypeUrl"): to("handlers", ANY, "options", "TypeUrl"),
    (*_RUNTIME, "pod_annotations"): _annotations,
    (*_RUNTIME, "container_annotations"): _annotations,
    (*_RUNTIME, "privileged_without_host_devices"): to("handlers", ANY, "privileged_without_host_devices"),
    (*_RUNTIME, "base_runtime_spec"): to("handlers", ANY, "base_spec"),
    (*_RUNTIME, "cni_conf_dir"): to("handlers", ANY, "cni_conf_dir"),
    ("cri", "cni", "bin_dir"): through(lambda path: [path], "network", "cni_bin_dirs"),
    ("cri", "cni", "bin_dirs"): to("network", "cni_bin_dirs"),
    ("cri", "cni", "conf_dir"): to("network", "cni_conf_dir"),
    ("cri", "cni", "max_conf_num"): to("network", "cni_networks"),
    ("cri", "cni", "conf_template"): to("network", "cni_conf_template"),
    ("cri", "cni", "ip_pref"): to("network", "ip_preference"),
    ("cri", "registry", "config_path"): through(
        lambda paths: [path for path in paths.split(":") if path], "images", "hosts_dirs"
    ),
    ("cri", "registry", "mirrors", ANY, "endpoint"): _mirror,
    ("cri", "registry", "configs"): no(_HOSTS),
    ("cri", "registry", "auths"): no(_HOSTS),
    ("cri", "registry", "headers"): no(_HOSTS),
    **nri_rules.containerd(("plugins", "io.containerd.nri.v1.nri")),
    ("proxy_plugins",): no("crib has no plugins of containerd's kind"),
}
