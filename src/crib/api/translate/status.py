"""The runtime itself: Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

from __future__ import annotations

import ipaddress

from crib.api.translate import checks, limits
from crib.engine.status import NodeStatus
from crib.model.facts import HandlerFacts, Readiness
from crib.stubs.runtime.v1 import api_pb2 as pb

KUBELET_API_VERSION = "0.1.0"
"""What every runtime answers to Version: the version of the answer's own format."""
RUNTIME_API_VERSION = "v1"


def decode_status(message: pb.StatusRequest) -> bool:
    """Whether the verbose info is wanted."""
    return message.verbose


def decode_update_config(message: pb.UpdateRuntimeConfigRequest) -> str:
    """The pods' ranges, comma-separated; empty when the kubelet does not know them yet."""
    field = "runtime_config.network_config.pod_cidr"
    text = checks.short(message.runtime_config.network_config.pod_cidr, limits.MAX_LINE, field)
    for part in filter(None, text.split(",")):
        try:
            ipaddress.ip_network(part.strip(), strict=False)
        except ValueError:
            checks.refuse(field, f"{part!r} is not an address range")
    return text


def encode_version(version: str) -> pb.VersionResponse:
    return pb.VersionResponse(
        version=KUBELET_API_VERSION,
        runtime_name="crib",
        runtime_version=version,
        runtime_api_version=RUNTIME_API_VERSION,
    )


def encode_status(status: NodeStatus) -> pb.StatusResponse:
    """Conditions, and each handler's features. The handler with the empty name is the default one."""
    handlers = [_handler(name, facts) for name, facts in status.handlers.items()]
    default = status.handlers.get(status.default_handler)
    if default is not None:
        handlers.insert(0, _handler("", default))
    return pb.StatusResponse(
        status=pb.RuntimeStatus(
            conditions=[
                _condition("RuntimeReady", status.runtime),
                _condition("NetworkReady", status.network),
            ]
        ),
        runtime_handlers=handlers,
        features=pb.RuntimeFeatures(
            supplemental_groups_policy=True,
            user_namespaces_host_network=all(facts.user_namespaces for facts in status.handlers.values()),
            mount_options=True,
        ),
    )


def encode_config(cgroup_driver: str) -> pb.RuntimeConfigResponse:
    driver = pb.CgroupDriver.SYSTEMD if cgroup_driver == "systemd" else pb.CgroupDriver.CGROUPFS
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))


def _condition(kind: str, readiness: Readiness) -> pb.RuntimeCondition:
    return pb.RuntimeCondition(
        type=kind, status=readiness.ready, reason=readiness.reason, message=readiness.message
    )


def _handler(name: str, facts: HandlerFacts) -> pb.RuntimeHandler:
    return pb.RuntimeHandler(
        name=name,
        features=pb.RuntimeHandlerFeatures(
            recursive_read_only_mounts=facts.recursive_read_only, user_namespaces=facts.user_namespaces
        ),
    )
