"""Pod sandboxes: RunPodSandbox's message to a SandboxConfig, records to what lists and statuses show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crib.api.translate import checks, limits, security
from crib.model.ids import HandlerName
from crib.model.sandbox import (
    DnsConfig,
    NamespaceOptions,
    PodMetadata,
    PortMapping,
    Protocol,
    Resources,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
    UserNamespace,
)
from crib.stubs.runtime.v1 import api_pb2 as pb

READY = pb.PodSandboxState.SANDBOX_READY
NOT_READY = pb.PodSandboxState.SANDBOX_NOTREADY


@dataclass(frozen=True, slots=True)
class RunOrder:
    """CRI RunPodSandboxRequest."""

    config: SandboxConfig
    handler: HandlerName


@dataclass(frozen=True, slots=True)
class PodUpdateOrder:
    """CRI UpdatePodSandboxResourcesRequest; None means unchanged."""

    id: str
    overhead: Resources | None
    resources: Resources | None


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    """CRI PodSandboxFilter; `id` may be the beginning of one, None matches every state."""

    id: str = ""
    state: int | None = None
    labels: Mapping[str, str] | None = None

    def matches(self, record: SandboxRecord) -> bool:
        if self.id and not record.id.startswith(self.id):
            return False
        if self.state is not None and state(record) != self.state:
            return False
        return not self.labels or self.labels.items() <= record.config.labels.items()


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """Asks for one noun; `verbose` adds the info that is for people."""

    id: str
    verbose: bool = False


def decode_run(message: pb.RunPodSandboxRequest) -> RunOrder:
    if not message.HasField("config"):
        checks.refuse("config", "is missing")
    return RunOrder(config(message.config, "config"), HandlerName(checks.handler(message.runtime_handler)))


def decode_id(
    message: pb.StopPodSandboxRequest | pb.RemovePodSandboxRequest | pb.PodSandboxStatsRequest,
) -> str:
    return checks.identifier(message.pod_sandbox_id, "pod_sandbox_id")


def decode_status(message: pb.PodSandboxStatusRequest) -> StatusQuery:
    return StatusQuery(checks.identifier(message.pod_sandbox_id, "pod_sandbox_id"), message.verbose)


def decode_update(message: pb.UpdatePodSandboxResourcesRequest) -> PodUpdateOrder:
    return PodUpdateOrder(
        checks.identifier(message.pod_sandbox_id, "pod_sandbox_id"),
        overhead=security.resources(message.overhead, "overhead") if message.HasField("overhead") else None,
        resources=security.resources(message.resources, "resources")
        if message.HasField("resources")
        else None,
    )


def decode_list(message: pb.ListPodSandboxRequest | pb.StreamPodSandboxesRequest) -> SandboxFilter | None:
    """None when everything is asked for."""
    if not message.HasField("filter"):
        return None
    wanted = message.filter
    return SandboxFilter(
        id=checks.prefix(wanted.id, "filter.id"),
        state=wanted.state.state if wanted.HasField("state") else None,
        labels=checks.selector(wanted.label_selector, "filter"),
    )


def config(message: pb.PodSandboxConfig, field: str) -> SandboxConfig:
    """CRI PodSandboxConfig."""
    if not message.HasField("metadata"):
        checks.refuse(f"{field}.metadata", "is missing")
    checks.size(message, field)
    checks.labels(message.labels, message.annotations, field)
    linux = message.linux
    where = f"{field}.linux"
    log_directory = message.log_directory
    return SandboxConfig(
        metadata=_metadata(message.metadata, f"{field}.metadata"),
        hostname=checks.hostname(message.hostname, f"{field}.hostname"),
        log_directory=log_directory and checks.absolute(log_directory, f"{field}.log_directory"),
        dns=_dns(message.dns_config, f"{field}.dns_config") if message.HasField("dns_config") else None,
        port_mappings=_ports(message, f"{field}.port_mappings"),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        cgroup_parent=checks.cgroup_parent(linux.cgroup_parent, f"{where}.cgroup_parent"),
        security=security.pod_security(linux.security_context, f"{where}.security_context"),
        sysctls=checks.sysctls(linux.sysctls, f"{where}.sysctls"),
        overhead=_resources(linux, "overhead", where),
        resources=_resources(linux, "resources", where),
    )


def _metadata(message: pb.PodSandboxMetadata, field: str) -> PodMetadata:
    return PodMetadata(
        name=checks.name(message.name, f"{field}.name"),
        uid=checks.name(message.uid, f"{field}.uid", required=False),
        namespace=checks.name(message.namespace, f"{field}.namespace", required=False),
        attempt=message.attempt,
    )


def _dns(message: pb.DNSConfig, field: str) -> DnsConfig:
    def lines(texts: Sequence[str], kind: str) -> tuple[str, ...]:
        where = f"{field}.{kind}"
        return tuple(checks.line(text, where) for text in checks.at_most(texts, limits.MAX_DNS, where))

    return DnsConfig(
        servers=lines(message.servers, "servers"),
        searches=lines(message.searches, "searches"),
        options=lines(message.options, "options"),
    )


def _ports(message: pb.PodSandboxConfig, field: str) -> tuple[PortMapping, ...]:
    found: list[PortMapping] = []
    for index, port in enumerate(checks.at_most(message.port_mappings, limits.MAX_PORTS, field)):
        where = f"{field}[{index}]"
        found.append(
            PortMapping(
                container_port=checks.number(port.container_port, 1, 65535, f"{where}.container_port"),
                host_port=checks.number(port.host_port, 0, 65535, f"{where}.host_port"),
                protocol=checks.choice(Protocol, port.protocol, f"{where}.protocol"),
                host_ip=checks.address(port.host_ip, f"{where}.host_ip"),
            )
        )
    published = (f"{p.protocol.name} {p.host_ip}:{p.host_port}" for p in found if p.host_port)
    checks.distinct(published, field, "the host's port")
    return tuple(found)


def _resources(message: pb.LinuxPodSandboxConfig, name: str, field: str) -> Resources | None:
    if name == "overhead":
        return (
            security.resources(message.overhead, f"{field}.{name}") if message.HasField("overhead") else None
        )
    return security.resources(message.resources, f"{field}.{name}") if message.HasField("resources") else None


def state(record: SandboxRecord) -> pb.PodSandboxState.ValueType:
    """The CRI has two states: a pod that is half made or half removed is not ready."""
    return READY if record.state == SandboxState.READY else NOT_READY


def metadata(record: SandboxRecord) -> pb.PodSandboxMetadata:
    named = record.config.metadata
    return pb.PodSandboxMetadata(
        name=named.name, uid=named.uid, namespace=named.namespace, attempt=named.attempt
    )


def encode(record: SandboxRecord) -> pb.PodSandbox:
    """The sandbox as lists show it."""
    return pb.PodSandbox(
        id=record.id,
        metadata=metadata(record),
        state=state(record),
        created_at=record.created_at,
        labels=record.config.labels,
        annotations=record.config.annotations,
        runtime_handler=record.handler,
    )


def encode_status(record: SandboxRecord) -> pb.PodSandboxStatus:
    """In full."""
    return pb.PodSandboxStatus(
        id=record.id,
        metadata=metadata(record),
        state=state(record),
        created_at=record.created_at,
        network=_network(record),
        linux=pb.LinuxPodSandboxStatus(
            namespaces=pb.Namespace(options=namespaces(record.config.security.namespaces))
        ),
        labels=record.config.labels,
        annotations=record.config.annotations,
        runtime_handler=record.handler,
    )


def encode_attributes(record: SandboxRecord) -> pb.PodSandboxAttributes:
    """The sandbox as stats show it."""
    return pb.PodSandboxAttributes(
        id=record.id,
        metadata=metadata(record),
        labels=record.config.labels,
        annotations=record.config.annotations,
    )


def _network(record: SandboxRecord) -> pb.PodSandboxNetworkStatus:
    """Empty on the host's network: the kubelet knows its own addresses."""
    if record.network is None or record.config.host_network or not record.network.addresses:
        return pb.PodSandboxNetworkStatus()
    first, *more = record.network.addresses
    return pb.PodSandboxNetworkStatus(ip=first, additional_ips=[pb.PodIP(ip=address) for address in more])


def namespaces(options: NamespaceOptions) -> pb.NamespaceOption:
    """Whose namespaces are used."""
    return pb.NamespaceOption(
        network=pb.NamespaceMode.ValueType(options.network),
        pid=pb.NamespaceMode.ValueType(options.pid),
        ipc=pb.NamespaceMode.ValueType(options.ipc),
        target_id=options.target_id,
        userns_options=None if options.userns is None else _userns(options.userns),
    )


def _userns(userns: UserNamespace) -> pb.UserNamespace:
    def ranges(name: str) -> list[pb.IDMapping]:
        return [
            pb.IDMapping(host_id=m.host_id, container_id=m.container_id, length=m.length)
            for m in (userns.uids if name == "uids" else userns.gids)
        ]

    return pb.UserNamespace(
        mode=pb.NamespaceMode.ValueType(userns.mode), uids=ranges("uids"), gids=ranges("gids")
    )
