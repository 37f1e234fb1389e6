"""Namespaces of pods and containers: network, pid, ipc, users."""

from __future__ import annotations

import os
import secrets

from crib.client.pods import Pod
from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused, true
from crib.conform.trial import Box, Trial, write
from crib.stubs.runtime.v1 import api_pb2 as pb

_CRI = "CRI: NamespaceOption"
_RANGE = 65536
_HOST_IDS = iter(range(1_000_000_000, 2_000_000_000, _RANGE))
"""No two pods have the same users of the node."""


async def _namespace(box: Box, kind: str) -> str:
    return await box.sh(f"readlink /proc/self/ns/{kind}")


def _of_the_node(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


async def _pod(trial: Trial, **options: object) -> Pod:
    config = trial.pod_config()
    wanted = pb.NamespaceOption(**options)  # type: ignore[arg-type]  # each case names fields of this message
    config.linux.security_context.namespace_options.CopyFrom(wanted)
    if wanted.network == pb.NODE:
        config.hostname = ""
    return await trial.pod(config)


async def _box(trial: Trial, pod: Pod, *command: str) -> Box:
    """A container with the options of its pod, as kubelets send them."""
    config = trial.config(*command)
    options = pod.config.linux.security_context.namespace_options
    config.linux.security_context.namespace_options.CopyFrom(options)
    return await trial.box(config, pod)


@case(
    "RunPodSandbox",
    Level.MUST,
    _CRI,
    "NamespaceOption.network",
    "LinuxSandboxSecurityContext.namespace_options",
)
async def containers_share_the_pods_network(trial: Trial) -> None:
    """Containers of one pod share a network namespace, which is not the node's."""
    pod = await _pod(trial, network=pb.POD, pid=pb.CONTAINER)
    found = [await _namespace(await _box(trial, pod), "net") for _ in range(2)]
    equal("network namespaces of two containers", found[0], found[1])
    true("the pod's network namespace", found[0] != _of_the_node("net"), "not the node's", found[0])


@case(
    "RunPodSandbox",
    Level.MUST,
    _CRI,
    "NamespaceOption.network",
    "LinuxContainerSecurityContext.namespace_options",
    "PodSandboxNetworkStatus.ip",
)
async def the_nodes_network_is_the_nodes(trial: Trial) -> None:
    """With NODE, containers are in the node's network namespace, and the status has no address."""
    pod = await _pod(trial, network=pb.NODE, pid=pb.CONTAINER)
    box = await _box(trial, pod)
    equal("the network namespace", await _namespace(box, "net"), _of_the_node("net"))
    equal("PodSandboxStatus: network.ip", (await trial.pod_status(pod.id)).network.ip, "")


@case(
    "PodSandboxStatus",
    Level.MUST,
    "kubelet: podSandboxChanged compares the network mode of the sandbox",
    "PodSandboxStatus.linux",
    "LinuxPodSandboxStatus.namespaces",
    "Namespace.options",
)
async def tells_its_namespaces(trial: Trial) -> None:
    """The status has the namespace options of the config."""
    for network, pid in ((pb.POD, pb.CONTAINER), (pb.NODE, pb.NODE)):
        pod = await _pod(trial, network=network, pid=pid, ipc=pb.POD)
        found = (await trial.pod_status(pod.id)).linux.namespaces.options
        equal("PodSandboxStatus: namespaces", (found.network, found.pid, found.ipc), (network, pid, pb.POD))


@case("CreateContainer", Level.MUST, _CRI, "NamespaceOption.pid")
async def own_pids_show_own_processes(trial: Trial) -> None:
    """With CONTAINER, a container's first process has pid 1 and sees no other container's."""
    pod = await _pod(trial, pid=pb.CONTAINER)
    mark = f"{secrets.randbelow(10**6) + 3600}"
    await _box(trial, pod, "sleep", mark)
    box = await _box(trial, pod)
    equal("the program of pid 1", await box.sh("tr '\\0' ' ' </proc/1/cmdline"), "sleep 3600")
    found = await box.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    true("processes that it sees", mark not in found, "none of the other container's", found)


@case("CreateContainer", Level.MUST, _CRI, "NamespaceOption.pid")
async def the_pods_pids_are_shared(trial: Trial) -> None:
    """With POD, containers of a pod see each other's processes."""
    pod = await _pod(trial, pid=pb.POD)
    mark = f"{secrets.randbelow(10**6) + 3600}"
    await _box(trial, pod, "sleep", mark)
    box = await _box(trial, pod)
    found = await box.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    true("processes that it sees", mark in found, "those of the other container", found)


@case("CreateContainer", Level.MUST, _CRI, "NamespaceOption.pid")
async def the_nodes_pids_are_the_nodes(trial: Trial) -> None:
    """With NODE, a container is in the node's pid namespace."""
    pod = await _pod(trial, pid=pb.NODE)
    equal("the pid namespace", await _namespace(await _box(trial, pod), "pid"), _of_the_node("pid"))


@case("CreateContainer", Level.MUST, "KEP-277: ephemeral containers", "NamespaceOption.target_id,pid")
async def a_targets_pids_can_be_joined(trial: Trial) -> None:
    """With TARGET, a container is in the pid namespace of the container that target_id names."""
    pod = await _pod(trial, pid=pb.CONTAINER)
    target = await _box(trial, pod)
    config = trial.config()
    wanted = pb.NamespaceOption(pid=pb.TARGET, target_id=target.id)
    config.linux.security_context.namespace_options.CopyFrom(wanted)
    box = await trial.box(config, pod)
    equal("the pid namespace", await _namespace(box, "pid"), await _namespace(target, "pid"))


@case("CreateContainer", Level.MUST, "KEP-277: ephemeral containers", "NamespaceOption.target_id")
async def an_unknown_target_is_refused(trial: Trial) -> None:
    """A target that does not exist is an error."""
    config = trial.config()
    wanted = pb.NamespaceOption(pid=pb.TARGET, target_id="f" * 64)
    config.linux.security_context.namespace_options.CopyFrom(wanted)
    await refused("CreateContainer and StartContainer with it", trial.box(config))


@case("CreateContainer", Level.MUST, _CRI, "NamespaceOption.ipc")
async def the_pods_ipc_is_shared(trial: Trial) -> None:
    """With POD, containers share an IPC namespace and /dev/shm; they are not the node's."""
    pod = await _pod(trial, ipc=pb.POD, pid=pb.CONTAINER)
    one, other = await _box(trial, pod), await _box(trial, pod)
    found = await _namespace(one, "ipc")
    equal("IPC namespaces of two containers", found, await _namespace(other, "ipc"))
    true("the pod's IPC namespace", found != _of_the_node("ipc"), "not the node's", found)
    await one.sh("echo shared >/dev/shm/conform")
    equal("the file in the other container", await other.sh("cat /dev/shm/conform"), "shared")


@case("CreateContainer", Level.MUST, _CRI, "NamespaceOption.ipc")
async def the_nodes_ipc_is_the_nodes(trial: Trial) -> None:
    """With NODE, a container is in the node's IPC namespace."""
    pod = await _pod(trial, ipc=pb.NODE, pid=pb.CONTAINER)
    equal("the IPC namespace", await _namespace(await _box(trial, pod), "ipc"), _of_the_node("ipc"))


@case(
    "RunPodSandbox",
    Level.OPTIONAL,
    "KEP-127: user namespaces",
    "NamespaceOption.userns_options",
    "UserNamespace.mode,uids,gids",
    "IDMapping.host_id,container_id,length",
    "RuntimeHandlerFeatures.user_namespaces",
)
async def users_of_the_pod_are_mapped(trial: Trial) -> None:
    """In a pod with a user namespace, root inside is the first id of the mapping outside."""
    trial.needs("user_namespaces")
    users = _users()
    box = await _box(trial, await _pod(trial, pid=pb.CONTAINER, userns_options=users))
    expected = ["0", str(users.uids[0].host_id), str(_RANGE)]
    equal("/proc/self/uid_map", (await box.sh("cat /proc/self/uid_map")).split(), expected)
    equal("/proc/self/gid_map", (await box.sh("cat /proc/self/gid_map")).split(), expected)


def _users() -> pb.UserNamespace:
    mapping = [pb.IDMapping(host_id=next(_HOST_IDS), container_id=0, length=_RANGE)]
    return pb.UserNamespace(mode=pb.POD, uids=mapping, gids=mapping)


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "KEP-127: user namespaces; volumes are mounted with the pod's mapping",
    "Mount.uidMappings,gidMappings",
)
async def mounts_are_shifted_by_the_pods_mapping(trial: Trial) -> None:
    """In a container with a user namespace root's files of the node are root's, and new ones are outside."""
    trial.needs("user_namespaces")
    pod = await _pod(trial, pid=pb.CONTAINER, userns_options=_users())
    path = trial.directory()
    write(os.path.join(path, "from-outside"))
    config = trial.config()
    options = pod.config.linux.security_context.namespace_options
    config.linux.security_context.namespace_options.CopyFrom(options)
    mappings = options.userns_options
    config.mounts.add(
        container_path="/mnt", host_path=path, uidMappings=mappings.uids, gidMappings=mappings.gids
    )
    box = await trial.box(config, pod)
    equal("owner inside of root's file", await box.sh("stat -c %u:%g /mnt/from-outside"), "0:0")
    await box.sh("touch /mnt/from-inside")
    found = os.stat(os.path.join(path, "from-inside"))
    equal("owner outside of a file from inside", (found.st_uid, found.st_gid), (0, 0))


