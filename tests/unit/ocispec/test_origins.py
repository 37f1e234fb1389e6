"""Where the fields of a spec come from: each kind of origin, and what counts when there are several."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from typing import Any

import pytest

from crib.model.container import Capabilities, ContainerSecurity, Device, Mount, MountPropagation
from crib.model.errors import InvalidRequest
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode, NamespaceOptions, ProfileType, Resources, SecurityProfile
from crib.ocispec.inputs import ContainerInputs, HostDevice
from crib.ocispec.origins import DEFAULT, EARLIER, differences, origins, whole_document
from crib.ocispec.variants import _OWN_LABELS, sources
from tests.unit.ocispec.inputs_for_tests import inputs, with_config, with_security

SECURITY = "container linux.security_context"
OWN = NamespaceOptions(pid=NamespaceMode.CONTAINER)


class Told:
    """The origins of a container, looked up by pointer."""

    def __init__(self, made_from: ContainerInputs, made: bytes | None = None) -> None:
        self.origins = origins(made_from, made)
        self.spec: dict[str, Any] = json.loads(made or whole_document(made_from))

    def __getitem__(self, pointer: str) -> str:
        while pointer not in self.origins and pointer:
            pointer = pointer.rpartition("/")[0]
        return self.origins[pointer]

    def mount(self, destination: str) -> str:
        """The pointer to a mount."""
        places = [mount["destination"] for mount in self.spec["mounts"]]
        return f"/mounts/{places.index(destination)}"


def test_arguments_come_from_the_image_or_the_container_each_by_itself() -> None:
    of_image = Told(inputs())
    assert [of_image[f"/process/args/{n}"] for n in range(3)] == [
        "image ENTRYPOINT",
        "image CMD",
        "image CMD",
    ]
    with_args = Told(with_config(args=("y",)))
    assert [with_args[f"/process/args/{n}"] for n in range(2)] == ["image ENTRYPOINT", "container args"]
    own = Told(with_config(command=("sh", "-c"), args=("y",)))
    assert [own[f"/process/args/{n}"] for n in range(3)] == [*["container command"] * 2, "container args"]


def test_a_command_that_says_what_the_image_says_is_still_the_containers() -> None:
    assert Told(with_config(command=("nginx",)))["/process/args/0"] == "container command"


def test_a_container_whose_image_has_no_command_is_explained_all_the_same() -> None:
    bare = replace(with_config(command=("sh",)), image=ImageConfig())
    told = Told(bare)
    assert told["/process/args/0"] == "container command"
    assert told["/process/cwd"] == DEFAULT


def test_each_variable_has_its_own_origin_and_the_last_to_set_it_counts() -> None:
    told = Told(with_config(envs=(("A", b"mine"), ("B", b"2"))))
    names = [entry.partition("=")[0] for entry in told.spec["process"]["env"]]
    found = {name: told[f"/process/env/{place}"] for place, name in enumerate(names)}
    assert found == {
        "PATH": "image ENV",
        "HOSTNAME": "pod hostname",
        "A": "container envs[A]",
        "B": "container envs[B]",
    }


def test_a_user_by_name_is_from_who_named_it_and_from_the_files_it_was_found_in() -> None:
    told = Told(with_security(run_as_username="alice"))
    assert told["/process/user/uid"] == f"{SECURITY}.run_as_username, image /etc/passwd"
    wheel = told.spec["process"]["user"]["additionalGids"].index(10)
    assert "image /etc/group" in told[f"/process/user/additionalGids/{wheel}"]
    assert Told(inputs())["/process/user/uid"] == DEFAULT
    of_image = Told(replace(inputs(), image=replace(inputs().image, user="alice")))
    assert of_image["/process/user/uid"] == "image USER, image /etc/passwd"
    assert Told(with_security(run_as_user=0))["/process/user/uid"] == f"{SECURITY}.run_as_user"


def test_only_the_capability_that_was_added_is_the_containers() -> None:
    told = Told(with_security(capabilities=Capabilities(add=("NET_ADMIN",)), namespaces=OWN))
    held = told.spec["process"]["capabilities"]["bounding"]
    found = {name: told[f"/process/capabilities/bounding/{place}"] for place, name in enumerate(held)}
    assert found.pop("CAP_NET_ADMIN") == f"{SECURITY}.capabilities.add_capabilities"
    assert set(found.values()) == {DEFAULT}


def test_what_was_taken_away_entirely_is_from_who_took_it() -> None:
    told = Told(with_security(capabilities=Capabilities(drop=("ALL",)), namespaces=OWN))
    assert told.spec["process"]["capabilities"] == {}
    assert told["/process/capabilities"] == f"{SECURITY}.capabilities.drop_capabilities"


def test_what_privileged_gives_is_said_to_be_privileged() -> None:
    device = HostDevice("/dev/kvm", "c", 10, 232, 0o666, 0, 0)
    told = Told(replace(with_security(privileged=True, namespaces=OWN), devices=(device,)))
    held = told.spec["process"]["capabilities"]["bounding"]
    assert told[f"/process/capabilities/bounding/{held.index('CAP_SYS_ADMIN')}"] == f"{SECURITY}.privileged"
    assert told[f"/process/capabilities/bounding/{held.index('CAP_CHOWN')}"] == DEFAULT
    assert told["/linux/devices/0"] == f"{SECURITY}.privileged"


def test_a_mount_is_the_containers_as_a_whole_and_an_option_may_be_another_fields() -> None:
    wanted = (Mount("/etc/hosts", "/h"), Mount("/data", "/d", propagation=MountPropagation.HOST_TO_CONTAINER))
    told = Told(with_config(mounts=wanted))
    assert told[told.mount("/etc/hosts")] == "container mounts[0]"
    assert told[told.mount("/data")] == "container mounts[1]"
    assert told["/linux/rootfsPropagation"] == "container mounts[1]"
    assert told[told.mount("/proc")] == DEFAULT
    assert told[told.mount("/etc/resolv.conf")] == "pod resolv_conf"
    readonly = Told(with_security(readonly_rootfs=True, namespaces=OWN))
    place = readonly.mount("/etc/hosts")
    options = readonly.spec["mounts"][int(place.rpartition("/")[2])]["options"]
    assert readonly[f"{place}/options/{options.index('ro')}"] == f"{SECURITY}.readonly_rootfs, pod hosts"
    assert readonly["/root/readonly"] == f"{SECURITY}.readonly_rootfs"


def test_devices_and_limits_are_from_the_fields_that_asked_for_them() -> None:
    device = HostDevice("/dev/mine", "c", 1, 3, 0o666, 0, 0, "r")
    asked = with_config(
        devices=(Device("/dev/mine", "/dev/null", "r"),),
        resources=Resources(cpu_shares=512, memory_limit_in_bytes=1 << 20, oom_score_adj=1000),
    )
    told = Told(replace(asked, devices=(device,)))
    assert told["/linux/devices/0/path"] == "container devices[0]"
    assert told["/linux/resources/cpu/shares"] == "container linux.resources.cpu_shares"
    assert told["/linux/resources/memory/limit"] == "container linux.resources.memory_limit_in_bytes"
    assert told["/process/oomScoreAdj"] == "container linux.resources.oom_score_adj"
    assert told["/linux/resources/devices/0"] == DEFAULT


def test_namespaces_are_the_pods_but_for_the_pid_namespace_that_the_container_asked_for() -> None:
    told = Told(inputs())
    kinds = [space["type"] for space in told.spec["linux"]["namespaces"]]
    assert told[f"/linux/namespaces/{kinds.index('network')}"] == "pod net_namespace"
    pid = f"/linux/namespaces/{kinds.index('pid')}"
    assert told[pid] == f"{SECURITY}.namespace_options.pid"


def test_a_profile_is_from_the_context_and_its_extra_calls_from_the_capability_too() -> None:
    profile = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    told = Told(with_security(seccomp=profile, namespaces=OWN, capabilities=Capabilities(add=("SYS_BOOT",))))
    assert told["/linux/seccomp/defaultAction"] == f"{SECURITY}.seccomp"
    names = told.spec["linux"]["seccomp"]["syscalls"][0]["names"]
    added = told[f"/linux/seccomp/syscalls/0/names/{names.index('reboot')}"]
    assert added == f"{SECURITY}.seccomp, {SECURITY}.capabilities.add_capabilities"


def test_host_and_handler_are_told_only_where_nothing_was_asked_for() -> None:
    told = Told(inputs())
    assert told["/ociVersion"] == "handler oci_version"
    assert told["/process/rlimits/0/hard"] == "host open_files"
    assert told["/process/capabilities/bounding/0"] == DEFAULT


def test_what_the_container_has_and_would_not_get_now_is_from_earlier() -> None:
    now = with_config(args=("y",))
    made = json.loads(whole_document(now))
    made["process"]["args"][1] = "z"
    made["linux"]["intelRdt"] = {"closID": "x"}
    told = Told(now, json.dumps(made).encode())
    assert told["/process/args/0"] == "image ENTRYPOINT"
    assert told["/process/args/1"] == EARLIER
    assert told["/linux/intelRdt/closID"] == EARLIER


def test_the_longest_pointer_counts_and_none_repeats_what_is_said_above() -> None:
    told = origins(with_config(command=("sh", "-c"), args=("x",)))
    assert told["/process/args"] == "container command"
    assert told["/process/args/2"] == "container args"
    assert "/process/args/0" not in told
    for pointer, origin in told.items():
        parent = pointer.rpartition("/")[0]
        while parent and parent not in told:
            parent = parent.rpartition("/")[0]
        assert told.get(parent) != origin


def test_origins_are_the_same_each_time() -> None:
    asked = with_config(command=("sh",), envs=(("A", b"1"),), mounts=(Mount("/x", "/y"),))
    first = json.dumps(origins(asked))
    assert all(json.dumps(origins(asked)) == first for _ in range(3))


def test_a_request_that_is_refused_is_refused_here_too() -> None:
    with pytest.raises(InvalidRequest, match="run_as_username"):
        origins(with_security(run_as_username="nobody-here"))


def test_pointers_are_escaped_as_rfc_6901_says() -> None:
    assert list(differences({"a/b": {"~": 1}}, {"a/b": {"~": 2}})) == ["/a~1b/~0"]


def test_what_has_its_default_is_no_source() -> None:
    labels = {source.label for source in sources(inputs())}
    assert "container args" not in labels
    assert {"container name", "image ENTRYPOINT", "pod hostname"} <= labels


def test_every_input_has_a_name_of_its_own() -> None:
    walked = {"config", "sandbox", "image", "host", "handler", "rootfs", "pod", "options", "cgroups_path"}
    assert {field.name for field in fields(ContainerInputs)} - walked == set(_OWN_LABELS)


def test_hundreds_of_devices_are_one_source() -> None:
    devices = tuple(HostDevice(f"/dev/d{number}", "c", 1, number, 0o666, 0, 0) for number in range(500))
    made = replace(with_security(privileged=True, namespaces=OWN), devices=devices)
    privileged = [source for source in sources(made) if source.label == f"{SECURITY}.privileged"]
    assert len(privileged) == 2
    assert Told(made)["/linux/devices/499"] == f"{SECURITY}.privileged"


def test_a_thousand_elements_are_told_together() -> None:
    wanted = tuple(Mount(f"/m{number}", "/h") for number in range(1000))
    variables = tuple((f"V{number}", b"1") for number in range(1000))
    asked = with_config(mounts=wanted, envs=variables, labels={f"l{number}": "" for number in range(1000)})
    assert len(list(sources(asked))) < 100
    told = Told(asked)
    assert told[told.mount("/m999")] == "container mounts"
    assert told["/process/env/1000"] == "container envs"


@pytest.mark.nightly  # a figure, which measuring coverage would spoil
def test_a_full_container_is_explained_in_a_fraction_of_a_second() -> None:
    profile = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    full = with_config(
        command=("sh", "-c", "x"),
        envs=tuple((f"V{number}", b"x") for number in range(20)),
        mounts=tuple(Mount(f"/m{number}", f"/h{number}") for number in range(10)),
        resources=Resources(cpu_shares=512, cpu_quota=1000, cpu_period=1000, memory_limit_in_bytes=1 << 20),
        security=ContainerSecurity(
            namespaces=OWN, seccomp=profile, capabilities=Capabilities(add=("NET_ADMIN",), drop=("KILL",))
        ),
    )
    took = []
    for _ in range(5):
        began = time.thread_time()
        origins(full)
        took.append(time.thread_time() - began)
    print(f"{min(took) * 1000:.1f} ms")
    assert min(took) < 0.25, took  # 40 to 60 ms of a processor that others keep busy
