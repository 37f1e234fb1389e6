from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.container import Capabilities
from crib.model.errors import InvalidRequest
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    SandboxRecord,
    SecurityProfile,
    SelinuxOption,
)
from crib.model.settings import DEFAULT_CAPABILITIES
from crib.ocispec.infra import PodSecurityFacts, pod_confinement
from crib.ocispec.seccomp import default_profile, seccomp
from crib.ocispec.security import (
    DEFAULT_PROFILE,
    KNOWN_CAPABILITIES,
    apparmor_profile,
    capabilities,
    masked_paths,
    mount_label,
    readonly_paths,
    selinux_label,
    volume_label,
)
from crib.ocispec.selinux import PRIVILEGED_LEVEL
from crib.ocispec.syscalls import ALLOWED, BY_CAPABILITY
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HOST, inputs, sandbox, with_security


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
    assert masked_paths(plain) == ("/proc/kcore", "/sys/devices/virtual/powercap")
    assert readonly_paths(plain) == ("/proc/sys",)
    assert (masked_paths(privileged), readonly_paths(privileged)) == ((), ())


def test_an_empty_list_of_paths_leaves_proc_unmasked() -> None:
    assert masked_paths(with_security(masked_paths=())) == ()
    assert readonly_paths(with_security(readonly_paths=())) == ()


ON = replace(HOST, selinux=True)


def labelled(**fields: object) -> tuple[str, str, str]:
    """Process, file and volume label in a pod whose level is s0:c7,c9."""
    made = replace(with_security(**fields), host=ON, selinux_level="s0:c7,c9")
    return selinux_label(made), mount_label(made), volume_label(made)


def test_labels_are_left_out_where_selinux_is_off() -> None:
    off = replace(with_security(selinux=SelinuxOption(level="s0,wrong")), selinux_level="s0:c7,c9")
    assert (selinux_label(off), mount_label(off), volume_label(off)) == ("", "", "")


def test_labels_have_the_pods_level_and_the_policys_types() -> None:
    files = "system_u:object_r:container_file_t:s0:c7,c9"
    assert labelled() == ("system_u:system_r:container_t:s0:c7,c9", files, files)
    policy = replace(ON, selinux_process="system_u:system_r:svirt_lxc_net_t:s0", selinux_file="u:r:f_t:s0")
    made = replace(inputs(), host=policy, selinux_level="s0:c7,c9")
    assert selinux_label(made) == "system_u:system_r:svirt_lxc_net_t:s0:c7,c9"
    assert mount_label(made) == "u:r:f_t:s0:c7,c9"


def test_labels_take_what_the_container_asks_for_then_what_the_pod_asks_for() -> None:
    option = SelinuxOption("user_u", "user_r", "my_t", "s0:c1,c2")
    files = "user_u:object_r:container_file_t:s0:c1,c2"
    assert labelled(selinux=option) == ("user_u:user_r:my_t:s0:c1,c2", files, files)
    assert labelled(selinux=SelinuxOption(level="s0"))[0] == "system_u:system_r:container_t:s0"
    made = replace(with_security(selinux=SelinuxOption(type="own_t")), host=ON, selinux_level="s0:c7,c9")
    pod = replace(made.sandbox.config, security=replace(made.sandbox.config.security, selinux=option))
    made = replace(made, sandbox=replace(made.sandbox, config=pod))
    assert selinux_label(made) == "user_u:user_r:own_t:s0:c1,c2"


@pytest.mark.parametrize(
    "spaces",
    [
        NamespaceOptions(pid=NamespaceMode.NODE),
        NamespaceOptions(pid=NamespaceMode.CONTAINER, ipc=NamespaceMode.NODE),
    ],
)
def test_labels_are_disabled_with_the_nodes_pids_or_ipc(spaces: NamespaceOptions) -> None:
    assert labelled(namespaces=spaces) == ("", f"system_u:object_r:container_file_t:{PRIVILEGED_LEVEL}", "")


def test_labels_are_disabled_for_privileged_containers() -> None:
    assert labelled(privileged=True) == ("", f"system_u:object_r:container_file_t:{PRIVILEGED_LEVEL}", "")


def test_volumes_of_a_super_privileged_container_keep_their_labels() -> None:
    process, files, volumes = labelled(selinux=SelinuxOption(type="spc_t"))
    assert process.split(":")[2] == "spc_t"
    assert files
    assert volumes == ""


@pytest.mark.parametrize(
    ("option", "field"),
    [
        (SelinuxOption(level="s0,c4,c5"), "level"),
        (SelinuxOption(level="s0:c4,"), "level"),
        (SelinuxOption(level="s0:c1\n"), "level"),
        (SelinuxOption(type="a:b"), "type"),
        (SelinuxOption(user="a b"), "user"),
        (SelinuxOption(role="r" * 200), "role"),
    ],
)
def test_labels_that_are_none_are_refused_by_part(option: SelinuxOption, field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"selinux_options\.{field}"):
        labelled(selinux=option)


