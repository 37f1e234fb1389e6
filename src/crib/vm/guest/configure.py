"""What the guest becomes for its pod: its name, network, shared files, clock and namespaces."""

from __future__ import annotations

import _socket
import os
import time

from crib.vm.guest import kernel
from crib.vm.guest.errors import INTERNAL, INVALID_ARGUMENT, Failure
from crib.vm.guest.netlink import RouteSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from crib.vm.guest.loop import Job, Loop

SHARE = "/run/crib/share"
SHM = "/run/crib/shm"
PID_NAMESPACE = "/run/crib/ns/pid"
KEPT_CLOCK_NANOSECONDS = 1_000_000
"""A clock that is off by less is left alone."""
_LOOPBACK = "00:00:00:00:00:00"


def configure(loop: Loop, asked: dict[str, Any]) -> Job:
    """Do all of it. Failure names the field that cannot be had. What is done already is left as it is."""
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("now", lambda: _clock(asked["now"])),
        ("modules", kernel.load_wanted),
        ("hostname", lambda: _hostname(asked["hostname"])),
        ("interfaces", lambda: _network(asked)),
        ("sysctls", lambda: _sysctls(asked["sysctls"])),
        ("share_tag", lambda: _share(asked["share_tag"])),
        ("shm_bytes", lambda: _shm(asked["shm_bytes"])),
    )
    for field, step in steps:
        try:
            step()
        except ValueError as error:
            raise Failure(INVALID_ARGUMENT, f"{field}: {error}") from None
        except OSError as error:
            raise Failure(INTERNAL, f"{field}: {error}") from None
    if asked["shared_pid"] and not os.path.exists(PID_NAMESPACE):
        yield from _shared_pids(loop)
    return {}


def _clock(now: int) -> None:
    if now and abs(now - time.time_ns()) > KEPT_CLOCK_NANOSECONDS:
        time.clock_settime_ns(time.CLOCK_REALTIME, now)


def _hostname(name: str) -> None:
    if name:
        _socket.sethostname(name)


def _network(asked: dict[str, Any]) -> None:
    if asked["interfaces"]:
        kernel.load("failover", "net_failover", "virtio_net")
    netlink = RouteSocket()
    try:
        links = netlink.links()
        netlink.change_link(links[_LOOPBACK][0], is_up=True)
        numbers = {name: number for number, name in links.values()}
        for interface in asked["interfaces"]:
            numbers[interface["name"]] = _interface(netlink, links, interface)
        for route in asked["routes"]:
            netlink.add_route(route, _number(numbers, route["interface"]))
        for one in asked["neighbours"]:
            netlink.add_neighbour(_number(numbers, one["interface"]), one["address"], one["mac"])
    finally:
        netlink.close()


def _interface(netlink: RouteSocket, links: dict[str, tuple[int, str]], wanted: dict[str, Any]) -> int:
    if (found := links.get(wanted["mac"].lower())) is None:
        raise ValueError(f"no interface has the MAC {wanted['mac']}: there are {', '.join(sorted(links))}")
    number, name = found
    if name != wanted["name"]:
        netlink.change_link(number, name=wanted["name"])
    netlink.change_link(number, mtu=wanted["mtu"], is_up=True)
    for address in wanted["addresses"]:
        netlink.add_address(number, address)
    return number


def _number(numbers: dict[str, int], name: str) -> int:
    if name not in numbers:
        raise ValueError(f"there is no interface {name!r}")
    return numbers[name]


def _sysctls(wanted: dict[str, str]) -> None:
    for name, value in wanted.items():
        parts = name.split("." if "/" not in name else "/")
        if not all(parts) or ".." in parts:
            raise ValueError(f"{name!r} is no sysctl")
        try:
            with open("/proc/sys/" + "/".join(parts), "w") as file:
                file.write(value)
        except OSError as error:
            raise OSError(error.errno, f"{name} cannot be {value!r}: {error.strerror}") from None


def _share(tag: str) -> None:
    if tag and not os.path.ismount(SHARE):
        kernel.load("fuse", "virtiofs", "overlay")
        os.makedirs(SHARE, 0o700, exist_ok=True)
        kernel.mount(tag, SHARE, "virtiofs")


def _shm(size: int) -> None:
    if size and not os.path.ismount(SHM):
        os.makedirs(SHM, exist_ok=True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("shm", SHM, "tmpfs", flags, f"mode=1777,size={size}")


def _shared_pids(loop: Loop) -> Job:
    """A namespace of pids with a first process that does nothing but reap, held by a mount."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    if (child := os.fork()) == 0:
        _hold_pids(writing)
    os.close(writing)
    try:
        yield loop.child(child)
        holder = os.read(reading, 32)
    finally:
        os.close(reading)
    if not holder:
        raise Failure(INTERNAL, "shared_pid: no namespace could be made")
    os.makedirs(os.path.dirname(PID_NAMESPACE), 0o700, exist_ok=True)
    os.close(os.open(PID_NAMESPACE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    kernel.mount(f"/proc/{int(holder)}/ns/pid", PID_NAMESPACE, "", kernel.MS_BIND)


def _hold_pids(told: int) -> None:
    """In a child: makes the namespace's first process, tells its pid, and ends."""
    try:
        kernel.unshare(kernel.CLONE_NEWPID)
        if holder := os.fork():
            os.write(told, str(holder).encode())
            os._exit(0)
        _reap()
    finally:
        os._exit(1)


def _reap() -> None:
    import _signal

    os.setsid()
    os.closerange(0, 1024)
    kernel.set_name("crib-pids")
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGCHLD})
    while True:
        _signal.sigwait({_signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
