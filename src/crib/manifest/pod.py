"""A Pod document to a `PodPlan`."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

import yaml

from crib.manifest import security, shapes
from crib.manifest.behaviour import pod_behaviour
from crib.manifest.container import PodParts, check_sum, container_plan, read_amounts
from crib.manifest.credentials import pull_credentials
from crib.manifest.downward import PodFacts
from crib.manifest.faults import ManifestError, ManifestPlace
from crib.manifest.fields import ManifestNode, check_label, check_subdomain, is_subdomain, is_uid, unique
from crib.manifest.hosts import hostname, hosts_plan
from crib.manifest.plan import PodPlan, Site
from crib.manifest.references import References
from crib.manifest.resources import Amounts, amounts, given_amounts, linux_resources, overhead
from crib.manifest.volumes import volume_plans
from crib.stubs.runtime.v1.api_pb2 import (
    NODE,
    SCTP,
    TCP,
    UDP,
    DNSConfig,
    LinuxPodSandboxConfig,
    PodSandboxConfig,
    PodSandboxMetadata,
    PortMapping,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crib.manifest.kinds import PodSource
    from crib.manifest.objects import DataObject, Objects
    from crib.manifest.plan import ContainerPlan

MAX_CONTAINERS = 100
_PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")


def pod_plan(source: PodSource, site: Site, objects: Objects, new_uid: Callable[[], str]) -> PodPlan:
    """Translate one pod. `new_uid` names a pod that has no uid of its own."""
    document = source.node
    metadata, spec = document.child("metadata"), document.child("spec")
    if metadata is None or spec is None:
        missing = "metadata" if metadata is None else "spec"
        raise ManifestError(document.at(missing), "is required")
    metadata.check(shapes.METADATA)
    spec.check(shapes.POD_SPEC)
    identity = _identity(metadata, source, new_uid)
    references = References(objects, _facts(spec, metadata, identity, site))
    parts = _parts(spec, identity, references)
    credentials = pull_credentials(spec, references)
    init, main = _containers(spec, parts)
    _note_pod_fields(spec)
    plans = [plan.config for plan in init + main]
    beside = overhead(spec)
    sandbox = PodSandboxConfig(
        metadata=identity,
        hostname=hostname(spec, references.facts),
        log_directory=site.dirs.logs(identity.uid),
        dns_config=_dns(spec, site),
        port_mappings=_ports(spec),
        labels={**metadata.mapping("labels"), **parts.identity},
        annotations=metadata.mapping("annotations"),
        linux=LinuxPodSandboxConfig(
            security_context=security.sandbox_security(
                spec, parts.options, privileged=any(p.linux.security_context.privileged for p in plans)
            ),
            sysctls=security.sysctls(spec),
            overhead=linux_resources(beside) if beside is not None else None,
            resources=linux_resources(parts.amounts.of_pod()),
        ),
    )
    return PodPlan(
        name=identity.name,
        namespace=identity.namespace,
        uid=identity.uid,
        directory=site.dirs.pod(identity.uid),
        sandbox=sandbox,
        handler=spec.text("runtimeClassName"),
        init_containers=init,
        containers=main,
        volumes=tuple(parts.volumes.values()),
        notes=document.notes.all(),
        hosts=parts.hosts,
        credentials=credentials,
        behaviour=parts.behaviour,
        unkept=document.notes.unkept(),
        account=references.facts.account,
        own_resources=parts.amounts.own is not None,
        document=_kept_document(document, identity, references.used.values()),
    )


def _kept_document(pod: ManifestNode, identity: PodSandboxMetadata, objects: Iterable[DataObject]) -> str:
    """The pod by itself, with its name and uid, and the objects that it needs."""
    metadata = {name: value for name, value in pod.part("metadata").value().items() if name != "generateName"}
    metadata |= {"name": identity.name, "namespace": identity.namespace, "uid": identity.uid}
    spec = pod.part("spec").value()
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    documents = [document, *(dict(found.document) for found in objects)]
    return yaml.dump_all(documents, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)


_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of a generated name: as in Kubernetes none that make words or look like each other."""


