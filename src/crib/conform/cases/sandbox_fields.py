"""What a pod's config asks for, seen from inside its containers and from the node."""

from __future__ import annotations

import asyncio
import ipaddress
import os

from crib.conform import cgroups
from crib.conform.case import Level, case
from crib.conform.expect import Mismatch, NotApplicable, equal, refused, true
from crib.conform.trial import PATIENCE, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_PORT = 8080


@case("RunPodSandbox", Level.MUST, "CRI: PodSandboxConfig.hostname", "PodSandboxConfig.hostname")
async def hostname_is_the_pods(trial: Trial) -> None:
    """Containers of the pod have its hostname: in the kernel, and in /etc/hostname if there is one."""
    config = trial.pod_config()
    config.hostname = "conform-host"
    box = await trial.box(pod=await trial.pod(config))
    equal("hostname in the container", await box.sh("hostname"), "conform-host")
    if await box.can("test -s /etc/hostname"):
        equal("/etc/hostname in the container", await box.sh("cat /etc/hostname"), "conform-host")


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: PodSandboxConfig.dns_config",
    "PodSandboxConfig.dns_config",
    "DNSConfig.servers,searches,options",
)
async def dns_config_is_resolv_conf(trial: Trial) -> None:
    """/etc/resolv.conf in the container has the servers, search domains and options, in their order."""
    config = trial.pod_config()
    config.dns_config.servers.extend(["192.0.2.1", "192.0.2.2"])
    config.dns_config.searches.extend(["one.example", "two.example"])
    config.dns_config.options.extend(["ndots:5", "timeout:1"])
    box = await trial.box(pod=await trial.pod(config))
    lines = [line.split() for line in (await box.sh("cat /etc/resolv.conf")).splitlines()]
    equal("nameserver lines", [w[1] for w in lines if w[:1] == ["nameserver"]], ["192.0.2.1", "192.0.2.2"])
    equal("search line", [w[1:] for w in lines if w[:1] == ["search"]], [["one.example", "two.example"]])
    equal("options line", [w[1:] for w in lines if w[:1] == ["options"]], [["ndots:5", "timeout:1"]])


@case("RunPodSandbox", Level.SHOULD, "CRI: PodSandboxConfig.dns_config", "PodSandboxConfig.dns_config")
async def without_dns_config_there_is_a_resolv_conf(trial: Trial) -> None:
    """A pod without a dns_config has a resolv.conf all the same."""
    box = await trial.box(pod=await trial.pod())
    true("/etc/resolv.conf", await box.can("test -f /etc/resolv.conf"), "it exists", "no such file")


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: LinuxPodSandboxConfig.sysctls",
    "LinuxPodSandboxConfig.sysctls",
)
async def sysctls_are_set_in_the_pod(trial: Trial) -> None:
    """Sysctls of the network and IPC namespaces have the asked values in the pod."""
    config = trial.pod_config()
    config.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    config.linux.sysctls["net.ipv4.ip_local_port_range"] = "20000 30000"
    box = await trial.box(pod=await trial.pod(config))
    equal("kernel.shm_rmid_forced", await box.sh("cat /proc/sys/kernel/shm_rmid_forced"), "1")
    found = (await box.sh("cat /proc/sys/net/ipv4/ip_local_port_range")).split()
    equal("net.ipv4.ip_local_port_range", found, ["20000", "30000"])


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "kubelet: forbidden sysctls; a namespace that is the node's",
    "LinuxPodSandboxConfig.sysctls",
)
async def sysctls_of_the_node_are_refused(trial: Trial) -> None:
    """A network sysctl of a pod on the node's network never reaches the node: it is an error."""
    config = trial.pod_config()
    config.hostname = ""
    config.linux.security_context.namespace_options.network = pb.NODE
    config.linux.sysctls["net.ipv4.ip_local_port_range"] = "32768 60999"
    await refused("RunPodSandbox with it", _run_one(trial, config))


async def _run_one(trial: Trial, config: pb.PodSandboxConfig) -> None:
    """Some runtimes have no process until there is a container."""
    await trial.box(pod=await trial.pod(config))


