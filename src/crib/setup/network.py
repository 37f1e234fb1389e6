"""Pods' network, and the ports that cribd wants."""

from __future__ import annotations

from collections.abc import Iterator

from crib.model.settings import Settings
from crib.setup.host import HostView, SetupFinding, note, ok, problem
from crib.wire import cni

_SUFFIXES = (".conflist", ".conf", ".json")
_LISTENS = "0A"
"""The state of a socket in /proc/net/tcp (TCP_LISTEN of the kernel's tcp_states.h)."""


def look(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    """The network of the settings, then ports."""
    yield from (_cni(host, settings) if settings.network.mode == "cni" else _bridge(host, settings))
    wanted = {"streaming.port": settings.streaming.port}
    listen = settings.metrics.listen
    if listen and not listen.startswith("unix"):
        wanted["metrics.listen"] = int(listen.rpartition(":")[2])
    taken = _listening(host)
    for key, port in wanted.items():
        if port in taken:
            text = f"something listens on port {port} already; that is fine only if it is cribd"
            yield note("ports", key, text, f"ss -ltnp sport = :{port}")
        elif port:
            yield ok("ports", key, f"port {port} is free")


def _bridge(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    name = settings.network.bridge
    for module in ("bridge", "veth", "nf_tables"):
        if host.has_module(module) or host.can_load(module):
            yield ok("network", module, "there")
        else:
            text = f"the kernel has no module {module}, which the built-in bridge {name} needs"
            yield problem("network", module, text, "use a kernel that has it")


def _cni(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    directory = settings.network.cni_conf_dir
    files = [name for name in host.names(directory) if name.endswith(_SUFFIXES)]
    if not files:
        text = f"{directory} has no configuration: pods wait until a network add-on writes one"
        cure = 'install a network add-on, or set network.mode = "bridge" for a node without Kubernetes'
        yield note("network", directory, text, cure)
    for name in files:
        path = f"{directory}/{name}"
        try:
            network = cni.parse_network(host.text(path).encode())
        except ValueError as error:
            yield problem("network", path, str(error), f"mend the file, or remove it: rm {path}")
            continue
        missing = [kind for kind in _plugins(network) if not _is_there(host, settings, kind)]
        if missing:
            places = ", ".join(settings.network.cni_bin_dirs)
            text = f"network {network.name}: {', '.join(missing)} in none of {places}"
            yield problem("network", path, text, "apt install containernetworking-plugins")
        else:
            yield ok("network", path, f"network {network.name}, with all of its plugins")


def _plugins(network: cni.NetworkConf) -> list[str]:
    return list(dict.fromkeys(plugin.type for plugin in network.plugins))


def _is_there(host: HostView, settings: Settings, kind: str) -> bool:
    return any(host.exists(f"{directory}/{kind}") for directory in settings.network.cni_bin_dirs)


def _listening(host: HostView) -> set[int]:
    found = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in host.lines(path)[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENS:
                found.add(int(local.rpartition(":")[2], 16))
    return found