def _identity(metadata: ManifestNode, source: PodSource, new_uid: Callable[[], str]) -> PodSandboxMetadata:
    uid = ("" if source.name else metadata.text("uid")) or new_uid()
    if not is_uid(uid):
        metadata.wrong("uid", f"{uid!r} must be at most 64 letters, digits and '-'")
    if source.name:
        return PodSandboxMetadata(name=source.name, uid=uid, namespace=source.namespace)
    namespace = check_label(metadata, "namespace", "default")
    prefix = metadata.text("generateName")
    if metadata.has("name") or not prefix:
        return PodSandboxMetadata(name=check_subdomain(metadata, "name"), uid=uid, namespace=namespace)
    # made of the uid, so that whoever reads the manifest again with this uid gets this name
    number = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big")
    suffix = "".join(_SUFFIX[number // len(_SUFFIX) ** place % len(_SUFFIX)] for place in range(5))
    if not is_subdomain(prefix + suffix):
        metadata.wrong("generateName", f"{prefix!r} must be at most 248 of a-z, 0-9, '-' and '.'")
    return PodSandboxMetadata(name=prefix + suffix, uid=uid, namespace=namespace)


def _facts(spec: ManifestNode, metadata: ManifestNode, identity: PodSandboxMetadata, site: Site) -> PodFacts:
    return PodFacts(
        name=identity.name,
        namespace=identity.namespace,
        uid=identity.uid,
        labels=metadata.mapping("labels"),
        annotations=metadata.mapping("annotations"),
        account=spec.text("serviceAccountName") or spec.text("serviceAccount") or "default",
        on_host=bool(spec.flag("hostNetwork")),
        site=site,
        amounts={
            node.text("name"): amounts(node)
            for node in spec.children("initContainers") + spec.children("containers")
        },
        own_amounts=given_amounts(spec) or Amounts(),
    )


def _parts(spec: ManifestNode, identity: PodSandboxMetadata, references: References) -> PodParts:
    parts = PodParts(spec, references, security.namespaces(spec))
    parts.hosts = hosts_plan(spec, references.facts)
    parts.volumes = volume_plans(spec, references)
    parts.behaviour = pod_behaviour(spec)
    parts.identity = {
        "io.kubernetes.pod.name": identity.name,
        "io.kubernetes.pod.namespace": identity.namespace,
        "io.kubernetes.pod.uid": identity.uid,
    }
    return parts


def _containers(
    spec: ManifestNode, parts: PodParts
) -> tuple[tuple[ContainerPlan, ...], tuple[ContainerPlan, ...]]:
    init, main = spec.children("initContainers"), spec.children("containers")
    if not main and spec.raw("containers") in (None, []):
        spec.wrong("containers", "needs at least one container")
    if len(init) + len(main) > MAX_CONTAINERS:
        spec.wrong("containers", f"has more than {MAX_CONTAINERS} containers")
        return (), ()
    for position, node in enumerate(unique(init + main, "name", "container")):
        read_amounts(node, parts, init=position < len(init))
    check_sum(parts)
    return (
        tuple(container_plan(node, parts, init=True) for node in init),
        tuple(container_plan(node, parts, init=False) for node in main),
    )


def _note_pod_fields(spec: ManifestNode) -> None:
    os_node = spec.child("os")
    if os_node is not None:
        os_node.check(shapes.POD_OS)
        if os_node.need_text("name") != "linux":
            os_node.wrong("name", "not supported: crib runs Linux pods only")


def _dns(spec: ManifestNode, site: Site) -> DNSConfig | None:
    policy = spec.choice("dnsPolicy", _DNS_POLICIES, "ClusterFirst")
    node = spec.child("dnsConfig")
    if policy.startswith("ClusterFirst") and spec.has("dnsPolicy"):
        spec.notes.add(spec.at("dnsPolicy"), f"{policy} is taken as Default: there is no cluster's DNS here")
    if node is None:
        if policy == "None":
            spec.wrong("dnsConfig", "is required with dnsPolicy: None")
        return None
    node.check(shapes.DNS)
    servers = node.texts("nameservers")
    for index, server in enumerate(servers):
        _check_address(server, node, node.item("nameservers", index))
    if policy == "None" and not servers:
        node.wrong("nameservers", "needs at least one with dnsPolicy: None")
    own = DNSConfig(servers=servers, searches=node.texts("searches"), options=_dns_options(node))
    if policy == "None":
        return own
    host = DNSConfig(servers=site.dns.servers, searches=site.dns.searches, options=site.dns.options)
    host.MergeFrom(own)
    return host


def _dns_options(node: ManifestNode) -> list[str]:
    found = []
    for option in node.children("options"):
        option.check(shapes.DNS_OPTION)
        name, value = option.need_text("name"), option.text("value")
        found.append(f"{name}:{value}" if value else name)
    return found


def _ports(spec: ManifestNode) -> list[PortMapping]:
    """Ports of all containers; on the host's network they are open as they are and nothing is mapped."""
    found: list[PortMapping] = []
    on_host = security.namespaces(spec).network == NODE
    for container in spec.children("initContainers") + spec.children("containers"):
        for node in container.children("ports"):
            port = _port(node, on_host=on_host)
            same = (other for other in found if port.host_port and other.host_port == port.host_port)
            if any(o.protocol == port.protocol and o.host_ip == port.host_ip for o in same):
                node.wrong("hostPort", f"{port.host_port} is there twice")
            if port not in found:
                found.append(port)
    return [] if on_host else found


def _port(node: ManifestNode, *, on_host: bool) -> PortMapping:
    node.check(shapes.PORT)
    inside = node.number("containerPort", 1, 65535)
    if not node.has("containerPort"):
        node.wrong("containerPort", "is required")
    outside = node.number("hostPort", 1, 65535) or 0
    if on_host and outside not in (0, inside):
        node.wrong("hostPort", "must equal containerPort on the host's network")
    if address := node.text("hostIP"):
        _check_address(address, node, node.at("hostIP"))
    protocol = _PROTOCOLS[node.choice("protocol", tuple(_PROTOCOLS), "TCP")]
    return PortMapping(protocol=protocol, container_port=inside or 0, host_port=outside, host_ip=address)


def _check_address(address: str, node: ManifestNode, where: ManifestPlace) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        node.faults.add(where, f"{address!r} is not an IP address")
