from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.container import Capabilities
from crib.model.errors import InvalidRequest
from crib.model.sandbox import ProfileType, SecurityProfile, SelinuxOption
from crib.ocispec.seccomp import default_profile, seccomp
from crib.ocispec.security import (
    DEFAULT_CAPABILITIES,
    KNOWN_CAPABILITIES,
    apparmor_profile,
    capabilities,
    masked_paths,
    mount_label,
    readonly_paths,
    selinux_label,
)
from tests.unit.ocispec.inputs_for_tests import HOST, inputs, with_security


def granted(**wanted: tuple[str, ...]) -> set[str]:
    made = capabilities(with_security(capabilities=Capabilities(**wanted)))
    assert made.bounding == made.effective == made.permitted
    return {name.removeprefix("CAP_") for name in made.bounding}


def test_default_capabilities_are_the_customary_fourteen_and_none_is_inheritable() -> None:
    assert granted() == set(DEFAULT_CAPABILITIES)
    assert len(DEFAULT_CAPABILITIES) == 14
    assert capabilities(inputs()).inheritable == capabilities(inputs()).ambient == ()


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (("NET_ADMIN",), ("CHOWN",), (set(DEFAULT_CAPABILITIES) | {"NET_ADMIN"}) - {"CHOWN"}),
        (("ALL",), (), set(KNOWN_CAPABILITIES)),
        (("ALL",), ("SYS_ADMIN",), set(KNOWN_CAPABILITIES) - {"SYS_ADMIN"}),
        ((), ("ALL",), set()),
        (("cap_net_raw",), ("ALL",), {"NET_RAW"}),
    ],
)
def test_add_and_drop(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    assert granted(add=add, drop=drop) == expected


def test_nothing_beyond_the_daemons_own_is_given() -> None:
    host = replace(HOST, capabilities=("CAP_CHOWN", "CAP_KILL"))
    privileged = replace(with_security(privileged=True), host=host)
    assert capabilities(privileged).bounding == ("CAP_CHOWN", "CAP_KILL")


def test_ambient_capabilities_are_inheritable_too() -> None:
    made = capabilities(with_security(capabilities=Capabilities(add_ambient=("NET_BIND_SERVICE",))))
    assert made.ambient == made.inheritable == ("CAP_NET_BIND_SERVICE",)


def test_unknown_capability_is_refused_by_place() -> None:
    with pytest.raises(InvalidRequest, match=r"add_capabilities\[1\]"):
        granted(add=("KILL", "FLY"))


def test_privileged_hides_and_protects_no_paths() -> None:
    fields = {"masked_paths": ("/proc/kcore",), "readonly_paths": ("/proc/sys",)}
    plain, privileged = with_security(**fields), with_security(privileged=True, **fields)
    assert (masked_paths(plain), readonly_paths(plain)) == (("/proc/kcore",), ("/proc/sys",))
    assert (masked_paths(privileged), readonly_paths(privileged)) == ((), ())


def test_labels_are_left_out_where_selinux_is_off() -> None:
    option = SelinuxOption(level="s0:c1,c2")
    assert selinux_label(with_security(selinux=option)) == ""
    on = replace(with_security(selinux=option), host=replace(HOST, selinux=True))
    assert selinux_label(on) == "system_u:system_r:container_t:s0:c1,c2"
    assert mount_label(on) == "system_u:object_r:container_file_t:s0:c1,c2"


def test_apparmor_profile_by_name_needs_apparmor() -> None:
    wanted = with_security(apparmor=SecurityProfile(ProfileType.LOCALHOST, "localhost/mine"))
    with pytest.raises(InvalidRequest, match="AppArmor"):
        apparmor_profile(wanted)
    assert apparmor_profile(replace(wanted, host=replace(HOST, apparmor=True))) == "mine"
    assert apparmor_profile(with_security(apparmor=SecurityProfile(ProfileType.RUNTIME_DEFAULT))) == ""


def test_no_seccomp_without_a_word_or_when_privileged() -> None:
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    assert seccomp(inputs()) is None
    assert seccomp(with_security(seccomp=SecurityProfile(ProfileType.UNCONFINED))) is None
    assert seccomp(with_security(seccomp=default, privileged=True)) is None
    assert seccomp(with_security(seccomp=default)) is not None


def test_default_profile_opens_with_capabilities() -> None:
    plain = default_profile(frozenset(), "amd64")
    admin = default_profile(frozenset({"CAP_SYS_ADMIN"}), "amd64")
    assert "mount" not in plain.syscalls[0].names
    assert {"mount", "setns", "clone3"} <= set(admin.syscalls[0].names)
    (clone3,) = [rule for rule in plain.syscalls if rule.names == ("clone3",)]
    assert clone3.errno_ret == 38
    assert not {"clone", "clone3", "keyctl", "kexec_load", "userfaultfd"} & set(plain.syscalls[0].names)


def test_localhost_profile_is_read_strictly() -> None:
    wanted = with_security(seccomp=SecurityProfile(ProfileType.LOCALHOST, "/p.json"))
    good = b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}'
    found = seccomp(replace(wanted, seccomp_profile=good))
    assert found is not None
    assert found.syscalls[0].names == ("chmod",)
    for bad in (None, b"", b"{}", b'{"defaultAction":1}'):
        with pytest.raises(InvalidRequest, match="localhost_ref"):
            seccomp(replace(wanted, seccomp_profile=bad))