@case(
    "RunPodSandbox",
    Level.MUST,
    "kubelet: pod cgroups are its own; runtimes make containers below cgroup_parent",
    "LinuxPodSandboxConfig.cgroup_parent",
)
async def containers_are_below_the_cgroup_parent(trial: Trial) -> None:
    """A process of the pod's containers is in a cgroup below the parent."""
    config = trial.pod_config()
    await trial.box(pod=await trial.pod(config))
    parent = config.linux.cgroup_parent
    path = f"{trial.subject.cgroup}/{parent}" if trial.subject.systemd else parent
    found = cgroups.with_processes(path)
    true(f"cgroups below {parent} with a process", found, "at least one", "none")


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "KEP-2371: the sandbox's share of a pod's resources",
    "LinuxPodSandboxConfig.overhead,resources",
)
async def overhead_and_resources_are_accepted(trial: Trial) -> None:
    """A pod with overhead and resources runs."""
    config = trial.pod_config()
    config.linux.overhead.memory_limit_in_bytes = 16 << 20
    config.linux.resources.cpu_shares = 512
    config.linux.resources.memory_limit_in_bytes = 128 << 20
    pod = await trial.pod(config)
    equal("PodSandboxStatus: state", (await trial.pod_status(pod.id)).state, pb.SANDBOX_READY)


@case(
    "RunPodSandbox",
    Level.MUST,
    "Kubernetes network model: every pod has an address of its own",
    "PodSandboxStatus.network",
    "PodSandboxNetworkStatus.ip,additional_ips",
    "PodIP.ip",
)
async def has_an_address_of_its_own(trial: Trial) -> None:
    """The status has valid addresses that no other pod has, and the pod's interface has them."""
    one, other = await trial.pod(), await trial.pod()
    networks = [(await trial.pod_status(pod.id)).network for pod in (one, other)]
    addresses = [[net.ip, *(more.ip for more in net.additional_ips)] for net in networks]
    for text in [*addresses[0], *addresses[1]]:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise Mismatch("PodSandboxStatus: network", "valid addresses", addresses) from None
    true("addresses of two pods", not set(addresses[0]) & set(addresses[1]), "different ones", addresses)
    box = await trial.box(pod=one)
    shown = await box.sh("cat /proc/net/fib_trie 2>/dev/null; ip addr 2>/dev/null || true")
    true("addresses of the pod's interfaces", addresses[0][0] in shown, f"{addresses[0][0]} is one", shown)


@case(
    "RunPodSandbox",
    Level.MUST,
    "Kubernetes network model: pods reach each other",
    "PodSandboxNetworkStatus.ip",
)
async def pods_reach_each_other(trial: Trial) -> None:
    """A server in one pod answers a client in another at the address in the status."""
    pod, other = await trial.pod(), await trial.pod()
    await trial.box(_server(trial), pod)
    client = await trial.box(pod=other)
    address = (await trial.pod_status(pod.id)).network.ip
    host = f"[{address}]" if ":" in address else address
    await _until(trial, client.id, f"wget -q -O - http://{host}:{_PORT}/page")


def _server(trial: Trial) -> pb.ContainerConfig:
    return trial.config(
        "sh", "-c", f"mkdir -p /tmp/www && echo hello >/tmp/www/page && exec httpd -f -p {_PORT} -h /tmp/www"
    )


async def _until(trial: Trial, container: str, script: str) -> None:
    """Ask until the server answers; nobody tells when it listens."""
    request = pb.ExecSyncRequest(container_id=container, cmd=["sh", "-c", script], timeout=10)
    reply = pb.ExecSyncResponse()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                reply = await trial.call(trial.runtime.ExecSync, request)
                if reply.exit_code == 0:
                    break
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Mismatch(f"`{script}`", "hello", reply.stderr.decode(errors="replace")) from None
    equal(f"`{script}`", reply.stdout, b"hello\n")


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "CRI: PodSandboxConfig.port_mappings",
    "PodSandboxConfig.port_mappings",
    "PortMapping.protocol,container_port,host_port,host_ip",
)
async def a_host_port_leads_to_the_pod(trial: Trial) -> None:
    """A published TCP port of the node's loopback leads to the pod's port, and is closed after the stop."""
    config = trial.pod_config()
    port = _free_port()
    config.port_mappings.add(protocol=pb.TCP, container_port=_PORT, host_port=port, host_ip="127.0.0.1")
    pod = await trial.pod(config)
    await trial.box(_server(trial), pod)
    answer = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while not answer:
                answer = await _page("127.0.0.1", port)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Mismatch(f"a request to 127.0.0.1:{port}", "hello", "no answer") from None
    true(f"a request to 127.0.0.1:{port}", answer.endswith(b"hello\n"), "hello", answer)
    await trial.stop_pod(pod.id)
    equal("a request after the stop", await _page("127.0.0.1", port), b"")


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        found: int = listener.getsockname()[1]
        return found


