"""What a VM's shim is told, and what it does not understand."""

from __future__ import annotations

import json

import pytest

from crib.vm.qemu import Image
from crib.vm.shim.options import OptionProblem, VmOptions, VmPlan, read_options, read_pod, with_virtiofsd


def test_all_keys_are_taken() -> None:
    found = read_options(
        b'image = "/i"\nqemu = "/q"\nvirtiofsd = "/v"\nmachine = "q35"\nacceleration = "kvm"\nmemory = 512\n'
        b'cpus = 3\nkernel_arguments = "a b"\nboot_time = 9\nuser = 7\n'
    )
    assert found == VmOptions("/i", "/q", "/v", "q35", "kvm", 512, 3, "a b", 9, 7)
    assert found.files == Image("/i/kernel", "/i/initrd", "/i/guest.erofs")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "image must be"),
        ("image = ", "no TOML"),
        ('image = "/i"\ncolour = "red"', "colour is not known"),
        ('image = "/i"\nmachine = "pc"', "machine must be microvm or q35"),
        ('image = "/i"\nacceleration = "auto"', "acceleration must be kvm or tcg"),
        ('image = "/i"\nmemory = 95', "memory must be 96"),
        ('image = "/i"\nmemory = "512"', "memory must be a whole number"),
        ('image = "/i"\nmemory = true', "memory must be a whole number"),
        ('image = "/i"\ncpus = 0', "cpus must be 1 to 240"),
        ('image = "/i"\nboot_time = 0.5', "boot_time must be 1"),
        ('image = "/i"\nuser = -1', "user must be 0"),
        ("image = 1", "image must be a string"),
        ("#" * (1 << 20) + "#", "at most"),
    ],
)
def test_bad_options_are_named(document: str, words: str) -> None:
    with pytest.raises(OptionProblem, match=words):
        read_options(document.encode())


def test_a_virtiofsd_that_is_not_there_is_told_of() -> None:
    with pytest.raises(OptionProblem, match="virtiofsd is not found"):
        with_virtiofsd(VmOptions(virtiofsd="/nowhere/virtiofsd"))


def test_a_pods_bundle_says_what_its_vm_is_given() -> None:
    document = {
        "hostname": "web",
        "annotations": {
            "crib.vm/memory": str(512 << 20),
            "crib.vm/cpus": "2",
            "crib.vm/shared-pid": "true",
            "crib.vm/shm": "/run/pod/shm",
        },
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/net"}],
            "cgroupsPath": "/pods/one",
            "sysctl": {"net.core.somaxconn": "7"},
        },
    }
    assert read_pod(json.dumps(document).encode()) == VmPlan(
        network="/net",
        cgroup="/pods/one",
        hostname="web",
        sysctls={"net.core.somaxconn": "7"},
        shared_pid=True,
        shm="/run/pod/shm",
        memory=512 << 20,
        cpus=2,
    )
    assert read_pod(b"{}") == VmPlan()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[]", "not understood"),
        ("{", "not understood"),
        ('{"linux": {"namespaces": [{}]}}', "not understood"),
        ('{"annotations": {"crib.vm/memory": "1G"}}', "not understood"),
        ('{"annotations": {"crib.vm/memory": "1048576"}}', "crib.vm/memory must be"),
        ('{"annotations": {"crib.vm/cpus": "1000"}}', "crib.vm/cpus must be"),
    ],
)
def test_a_bundle_that_is_not_understood_is_told_of(document: str, words: str) -> None:
    with pytest.raises(OptionProblem, match=words):
        read_pod(document.encode())
