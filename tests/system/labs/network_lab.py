"""Hosts for stories of networks: namespaces with a cribd, plugins and rules of their own.

host = LabHost(directory)                # interfaces, routes and rules that are nobody else's
lab = CniLab(host, directory / "cni")    # a configuration directory, failing plugins, addresses
lab.write(lab.bridge(), {"type": "second"})
with cribd_on(host, lab.settings()) as cribd:
    before = lab.traces(cribd)
    lab.fail("second", "ADD", "1*error(7, no luck, really)")
    ...
    await lab.as_before(cribd, before)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from crib.client.pods import Pod
from crib.host import links
from crib.host.namespaces import run_in_namespace
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image
from tests.system.labs import cni_failpoint
from tests.system.labs.daemon import EXECUTED, IMAGE, SETTLE_SECONDS, Cri, Cribd, DaemonProcess, until
from tests.system.labs.leftovers import Leftovers
from tests.system.labs.pod_namespaces import PodNamespace, on_thread

T = TypeVar("T")

_PORTS = itertools.count()
PLUGINS = "/usr/lib/cni"
FAILING = ("addresses", "first", "second", "third")
"""Names under which the failing plugin is there; `addresses` is meant for IPAM."""
SUBNET = "10.88.0.0/24"
PAGE_SECONDS = 5.0
"""That an answer may take, where there is one."""
_CHANGING = frozenset({"handle", "packets", "bytes", "index"})


def host_port() -> int:
    """A port of this machine for a pod of this test process.

    One that sockets do not get by themselves (ip_local_port_range): what leads to a pod leads all there.
    """
    return 21000 + os.getpid() % 800 * 10 + next(_PORTS) % 10


class LabHost:
    """A network namespace that stands for a host."""

    def __init__(self, directory: Path, name: str = "host") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.namespace = PodNamespace(str(directory / f"{name}.netns"))
        self.inside(_loopback_up)
        for which in ("all", "default"):
            self.sysctl(f"net.ipv6.conf.{which}.accept_dad", 0)  # addresses are there at once, or never

    def inside(self, work: Callable[[], T]) -> T:
        """What `work` gives in there; programs that it starts are in there, too."""
        return self.namespace.inside(work)

    def run(self, *argv: str) -> str:
        """What a program prints in there; it must succeed."""

        def start() -> subprocess.CompletedProcess[str]:
            return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

        done = self.inside(start)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def ip(self, words: str) -> str:
        """`ip WORDS`."""
        return self.run("ip", *words.split())

    def sysctl(self, name: str, value: int) -> None:
        """Set one of net's."""
        path = Path("/proc/sys", *name.split("."))
        self.inside(lambda: path.write_text(str(value)))

    def join(self, other: LabHost, link: str, *addresses: tuple[str, str]) -> None:
        """A link to another host, under one name at both ends; addresses with prefix lengths, ours first."""
        self.ip(f"link add {link} type veth peer name far")
        self.ip(f"link set far netns {other.namespace.path} name {link}")
        for host, side in ((self, 0), (other, 1)):
            host.ip(f"link set {link} up")
            for pair in addresses:
                host.ip(f"address add {pair[side]} dev {link}" + (" nodad" if ":" in pair[side] else ""))

    def interfaces(self) -> dict[str, links.KernelLink]:
        def look() -> dict[str, links.KernelLink]:
            with Netlink() as netlink:
                return {link.name: link for link in links.list_links(netlink)}

        return self.inside(look)

    def ruleset(self) -> list[str]:
        """Every nftables object of the host, those of iptables among them, without counters and handles."""

        def look() -> list[dict[str, Any]]:
            nftables = Nftables()
            try:
                return nftables.run("list ruleset", table="*", what="list all")
            finally:
                nftables.close()

        return [json.dumps(_steady(item), sort_keys=True) for item in self.inside(look)]

    def state(self) -> frozenset[str]:
        """Whatever a network leaves: interfaces, addresses, routes, qdiscs, rules; each with how often.

        The kernel's own link-local addresses come and change by themselves.
        """
        lines = [f"interface {name}" for name in self.interfaces()]
        lines += [f"rule {item}" for item in self.ruleset()]
        for what in ("-o address show", "route show table all", "-6 route show table all", "rule show"):
            lines += [f"{what}: {_steady_line(line)}" for line in self.ip(what).splitlines()]
        lines += [f"qdisc {_steady_line(line)}" for line in self.run("tc", "qdisc", "show").splitlines()]
        count = Counter(line for line in lines if not re.search(r"\b(fe80|ff00):", line))
        return frozenset(f"{times} {line}" for line, times in count.items())

    async def page(self, address: str, port: int) -> str:
        """The host name of the pod whose web server answers there; empty when none does."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        client = self.inside(lambda: socket.socket(family, socket.SOCK_STREAM))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                await loop.sock_connect(client, (address, port))
                await loop.sock_sendall(client, b"GET /hostname HTTP/1.0\r\n\r\n")
                answer = b""
                while part := await loop.sock_recv(client, 4096):
                    answer += part
        except (OSError, TimeoutError):
            return ""
        finally:
            client.close()
        return answer.decode().rpartition("\r\n")[2].strip()

    def remove(self) -> None:
        """Everything in it goes with it."""
        self.namespace.unpin()


def _loopback_up() -> None:
    with Netlink() as netlink:
        links.set_loopback_up(netlink)


def _steady(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _steady(value) for key, value in item.items() if key not in _CHANGING}
    return [_steady(part) for part in item] if isinstance(item, list) else item


def _steady_line(line: str) -> str:
    """Without interface numbers, qdisc handles and what runs down."""
    line = re.sub(r"^\d+: |@if\d+|valid_lft \S+ preferred_lft \S+|expires \S+|linkdown", "", line)
    return " ".join(re.sub(r"(qdisc \w+) \w+:", r"\1", line).split())


class LabCribd(Cribd):
    """A daemon on a lab's host."""

    def __init__(self, host: LabHost, network: str, extra: str) -> None:
        super().__init__(network=network, extra=extra)
        self.host = host
        self.bridge = tomllib.loads(network).get("bridge", self.bridge)

    def _spawn(self, **environment: str) -> DaemonProcess:
        return self.host.inside(lambda: Cribd._spawn(self, **environment))

    def run(self, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.host.inside(lambda: Cribd.run(self, *arguments, config=config))

    def wipe(self) -> None:
        self.host.inside(lambda: Cribd.wipe(self))

    def leftovers(self) -> Leftovers:
        """The daemon's own; what is in the host's network is the host's `state`."""
        return replace(self.host.inside(lambda: Cribd.leftovers(self)), interfaces=frozenset())


class UnattendedCribd(LabCribd):
    """One that looks at its bridge when it is asked only, so that a test sees what is done to it."""

    program = EXECUTED

    def _spawn(self, **environment: str) -> DaemonProcess:
        text = "import crib.engine.networks as networks\nnetworks.LOOK_AFTER_SECONDS = 1e6\n"
        (self.root / "sitecustomize.py").write_text(text)
        source = Path(__file__).resolve().parents[3] / "src"
        return super()._spawn(PYTHONPATH=f"{self.root}:{source}", **environment)


@contextlib.contextmanager
def cribd_on(
    host: LabHost, network: str = "", extra: str = "", *, warm: bool = True, kind: type[LabCribd] = LabCribd
) -> Iterator[LabCribd]:
    """As `running_cribd`, on that host."""
    cribd = kind(host, network, extra)
    try:
        cribd.start()
        on_thread(
            lambda: cribd.import_images(busybox_image(name=IMAGE))
        )  # this one may have a loop that runs
        if warm:
            on_thread(cribd.warm_up)
        yield cribd
    finally:
        cribd.end()


@dataclass(frozen=True)
class Traces:
    """What pods leave behind, on the host and of the daemon."""

    host: frozenset[str]
    addresses: frozenset[str]
    daemon: Leftovers

    def differences(self, before: Traces) -> list[str]:
        found = self.daemon.differences(before.daemon)
        for mine, others in ((self.host, before.host), (self.addresses, before.addresses)):
            found += [f"new: {name}" for name in sorted(mine - others)[:10]]
            found += [f"gone: {name}" for name in sorted(others - mine)[:10]]
        return found


class CniLab:
    """Configuration, plugins and addresses of one daemon, below a directory."""

    def __init__(self, host: LabHost, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.confs, self.plugins, self.ipam = (directory / name for name in ("net.d", "bin", "ipam"))
        for made in (self.confs, self.plugins, self.ipam):
            made.mkdir(parents=True)
        cni_failpoint.install(self.plugins, *FAILING)

    def settings(self, **more: object) -> str:
        """Lines of the [network] table; JSON's strings, numbers and lists are TOML's."""
        values = {
            "mode": "cni",
            "cni_conf_dir": str(self.confs),
            "cni_bin_dirs": [str(self.plugins), PLUGINS],
            "plugin_timeout": 20,
            **more,
        }
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())

    def write(
        self, *plugins: dict[str, Any], file: str = "10-test.conflist", name: str = "test-net", **more: object
    ) -> Path:
        """A network of these plugins, written whole; `more`: further keys of the list."""
        path = self.confs / file
        text = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins, **more})
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)
        return path

    def addresses_from(self, *subnets: str, **more: object) -> dict[str, Any]:
        """An ipam section: host-local with these ranges."""
        return {
            "type": "host-local",
            "dataDir": str(self.ipam),
            "ranges": [[{"subnet": subnet}] for subnet in subnets],
            "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
            **more,
        }

    def bridge(self, *subnets: str, bridge: str = "br0", **more: object) -> dict[str, Any]:
        """The reference bridge plugin; an address of it is the pods' gateway."""
        ipam = self.addresses_from(*(subnets or (SUBNET,)))
        return {"type": "bridge", "bridge": bridge, "isGateway": True, "ipam": ipam, **more}

    def fail(self, plugin: str, command: str, failpoint: str) -> Path:
        """Set a failpoint; its file, which the test may remove."""
        path = self.plugins / f"{plugin}.{command}"
        path.with_suffix(".set").write_text(failpoint)
        return path.with_suffix(".set").rename(path)

    def no_failpoints(self) -> None:
        for name in FAILING:
            for path in self.plugins.glob(f"{name}.*"):
                path.unlink()

    def all_calls(self) -> list[dict[str, Any]]:
        """The calls that failing plugins had, in order."""
        path = self.plugins / "calls"
        whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
        return [json.loads(line) for line in whole.splitlines()]  # without one that is just written

    def calls(self, command: str, plugin: str = "") -> list[dict[str, Any]]:
        """Those of a command, to all or to one of them."""
        return [
            call for call in self.all_calls() if call["command"] == command and plugin in ("", call["plugin"])
        ]

    def forget_calls(self) -> None:
        (self.plugins / "calls").unlink(missing_ok=True)

    def processes(self) -> list[int]:
        """Those of plugins that hang or stay, which are there yet."""
        path = self.plugins / "processes"
        pids = map(int, path.read_text().split()) if path.exists() else ()
        return [pid for pid in pids if _is_running(pid)]

    async def hangs(self, plugin: str, command: str) -> None:
        """Wait until that plugin is at its failpoint."""
        await until(lambda: self.calls(command, plugin) and self.processes())

    def kill_processes(self) -> None:
        """What a failed test left of them."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def held_addresses(self) -> list[str]:
        """What host-local has on file."""
        names = (path.name for path in self.ipam.glob("*/*"))
        return sorted(name for name in names if name != "lock" and not name.startswith("last_reserved_ip"))

    def traces(self, cribd: Cribd) -> Traces:
        return Traces(self.host.state(), frozenset(self.held_addresses()), cribd.leftovers())

    async def as_before(self, cribd: Cribd, before: Traces) -> None:
        """Wait until all is as it was; AssertionError with what is not."""
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while changes := self.traces(cribd).differences(before):
            assert asyncio.get_running_loop().time() < deadline, "not as before: " + "; ".join(changes)
            await asyncio.sleep(0.02)  # the kernel tells nobody when it has removed the last link


@contextlib.contextmanager
def cni_lab(directory: Path) -> Iterator[CniLab]:
    """A host and its lab; a daemon on it ends before."""
    host = LabHost(directory)
    lab = CniLab(host, directory / "cni")
    try:
        yield lab
    finally:
        lab.kill_processes()
        host.remove()
        shutil.rmtree(lab.directory)


def _is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def pod_namespace(cribd: Cribd, pod: Pod) -> str:
    """Where the pod's network namespace is pinned."""
    return str(cribd.state / "sandboxes" / pod.id / "ns" / "net")


