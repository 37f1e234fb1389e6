"""The command line of qemu for a pod's VM. Pure: what it names is made and opened by others.

qemu opens nothing but its own firmware, the kernel and the guest's files. Every peer of it (the agent,
virtiofsd, the network, its console) is a descriptor that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

AGENT_PORT = "crib.agent"
"""Name of the virtio-serial port (proto/vm/guest.proto)."""
SHARE_TAG = "crib"
"""Tag of the virtiofs with all that the pod's containers are given."""
DISKS = "disks"
"""Id of the controller whose disks come and go while the guest runs: microvm's bus knows no hot plug."""
MACHINES = ("microvm", "q35")
ACCELERATIONS = ("kvm", "tcg")
MIB = 1 << 20
_TRANSLATED = 32
"""MiB of translated code that an emulating qemu keeps. A boot makes twice as much, and is no slower for it;
with qemu's own choice a VM has 43 MiB more memory of its own."""
_QUEUE = 1024
"""Requests of the file system under way: virtiofsd's most."""


@dataclass(frozen=True, slots=True)
class Image:
    """Files that a guest is booted from, as `crib vm build` makes them."""

    kernel: str
    initrd: str
    root: str
    """An EROFS, which the guest sees as its first disk."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM. `memory` is in bytes, and a multiple of a MiB."""

    program: str
    kind: str
    acceleration: str
    cpus: int
    memory: int
    image: Image
    kernel_arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tap:
    """An interface of the guest: an open tap, and its address."""

    fd: int
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Peers:
    """Connected sockets, by what qemu has at them."""

    agent: int
    share: int
    console: int
    control: int
    """What qemu is told by QMP."""


def kernel_arguments(acceleration: str, tsc_khz: int) -> tuple[str, ...]:
    """What the guest's kernel is told. `tsc_khz` is the host's, 0 if it is not known.

    Emulation hands the host's counter through without its rate. A guest that measures it on a busy host gets
    it wrong, and may wait for ever.
    """
    counter = (f"tsc_early_khz={tsc_khz}",) if acceleration == "tcg" and tsc_khz else ()
    return (
        *("console=ttyS0", "quiet", "panic=-1", "reboot=t"),
        *("random.trust_cpu=on", "no_timer_check", "pci=lastbus=0", "cgroup_no_v1=all"),
        *counter,
    )


def qemu_command(machine: Machine, peers: Peers, taps: Sequence[Tap]) -> tuple[str, ...]:
    """The arguments of a VM whose memory virtiofsd shares, and which ends where a machine would restart."""
    image, memory = machine.image, machine.memory // MIB
    return (
        *(machine.program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-M", _machine(machine), *_accelerator(machine.acceleration)),
        *("-smp", str(machine.cpus), "-m", f"{memory}M"),
        *("-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on"),
        *("-kernel", image.kernel, "-initrd", image.initrd, "-append", " ".join(machine.kernel_arguments)),
        *("-chardev", f"socket,id=console,fd={peers.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=control,fd={peers.control}", "-mon", "chardev=control,mode=control"),
        *_disk(image.root),
        *("-device", f"virtio-scsi-pci,id={DISKS}"),
        *("-chardev", f"socket,id=agent,fd={peers.agent}", "-device", "virtio-serial-pci,max_ports=2"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-chardev", f"socket,id=share,fd={peers.share}"),
        *("-device", f"vhost-user-fs-pci,chardev=share,tag={SHARE_TAG},queue-size={_QUEUE}"),
        *(word for number, tap in enumerate(taps) for word in _network(number, tap)),
        *("-device", "virtio-rng-pci"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    )


def _machine(machine: Machine) -> str:
    common = "memory-backend=memory,graphics=off,usb=off"
    if machine.kind == "q35":
        return f"q35,smbus=off,sata=off,{common}"
    # What is emulated costs the most; with KVM the kernel has its own clock and needs neither of these.
    old = "pit=off,pic=off" if machine.acceleration == "kvm" else "pit=on,pic=on"
    return f"microvm,pcie=on,rtc=on,x-option-roms=off,{old},{common}"


def _accelerator(acceleration: str) -> tuple[str, ...]:
    if acceleration == "kvm":
        return "-accel", "kvm", "-cpu", "host"
    return "-accel", f"tcg,thread=multi,tb-size={_TRANSLATED}", "-cpu", "max"


def _disk(path: str) -> tuple[str, ...]:
    """Read-only, and shared with every other VM: one copy in the host's page cache."""
    escaped = path.replace(",", ",,")
    drive = f"file={escaped},id=root,if=none,format=raw,readonly=on,file.locking=off"
    return "-drive", drive, "-device", "virtio-blk-pci,drive=root"


def _network(number: int, tap: Tap) -> tuple[str, ...]:
    device = f"virtio-net-pci,netdev=net{number},mac={tap.mac},host_mtu={tap.mtu},romfile="
    return "-netdev", f"tap,id=net{number},fd={tap.fd}", "-device", device