async def _page(address: str, port: int) -> bytes:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(b"GET /page HTTP/1.0\r\n\r\n")
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "CRI: LinuxSandboxSecurityContext, for the sandbox's own process",
    "LinuxSandboxSecurityContext.run_as_user,run_as_group,readonly_rootfs,supplemental_groups,supplemental_groups_policy",
    "Int64Value.value",
)
async def a_user_of_the_sandbox_is_accepted(trial: Trial) -> None:
    """User, groups and a read-only root of the sandbox's own process are accepted, also with shared pids."""
    config = trial.pod_config()
    context = config.linux.security_context
    context.run_as_user.value, context.run_as_group.value = 1000, 2000
    context.supplemental_groups.append(3000)
    context.supplemental_groups_policy = pb.Merge
    context.readonly_rootfs = True
    context.namespace_options.pid = pb.POD
    pod = await trial.pod(config)
    equal("PodSandboxStatus: state", (await trial.pod_status(pod.id)).state, pb.SANDBOX_READY)


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: run_as_group is only valid with run_as_user; the runtime MUST error otherwise",
    "LinuxSandboxSecurityContext.run_as_group",
)
async def a_group_without_a_user_is_refused(trial: Trial) -> None:
    """run_as_group without run_as_user is refused for a sandbox."""
    config = trial.pod_config()
    config.linux.security_context.run_as_group.value = 2000
    await refused("RunPodSandbox with run_as_group alone", trial.pod(config))


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "CRI: SecurityProfile.localhost_ref",
    "LinuxSandboxSecurityContext.seccomp",
    "SecurityProfile.profile_type,localhost_ref",
)
async def a_missing_seccomp_profile_is_refused(trial: Trial) -> None:
    """A seccomp profile of the sandbox that does not exist is an error."""
    config = trial.pod_config()
    profile = config.linux.security_context.seccomp
    profile.profile_type = pb.SecurityProfile.Localhost
    profile.localhost_ref = "/nonexistent/crib-conform.json"
    await refused("RunPodSandbox with a missing profile", trial.pod(config))


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "CRI: deprecated fields are read where the newer ones are unset",
    "LinuxSandboxSecurityContext.seccomp_profile_path,apparmor",
)
async def deprecated_and_unconfined_profiles_are_accepted(trial: Trial) -> None:
    """`unconfined` in the deprecated field, and an unconfined AppArmor profile, are accepted."""
    config = trial.pod_config()
    config.linux.security_context.ClearField("seccomp")
    config.linux.security_context.seccomp_profile_path = "unconfined"
    config.linux.security_context.apparmor.profile_type = pb.SecurityProfile.Unconfined
    pod = await trial.pod(config)
    equal("PodSandboxStatus: state", (await trial.pod_status(pod.id)).state, pb.SANDBOX_READY)


@case(
    "RunPodSandbox",
    Level.SHOULD,
    "CRI: SELinuxOption has no effect without SELinux",
    "LinuxSandboxSecurityContext.selinux_options",
    "SELinuxOption.user,role,type,level",
)
async def selinux_options_are_accepted(trial: Trial) -> None:
    """A pod with SELinux options runs on a node without SELinux."""
    if os.path.exists("/sys/fs/selinux/enforce"):
        raise NotApplicable("SELinux is on: labels need a policy that knows them")
    config = trial.pod_config()
    config.linux.security_context.selinux_options.CopyFrom(
        pb.SELinuxOption(user="system_u", role="system_r", type="container_t", level="s0:c1,c2")
    )
    pod = await trial.pod(config)
    equal("PodSandboxStatus: state", (await trial.pod_status(pod.id)).state, pb.SANDBOX_READY)