def pod_socket(
    cribd: Cribd, pod: Pod, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET
) -> socket.socket:
    """A socket of the pod's, for what its image has no program for."""
    made = run_in_namespace(pod_namespace(cribd, pod), "net", lambda: socket.socket(family, kind))
    made.setblocking(False)
    return made


async def check(cri: Cri, *pods: Pod, repair: bool = False) -> dict[str, node_pb2.NetworkCheck]:
    """What CheckNetworks says, by pod."""
    request = node_pb2.CheckNetworksRequest(pod_sandbox_ids=[pod.id for pod in pods], repair=repair)
    return {found.pod_sandbox_id: found async for found in cri.node.CheckNetworks(request)}


async def inspect(cri: Cri, pod: Pod) -> node_pb2.InspectPodNetworkResponse:
    """What InspectPodNetwork says."""
    request = node_pb2.InspectPodNetworkRequest(pod_sandbox_id=pod.id)
    return await cri.call(cri.node.InspectPodNetwork, request)


async def network_ready(cri: Cri) -> pb.RuntimeCondition:
    """The condition of that name in Status."""
    status = await cri.call(cri.runtime.Status, pb.StatusRequest())
    (found,) = [item for item in status.status.conditions if item.type == "NetworkReady"]
    return found


def both_families(status: pb.PodSandboxStatus) -> tuple[str, ...]:
    """The pod's addresses, the primary one first."""
    return (status.network.ip, *(item.ip for item in status.network.additional_ips))


def failing_bridge(lab: CniLab, *subnets: str, **more: str) -> Sequence[dict[str, Any]]:
    """Bridge and host-local behind failing plugins, tuning behind another, and one more of its own."""
    bridge = lab.bridge(*subnets, **more)
    bridge["ipam"] = {**bridge["ipam"], "type": "addresses", "delegate": "host-local"}
    return (
        {**bridge, "type": "first", "delegate": "bridge"},
        {"type": "second", "delegate": "tuning", "sysctl": {"net.ipv4.conf.all.arp_ignore": "1"}},
        {"type": "third"},
    )