@case(
    "RunPodSandbox",
    Level.OPTIONAL,
    "KEP-127: user namespaces with the node's network (RuntimeFeatures.user_namespaces_host_network)",
    "UserNamespace.mode",
    "RuntimeFeatures.user_namespaces_host_network",
    "StatusResponse.features",
)
async def users_are_mapped_on_the_nodes_network(trial: Trial) -> None:
    """A pod may have a user namespace and the node's network, if the runtime says so."""
    trial.needs("user_namespaces_host_network")
    users = _users()
    box = await _box(trial, await _pod(trial, network=pb.NODE, pid=pb.CONTAINER, userns_options=users))
    equal("the network namespace", await _namespace(box, "net"), _of_the_node("net"))
    equal(
        "/proc/self/uid_map", (await box.sh("cat /proc/self/uid_map")).split()[1], str(users.uids[0].host_id)
    )


@case("RunPodSandbox", Level.SHOULD, "KEP-127: the mapping is the kubelet's", "UserNamespace.uids,gids")
async def a_user_namespace_without_a_mapping_is_refused(trial: Trial) -> None:
    """Mode POD without mappings is an error, not a pod without protection."""
    if not trial.subject.feature("user_namespaces"):
        raise NotApplicable("Status does not offer user_namespaces")
    call = _pod(trial, pid=pb.CONTAINER, userns_options=pb.UserNamespace(mode=pb.POD))
    await refused("RunPodSandbox without mappings", call)
