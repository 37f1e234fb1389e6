"""Command lines of qemu and virtiofsd."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.vm.qemu import Image, Machine, Peers, Tap, kernel_arguments, qemu_command
from crib.vm.virtiofsd import find_virtiofsd, is_qemus_own, virtiofsd_command

MACHINE = Machine("qemu", "microvm", "tcg", 2, 256 << 20, Image("/k", "/i", "/r,1"), ("quiet", "a=b"))
PEERS = Peers(agent=10, share=11, console=12, control=13)


def after(command: tuple[str, ...], flag: str) -> list[str]:
    return [command[at + 1] for at, word in enumerate(command) if word == flag]


def test_a_vm_has_memory_that_virtiofsd_can_share() -> None:
    command = qemu_command(MACHINE, PEERS, ())
    assert after(command, "-m") == ["256M"]
    assert after(command, "-object") == ["memory-backend-memfd,id=memory,size=256M,share=on"]
    assert "memory-backend=memory" in after(command, "-M")[0]
    assert after(command, "-smp") == ["2"]
    assert after(command, "-append") == ["quiet a=b"]


def test_its_root_is_read_only_and_a_comma_in_its_path_is_no_option() -> None:
    (drive,) = after(qemu_command(MACHINE, PEERS, ()), "-drive")
    assert drive == "file=/r,,1,id=root,if=none,format=raw,readonly=on,file.locking=off"


def test_each_peer_and_tap_is_a_descriptor() -> None:
    taps = (Tap(20, "02:00:00:00:00:01", 1500), Tap(21, "02:00:00:00:00:02", 1400))
    command = qemu_command(MACHINE, PEERS, taps)
    assert after(command, "-netdev") == ["tap,id=net0,fd=20", "tap,id=net1,fd=21"]
    assert [word for word in after(command, "-device") if "virtio-net" in word] == [
        "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,host_mtu=1500,romfile=",
        "virtio-net-pci,netdev=net1,mac=02:00:00:00:00:02,host_mtu=1400,romfile=",
    ]
    assert [word.rpartition("fd=")[2] for word in after(command, "-chardev")] == ["12", "13", "10", "11"]
    assert not [word for word in command if "path=" in word]


@pytest.mark.parametrize(
    ("kind", "acceleration", "machine", "accelerator"),
    [
        ("microvm", "tcg", "microvm,pcie=on", "tcg,thread=multi,tb-size=32"),
        ("microvm", "kvm", "microvm,pcie=on", "kvm"),
        ("q35", "kvm", "q35,", "kvm"),
    ],
)
def test_machine_and_accelerator(kind: str, acceleration: str, machine: str, accelerator: str) -> None:
    command = qemu_command(replace(MACHINE, kind=kind, acceleration=acceleration), PEERS, ())
    assert after(command, "-M")[0].startswith(machine)
    assert after(command, "-accel") == [accelerator]


def test_only_an_emulated_kernel_is_told_the_rate_of_the_counter() -> None:
    assert "tsc_early_khz=2500000" in kernel_arguments("tcg", 2500000)
    assert not [word for word in kernel_arguments("tcg", 0) if word.startswith("tsc")]
    assert not [word for word in kernel_arguments("kvm", 2500000) if word.startswith("tsc")]


def test_both_programs_called_virtiofsd_share_a_directory_by_a_socket() -> None:
    in_c = virtiofsd_command("/v", "/d", 5, in_c=True)
    assert in_c[:3] == ("/v", "-f", "--fd=5")
    assert "source=/d,sandbox=namespace" in in_c[-1]
    in_rust = virtiofsd_command("/v", "/d", 5, in_c=False)
    assert {"--fd=5", "--shared-dir=/d", "--sandbox=namespace"} <= set(in_rust)
    assert is_qemus_own(b"\0using FUSE kernel interface version %i.%i\0")
    assert not is_qemus_own(b"\0rust\0")


def test_the_newer_virtiofsd_is_found_first() -> None:
    assert find_virtiofsd(lambda _path: True) == "/usr/libexec/virtiofsd"
    assert find_virtiofsd(lambda path: path == "/usr/lib/qemu/virtiofsd") == "/usr/lib/qemu/virtiofsd"