@pytest.mark.parametrize("level", ["s0", "s0:c1", "s0:c0.c1023", "s0-s0:c0.c1023", "s0:c1,c2-s15:c0.c9,c12"])
def test_levels_of_every_shape_are_taken(level: str) -> None:
    assert labelled(selinux=SelinuxOption(level=level))[0].endswith(f":container_t:{level}")


def test_apparmor_profile_by_name_needs_apparmor() -> None:
    wanted = with_security(apparmor=SecurityProfile(ProfileType.LOCALHOST, "localhost/mine"))
    with pytest.raises(InvalidRequest, match="AppArmor"):
        apparmor_profile(wanted)
    for kind in (ProfileType.RUNTIME_DEFAULT, ProfileType.UNCONFINED):
        assert apparmor_profile(with_security(apparmor=SecurityProfile(kind))) == ""
    assert apparmor_profile(inputs()) == ""


def armored(*loaded: str, **fields: object) -> str:
    host = replace(HOST, apparmor=True)
    return apparmor_profile(replace(with_security(**fields), host=host, profiles=frozenset(loaded)))


def test_apparmor_profile_by_name_must_be_loaded() -> None:
    wanted = SecurityProfile(ProfileType.LOCALHOST, "localhost/mine")
    assert armored("mine", apparmor=wanted) == "mine"
    assert armored("mine", apparmor=SecurityProfile(ProfileType.LOCALHOST, "mine")) == "mine"
    for reference in ("localhost/mine", "localhost/", "unconfined"):
        with pytest.raises(InvalidRequest, match="not loaded"):
            armored(apparmor=SecurityProfile(ProfileType.LOCALHOST, reference))


def test_apparmor_default_is_ours_whether_or_not_it_is_asked_for() -> None:
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    assert armored(DEFAULT_PROFILE, apparmor=default) == armored(DEFAULT_PROFILE) == "crib-default"
    with pytest.raises(InvalidRequest, match="crib-default"):
        armored(apparmor=default)
    assert armored() == ""


def test_apparmor_does_not_confine_the_unconfined_and_the_privileged() -> None:
    assert armored(DEFAULT_PROFILE, apparmor=SecurityProfile(ProfileType.UNCONFINED)) == "unconfined"
    named = SecurityProfile(ProfileType.LOCALHOST, "localhost/mine")
    assert armored("mine", privileged=True, apparmor=named) == "unconfined"


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
    for bad in (None, b"", b"{}", b'{"defaultAction":1}', b'{"defaultAction":"SCMP_ACT_NOTIFY"}'):
        with pytest.raises(InvalidRequest, match="localhost_ref"):
            seccomp(replace(wanted, seccomp_profile=bad))


def test_a_profile_may_ask_an_agent_but_not_from_a_kernel_of_the_pods_own() -> None:
    asks = b'{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/run/agent"}'
    wanted = replace(
        with_security(seccomp=SecurityProfile(ProfileType.LOCALHOST, "/p.json")), seccomp_profile=asks
    )
    found = seccomp(wanted)
    assert found is not None
    assert found.listener_path == "/run/agent"
    with pytest.raises(InvalidRequest, match=r"kernel of their own, which asks no agent \(/run/agent\)"):
        seccomp(replace(wanted, handler=replace(wanted.handler, own_kernel=True)))


def default_for(architecture: str, *granted: str) -> oci.Seccomp:
    return default_profile(frozenset(f"CAP_{name}" for name in granted), architecture)


@pytest.mark.parametrize(
    ("architecture", "kin", "own"),
    [
        ("amd64", ("X86_64", "X86", "X32"), "arch_prctl"),
        ("arm64", ("AARCH64", "ARM"), "cacheflush"),
        ("s390x", ("S390X", "S390"), "s390_runtime_instr"),
        ("ppc64le", ("PPC64LE",), "swapcontext"),
        ("riscv64", ("RISCV64",), "riscv_flush_icache"),
    ],
)
def test_default_profile_knows_an_architecture_and_its_kin(
    architecture: str, kin: tuple[str, ...], own: str
) -> None:
    made = default_for(architecture)
    assert made.architectures == tuple(f"SCMP_ARCH_{name}" for name in kin)
    assert own in made.syscalls[0].names
    others = {"arch_prctl", "cacheflush", "s390_runtime_instr", "swapcontext", "riscv_flush_icache"} - {own}
    assert not others & set(made.syscalls[0].names)


def test_default_profile_leaves_native_calls_alone_on_an_unknown_architecture() -> None:
    assert default_for("vax").architectures == ()


