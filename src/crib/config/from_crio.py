"""CRI-O's configuration in our words: crio.conf(5), and the files in crio.conf.d beside it."""

from __future__ import annotations

from typing import Any

from crib.config import nri_rules
from crib.config.carrying import ANY, KeyCarrier, Put, Rule, Rules, level, no, pairs, seconds, through, to
from crib.config.checks import MIN_LOG_SIZE

REGISTRIES = "/etc/containers/registries.conf"
"""CRI-O always reads it."""
_KINDS = {"": "oci", "oci": "oci", "vm": "shim"}
_NO_PAUSE = no("crib needs no pause image and no infra container of it")


def carry(carrier: KeyCarrier, name: str, text: str) -> None:
    """Take one file over."""
    carrier.take(name, text)
    handlers: dict[str, dict[str, Any]] = carrier.table.get("handlers", {})
    for keys in handlers.values():
        if keys.get("kind") == "shim" and "path" in keys:
            keys["runtime"] = keys.pop("path")


def _runtime_type(value: str, names: tuple[str, ...], put: Put) -> str:
    """`vm` is a shim of containerd's kind, by its path."""
    kind = _KINDS.get(value)
    if kind is None:
        return f"kind {value}: crib has none of it; take handlers.{names[0]} out, or give it one that it has"
    put(("handlers", names[0], "kind"), kind)
    return ""


def _capabilities(value: list[str]) -> list[str]:
    return [name.removeprefix("CAP_") for name in value]


def _mounts(value: list[str]) -> list[dict[str, Any]]:
    found = []
    for one in value:
        source, colon, destination = one.partition(":")
        if not colon:
            raise ValueError(f"{one!r} is not SOURCE:DESTINATION")
        found.append({"source": source, "destination": destination, "read_only": False})
    return found


def _tls(value: bool, names: tuple[str, ...], put: Put) -> str:
    if value:
        put(("streaming", "tls"), "files")
    return "" if value else "off, as here by default"


def _metrics_port(value: int, names: tuple[str, ...], put: Put) -> str:
    put(("metrics", "listen"), f"127.0.0.1:{value}")
    return "on the loopback address only: others need metrics.remote"


def _limit(*path: str, least: int = 1) -> Rule:
    """Not above 0 means none; crib takes none below `least`."""
    return through(lambda value: max(least, value) if value > 0 else 0, *path)


