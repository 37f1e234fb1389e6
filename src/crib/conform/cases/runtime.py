"""Version, Status, RuntimeConfig and UpdateRuntimeConfig."""

from __future__ import annotations

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, true
from crib.conform.trial import Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_KUBELET_VERSION = "0.1.0"
"""What kubelets send."""
_DRIVERS = (pb.SYSTEMD, pb.CGROUPFS)


@case(
    "Version",
    Level.MUST,
    "kubelet: container runtime interface, Version at its start",
    "VersionRequest.version",
    "VersionResponse.version,runtime_name,runtime_version,runtime_api_version",
)
async def names_itself(trial: Trial) -> None:
    """Version has the runtime's name, its version and the API version v1."""
    found = await trial.call(trial.runtime.Version, pb.VersionRequest(version=_KUBELET_VERSION))
    for name in ("version", "runtime_name", "runtime_version"):
        true(f"Version: {name}", getattr(found, name), "a text", getattr(found, name))
    equal("Version: runtime_api_version", found.runtime_api_version, "v1")


@case("Version", Level.MUST, "CRI: VersionRequest.version", "VersionRequest.version")
async def answers_without_a_version(trial: Trial) -> None:
    """Version answers a client that does not say its own version."""
    found = await trial.call(trial.runtime.Version, pb.VersionRequest())
    true("Version of a client without a version", found.runtime_name, "a runtime_name", found)


@case(
    "Status",
    Level.MUST,
    "CRI: required conditions",
    "StatusResponse.status",
    "RuntimeStatus.conditions",
    "RuntimeCondition.type,status",
)
async def has_both_required_conditions(trial: Trial) -> None:
    """Status has the conditions RuntimeReady and NetworkReady, and both hold."""
    reply = await trial.call(trial.runtime.Status, pb.StatusRequest())
    found = {one.type: one.status for one in reply.status.conditions}
    for name in ("RuntimeReady", "NetworkReady"):
        equal(f"Status: condition {name}", found.get(name), True)


@case("Status", Level.SHOULD, "CRI: RuntimeCondition.type", "RuntimeCondition.type,reason")
async def conditions_are_words(trial: Trial) -> None:
    """Types and reasons of conditions are single CamelCase words, and no type is told twice."""
    reply = await trial.call(trial.runtime.Status, pb.StatusRequest())
    types = [one.type for one in reply.status.conditions]
    true("Status: types", len(set(types)) == len(types), "each type once", types)
    words = [*types, *(one.reason for one in reply.status.conditions if one.reason)]
    odd = [word for word in words if not word.isalnum() or not word[0].isupper()]
    equal("Status: types and reasons that are no CamelCase word", odd, [])


@case("Status", Level.SHOULD, "CRI: StatusRequest.verbose", "StatusRequest.verbose", "StatusResponse.info")
async def info_is_for_those_who_ask(trial: Trial) -> None:
    """Status has info when verbose is set, and none otherwise."""
    plain = await trial.call(trial.runtime.Status, pb.StatusRequest())
    verbose = await trial.call(trial.runtime.Status, pb.StatusRequest(verbose=True))
    equal("Status: info without verbose", dict(plain.info), {})
    true("Status: info with verbose", verbose.info, "at least one entry", dict(verbose.info))


@case(
    "Status",
    Level.OPTIONAL,
    "KEP-3857: RuntimeHandlers in Status",
    "StatusResponse.runtime_handlers",
    "RuntimeHandler.name,features",
)
async def lists_the_default_handler(trial: Trial) -> None:
    """A runtime that lists handlers lists the default one, whose name is empty, and each one once."""
    handlers = [one.name for one in trial.subject.status.runtime_handlers]
    if not handlers:
        raise NotApplicable("Status lists no handlers")
    true("Status: handlers", "" in handlers, "one with an empty name", handlers)
    true("Status: handlers", len(set(handlers)) == len(handlers), "each name once", handlers)


@case(
    "RunPodSandbox",
    Level.OPTIONAL,
    "KEP-585: RuntimeClass; KEP-3857",
    "RunPodSandboxRequest.runtime_handler",
    "PodSandboxStatus.runtime_handler",
    "PodSandbox.runtime_handler",
)
async def every_listed_handler_runs_pods(trial: Trial) -> None:
    """Each handler that Status lists runs a pod, and the pod's status and list entry name it."""
    handlers = [one.name for one in trial.subject.status.runtime_handlers if one.name]
    if not handlers:
        raise NotApplicable("Status lists no handlers")
    for name in handlers:
        pod = await trial.pod(handler=name)
        equal(
            f"PodSandboxStatus: handler of a pod of {name}",
            (await trial.pod_status(pod.id)).runtime_handler,
            name,
        )
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(id=pod.id))
        items = (await trial.call(trial.runtime.ListPodSandbox, request)).items
        equal("ListPodSandbox: handlers", [item.runtime_handler for item in items], [name])


@case(
    "RuntimeConfig",
    Level.OPTIONAL,
    "KEP-4033: kubelet discovers the cgroup driver from CRI",
    "RuntimeConfigResponse.linux",
    "LinuxRuntimeConfiguration.cgroup_driver",
)
async def tells_the_cgroup_driver(trial: Trial) -> None:
    """RuntimeConfig has a part for Linux, with a driver that the kubelet knows."""
    found = await trial.call(trial.runtime.RuntimeConfig, pb.RuntimeConfigRequest())
    true("RuntimeConfig: linux", found.HasField("linux"), "it is set", found)
    true("RuntimeConfig: cgroup_driver", found.linux.cgroup_driver in _DRIVERS, "SYSTEMD or CGROUPFS", found)


@case(
    "UpdateRuntimeConfig",
    Level.MUST,
    "kubelet: updateRuntimeUp and syncNetworkStatus send the pod CIDR",
    "UpdateRuntimeConfigRequest.runtime_config",
    "RuntimeConfig.network_config",
)
async def accepts_no_news(trial: Trial) -> None:
    """UpdateRuntimeConfig without a pod CIDR succeeds and changes nothing: the network stays ready."""
    config = pb.RuntimeConfig(network_config=pb.NetworkConfig())
    await trial.call(trial.runtime.UpdateRuntimeConfig, pb.UpdateRuntimeConfigRequest(runtime_config=config))
    reply = await trial.call(trial.runtime.Status, pb.StatusRequest())
    ready = {one.type: one.status for one in reply.status.conditions}
    equal("Status after it: NetworkReady", ready.get("NetworkReady"), True)