@pytest.mark.parametrize(
    ("capability", "calls"),
    [
        ("SYS_ADMIN", {"mount", "umount2", "setns", "unshare", "bpf", "sethostname", "clone", "clone3"}),
        ("SYS_TIME", {"clock_settime", "settimeofday", "stime"}),
        ("SYS_MODULE", {"init_module", "finit_module", "delete_module"}),
        ("SYS_BOOT", {"reboot"}),
        ("SYS_CHROOT", {"chroot"}),
        ("SYS_PTRACE", {"kcmp", "pidfd_getfd", "process_madvise"}),
        ("SYS_RAWIO", {"ioperm", "iopl"}),
        ("SYS_NICE", {"mbind", "set_mempolicy"}),
        ("SYS_PACCT", {"acct"}),
        ("SYS_TTY_CONFIG", {"vhangup"}),
        ("SYSLOG", {"syslog"}),
        ("BPF", {"bpf"}),
        ("PERFMON", {"perf_event_open"}),
        ("DAC_READ_SEARCH", {"open_by_handle_at"}),
    ],
)
def test_default_profile_gives_a_capability_its_calls(capability: str, calls: set[str]) -> None:
    assert not calls & set(default_for("amd64").syscalls[0].names)
    assert calls <= set(default_for("amd64", capability).syscalls[0].names)


def test_default_profile_gives_nobody_the_dangerous_calls() -> None:
    everything = ALLOWED.union(*BY_CAPABILITY.values())
    never = {"add_key", "keyctl", "request_key", "kexec_load", "kexec_file_load", "userfaultfd", "swapon"}
    never |= {"io_uring_setup", "io_uring_enter", "io_uring_register", "nfsservctl", "move_pages", "vm86"}
    assert not never & everything


def test_default_profile_refuses_sockets_of_the_hypervisor_and_of_the_kernels_ciphers() -> None:
    rules = [rule for rule in default_for("amd64").syscalls if "socket" in rule.names]
    compare = {"SCMP_CMP_LT": int.__lt__, "SCMP_CMP_EQ": int.__eq__, "SCMP_CMP_GT": int.__gt__}
    open_to = {
        family
        for family in range(64)
        if any(len(rule.args) == 1 and compare[rule.args[0].op](family, rule.args[0].value) for rule in rules)
    }
    assert set(range(64)) - open_to == {38, 40}


def test_default_profile_looks_at_the_right_argument_of_clone() -> None:
    for architecture, index in (("amd64", 0), ("arm64", 0), ("s390x", 1)):
        (clone,) = [rule for rule in default_for(architecture).syscalls if rule.names == ("clone",)]
        assert clone.args == (oci.SeccompArg(index, 0x7E020000, "SCMP_CMP_MASKED_EQ", 0),)


def pod(**security: object) -> SandboxRecord:
    plain = sandbox()
    fields = replace(plain.config.security, **security)  # type: ignore[arg-type]
    return replace(plain, config=replace(plain.config, security=fields))


def test_pods_own_profiles_are_those_of_its_security_context() -> None:
    host = replace(HOST, apparmor=True, selinux=True)
    facts = PodSecurityFacts(frozenset({"crib-default"}), "s0:c7,c9")
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    made = pod_confinement(pod(seccomp=default, apparmor=default).config, host, facts)
    assert made.seccomp == default_for("amd64")
    assert made.apparmor_profile == "crib-default"
    assert made.process_label == "system_u:system_r:container_t:s0:c7,c9"
    assert made.file_label == "system_u:object_r:container_file_t:s0:c7,c9"


def test_pods_own_profiles_are_none_where_nothing_is_said_or_it_is_privileged() -> None:
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    plain = pod_confinement(pod().config, HOST, PodSecurityFacts())
    assert (plain.seccomp, plain.apparmor_profile, plain.process_label, plain.file_label) == (
        None,
        "",
        "",
        "",
    )
    host = replace(HOST, apparmor=True, selinux=True)
    made = pod_confinement(
        pod(privileged=True, seccomp=default, apparmor=default).config,
        host,
        PodSecurityFacts(selinux_level="s0:c7,c9"),
    )
    assert (made.seccomp, made.apparmor_profile, made.process_label) == (None, "unconfined", "")
    assert made.file_label == "system_u:object_r:container_file_t:s0:c7,c9"


def test_pods_profile_that_is_not_there_is_refused_though_no_process_needs_it() -> None:
    missing = SecurityProfile(ProfileType.LOCALHOST, "/profile.json")
    with pytest.raises(InvalidRequest, match="seccomp"):
        pod_confinement(pod(seccomp=missing).config, HOST, PodSecurityFacts())
    with pytest.raises(InvalidRequest, match="apparmor"):
        pod_confinement(pod(apparmor=missing).config, HOST, PodSecurityFacts())
