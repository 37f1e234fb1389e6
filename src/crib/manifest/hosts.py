"""A pod's name and its /etc/hosts, as a kubelet makes them.

A file of its own is made where aliases or a domain ask for it; elsewhere the runtime's own one will do.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.fields import check_label, is_label, is_subdomain
from crib.manifest.plan import HostsPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.manifest.downward import PodFacts
    from crib.manifest.fields import ManifestNode

HOSTS = "/etc/hosts"
MAX_HOSTNAME = 64
"""Characters that the kernel takes (sethostname(2))."""
_LOCAL = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
)


def hostname(spec: ManifestNode, facts: PodFacts) -> str:
    """What the pod is called by itself; empty on the host's network, where it has the node's name."""
    override = spec.text("hostnameOverride")
    if override:
        for name in ("hostNetwork", "setHostnameAsFQDN"):
            if spec.flag(name):
                spec.wrong("hostnameOverride", f"cannot be had together with {name}")
        if len(override) > MAX_HOSTNAME or not is_subdomain(override):
            spec.wrong(
                "hostnameOverride", f"{override!r} must be at most {MAX_HOSTNAME} of a-z, 0-9, '-' and '.'"
            )
        return override
    if facts.on_host:
        return ""
    name, domain = _short_name(spec, facts), _domain(spec, facts)
    if not (domain and spec.flag("setHostnameAsFQDN")):
        return name
    if len(f"{name}.{domain}") > MAX_HOSTNAME:
        spec.wrong("setHostnameAsFQDN", f"{name}.{domain} is longer than {MAX_HOSTNAME} characters")
    return f"{name}.{domain}"


def hosts_plan(spec: ManifestNode, facts: PodFacts) -> HostsPlan | None:
    """The pod's /etc/hosts; None when it needs none of its own."""
    aliases = []
    for node in spec.children("hostAliases"):
        node.check(shapes.HOST_ALIAS)
        address, others = node.need_text("ip"), node.texts("hostnames")
        try:
            ipaddress.ip_address(address or "::")
        except ValueError:
            node.wrong("ip", f"{address!r} is not an IP address")
        for index, name in enumerate(others):
            if not is_subdomain(name):
                node.faults.add(node.item("hostnames", index), f"{name!r} is not the name of a host")
        aliases.append((address, *others))
    domain = _domain(spec, facts)
    if not aliases and (not domain or facts.on_host):
        return None
    name = _short_name(spec, facts)
    names = (f"{name}.{domain}", name) if domain else (name,)
    path = facts.site.dirs.hosts(facts.uid)
    return HostsPlan(path, () if facts.on_host else names, tuple(aliases))


def hosts_text(plan: HostsPlan, addresses: Sequence[str], of_host: str = "") -> str:
    """The file; `of_host` is the node's own, for a pod on the host's network."""
    lines = ["# Kubernetes-managed hosts file."]
    if plan.names:
        lines += [*_LOCAL, *("\t".join((address, *plan.names)) for address in addresses)]
    else:
        lines = ["# Kubernetes-managed hosts file (host network).", of_host.rstrip("\n")]
    if plan.aliases:
        lines += ["", "# Entries added by HostAliases.", *("\t".join(alias) for alias in plan.aliases)]
    return "\n".join(lines) + "\n"


def _short_name(spec: ManifestNode, facts: PodFacts) -> str:
    if spec.has("hostname"):
        return check_label(spec, "hostname")
    return facts.name[:63].rstrip("-.")  # as a kubelet shortens it


def _domain(spec: ManifestNode, facts: PodFacts) -> str:
    subdomain = spec.text("subdomain")
    if not subdomain:
        return ""
    if not is_label(subdomain):
        check_label(spec, "subdomain")
        return ""
    return f"{subdomain}.{facts.namespace}.svc.{facts.site.cluster_domain}"