_RUNTIME = ("crio", "runtime", "runtimes", ANY)
RULES: Rules = {
    ("crio", "root"): no("crib has a data directory of its own: data"),
    ("crio", "runroot"): no("crib has a state directory of its own: state"),
    ("crio", "storage_driver"): no("layers are EROFS files: there are no storage drivers"),
    ("crio", "storage_option"): no("layers are EROFS files: there are no storage drivers"),
    ("crio", "api", "listen"): no("crib's socket has its own path: socket"),
    ("crio", "api", "stream_address"): to("streaming", "address"),
    ("crio", "api", "stream_port"): through(int, "streaming", "port"),
    ("crio", "api", "stream_enable_tls"): _tls,
    ("crio", "api", "stream_tls_cert"): to("streaming", "cert_file"),
    ("crio", "api", "stream_tls_key"): to("streaming", "key_file"),
    ("crio", "api", "stream_tls_ca"): to("streaming", "client_ca_file"),
    ("crio", "api", "stream_idle_timeout"): through(seconds, "streaming", "idle_timeout"),
    ("crio", "runtime", "default_runtime"): to("default_handler"),
    (*_RUNTIME, "runtime_path"): to("handlers", ANY, "path"),
    (*_RUNTIME, "runtime_type"): _runtime_type,
    (*_RUNTIME, "allowed_annotations"): to("handlers", ANY, "annotations"),
    (*_RUNTIME, "privileged_without_host_devices"): to("handlers", ANY, "privileged_without_host_devices"),
    (*_RUNTIME, "monitor_path"): to("conmon"),
    (*_RUNTIME, "runtime_config_path"): to("handlers", ANY, "options", "ConfigPath"),
    (*_RUNTIME, "runtime_root"): no("crib keeps runtimes' state below its own directory"),
    ("crio", "runtime", "conmon"): to("conmon"),
    ("crio", "runtime", "conmon_cgroup"): no("monitors are in the cgroup of crib's unit"),
    ("crio", "runtime", "cgroup_manager"): to("cgroup_driver"),
    ("crio", "runtime", "seccomp_profile"): to("containers", "seccomp_profile"),
    ("crio", "runtime", "default_capabilities"): through(_capabilities, "containers", "capabilities"),
    ("crio", "runtime", "default_sysctls"): through(pairs, "containers", "sysctls"),
    ("crio", "runtime", "default_env"): through(pairs, "containers", "env"),
    ("crio", "runtime", "default_ulimits"): through(pairs, "containers", "ulimits"),
    ("crio", "runtime", "default_mounts"): through(_mounts, "containers", "mounts"),
    ("crio", "runtime", "additional_devices"): to("containers", "devices"),
    ("crio", "runtime", "timezone"): through(
        lambda zone: "local" if zone.lower() == "local" else zone, "containers", "timezone"
    ),
    ("crio", "runtime", "hooks_dir"): to("oci_hooks_dirs"),
    ("crio", "runtime", "cdi_spec_dirs"): to("cdi_spec_dirs"),
    ("crio", "runtime", "blockio_config_file"): to("blockio_config_file"),
    ("crio", "runtime", "device_ownership_from_security_context"): to(
        "device_ownership_from_security_context"
    ),
    ("crio", "runtime", "pids_limit"): _limit("pids_limit"),
    ("crio", "runtime", "log_size_max"): _limit("log_size_max", least=MIN_LOG_SIZE),
    ("crio", "runtime", "log_level"): through(level, "log", "level"),
    ("crio", "runtime", "selinux"): no("crib labels containers wherever SELinux is on"),
    ("crio", "runtime", "apparmor_profile"): no("crib loads a profile of its own, crib-default"),
    ("crio", "runtime", "drop_infra_ctr"): _NO_PAUSE,
    ("crio", "runtime", "infra_ctr_cpuset"): _NO_PAUSE,
    ("crio", "runtime", "pinns_path"): no("crib pins namespaces itself"),
    ("crio", "runtime", "namespaces_dir"): no("crib has a state directory of its own: state"),
    ("crio", "runtime", "ctr_stop_timeout"): no("a pod's own grace period holds"),
    ("crio", "runtime", "container_exits_dir"): no("crib has a state directory of its own: state"),
    ("crio", "runtime", "container_attach_socket_dir"): no("crib has a state directory of its own: state"),
    ("crio", "image", "global_auth_file"): to("images", "auth_file"),
    ("crio", "image", "pinned_images"): to("images", "pinned"),
    ("crio", "image", "insecure_registries"): to("images", "insecure"),
    ("crio", "image", "image_volumes"): to("image_volumes"),
    ("crio", "image", "signature_policy"): no("policy.json is another language: see images.policy"),
    ("crio", "image", "signature_policy_dir"): no("policy.json is another language: see images.policy"),
    ("crio", "image", "pause_image"): _NO_PAUSE,
    ("crio", "image", "pause_command"): _NO_PAUSE,
    ("crio", "image", "pause_image_auth_file"): _NO_PAUSE,
    ("crio", "image", "default_transport"): no("images come from registries: docker://"),
    ("crio", "image", "registries"): no("crib knows short names of Docker Hub only"),
    ("crio", "network", "network_dir"): through(lambda path: path.rstrip("/"), "network", "cni_conf_dir"),
    ("crio", "network", "plugin_dirs"): through(
        lambda paths: [path.rstrip("/") for path in paths], "network", "cni_bin_dirs"
    ),
    ("crio", "network", "cni_default_network"): to("network", "cni_default_network"),
    **nri_rules.crio(),
    ("crio", "metrics", "enable_metrics"): no("metrics are always on; metrics_port says where"),
    ("crio", "metrics", "metrics_port"): _metrics_port,
    ("crio", "tracing", "enable_tracing"): no("an endpoint turns it on"),
    ("crio", "tracing", "tracing_endpoint"): to("tracing", "endpoint"),
    ("crio", "tracing", "tracing_sampling_rate_per_million"): to("tracing", "sampling_rate_per_million"),
}
