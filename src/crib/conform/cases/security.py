"""LinuxContainerSecurityContext: users, groups, capabilities, privileges, the root."""

from __future__ import annotations

from crib.conform.case import Level, case
from crib.conform.expect import equal, refused, true
from crib.conform.trial import Box, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

CHOWN, KILL, NET_BIND, NET_ADMIN, SYS_ADMIN, SYS_TIME = 0, 5, 10, 12, 21, 25
"""Numbers of capabilities (linux/capability.h)."""


async def capabilities(box: Box, kind: str) -> int:
    """A set of the first process, as a bit mask: Eff, Bnd, Amb, Inh."""
    return int(await box.sh(f"sed -n 's/^Cap{kind}:[^0-9a-f]*//p' /proc/1/status"), 16)


def _has(mask: int, capability: int) -> bool:
    return bool(mask >> capability & 1)


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: Capability.add_capabilities and drop_capabilities",
    "LinuxContainerSecurityContext.capabilities",
    "Capability.add_capabilities,drop_capabilities",
)
async def capabilities_are_added_and_dropped(trial: Trial) -> None:
    """An added capability is there, a dropped one is not."""
    await _change(trial, "")


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: Capability; some clients write CAP_",
    "Capability.add_capabilities,drop_capabilities",
)
async def capabilities_may_have_their_prefix(trial: Trial) -> None:
    """Names of capabilities may begin with CAP_."""
    await _change(trial, "CAP_")


async def _change(trial: Trial, prefix: str) -> None:
    config = trial.config()
    wanted = config.linux.security_context.capabilities
    wanted.add_capabilities.append(f"{prefix}NET_ADMIN")
    wanted.drop_capabilities.append(f"{prefix}CHOWN")
    found = await capabilities(await trial.box(config), "Eff")
    have = tuple(_has(found, one) for one in (NET_ADMIN, CHOWN, KILL))
    equal("NET_ADMIN, CHOWN, KILL in CapEff", have, (True, False, True))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: ALL stands for every capability",
    "Capability.drop_capabilities,add_capabilities",
)
async def all_capabilities_can_be_dropped(trial: Trial) -> None:
    """With ALL dropped there is none, but those that are added."""
    config = trial.config()
    config.linux.security_context.capabilities.drop_capabilities.append("ALL")
    equal("CapEff", await capabilities(await trial.box(config), "Eff"), 0)
    more = trial.config()
    more.linux.security_context.capabilities.drop_capabilities.append("ALL")
    more.linux.security_context.capabilities.add_capabilities.append("NET_BIND_SERVICE")
    equal("CapEff with one added", await capabilities(await trial.box(more), "Eff"), 1 << NET_BIND)


@case(
    "CreateContainer",
    Level.SHOULD,
    "Docker's default set, which images rely on",
    "LinuxContainerSecurityContext.capabilities",
)
async def the_default_set_is_the_customary_one(trial: Trial) -> None:
    """A container without a choice has CHOWN and KILL, but not SYS_ADMIN, NET_ADMIN or SYS_TIME."""
    found = await capabilities(await trial.box(), "Eff")
    have = tuple(_has(found, one) for one in (CHOWN, KILL, SYS_ADMIN, NET_ADMIN, SYS_TIME))
    equal("CHOWN, KILL, SYS_ADMIN, NET_ADMIN, SYS_TIME", have, (True, True, False, False, False))


@case(
    "CreateContainer",
    Level.SHOULD,
    "CVE-2022-24769: inheritable capabilities",
    "LinuxContainerSecurityContext.capabilities",
)
async def no_capability_is_inheritable(trial: Trial) -> None:
    """A container without a choice has no inheritable capability."""
    equal("CapInh", await capabilities(await trial.box(), "Inh"), 0)


@case(
    "CreateContainer", Level.SHOULD, "KEP-2763: ambient capabilities", "Capability.add_ambient_capabilities"
)
async def ambient_capabilities_reach_other_users(trial: Trial) -> None:
    """An ambient capability is effective for a user that is not root."""
    config = trial.config()
    context = config.linux.security_context
    context.capabilities.add_ambient_capabilities.append("NET_BIND_SERVICE")
    context.run_as_user.value = 1000
    found = await capabilities(await trial.box(config), "Eff")
    true("CapEff of user 1000", _has(found, NET_BIND), "NET_BIND_SERVICE", hex(found))


@case("CreateContainer", Level.SHOULD, "CRI: Capability", "Capability.add_capabilities")
async def an_unknown_capability_is_refused(trial: Trial) -> None:
    """A capability that no kernel knows is an error."""
    config = trial.config()
    config.linux.security_context.capabilities.add_capabilities.append("NO_SUCH_THING")
    await refused("CreateContainer and StartContainer with it", trial.box(config))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: privileged",
    "LinuxContainerSecurityContext.privileged",
    "LinuxSandboxSecurityContext.privileged",
)
async def a_privileged_container_may_do_much(trial: Trial) -> None:
    """A privileged container in a privileged pod has SYS_ADMIN, the host's devices, and no seccomp filter."""
    box = await _privileged(trial)
    true(
        "CapEff",
        _has(await capabilities(box, "Eff"), SYS_ADMIN),
        "SYS_ADMIN",
        hex(await capabilities(box, "Eff")),
    )
    equal("seccomp mode", await box.sh("sed -n 's/^Seccomp:[^0-9]*//p' /proc/1/status"), "0")
    true("/dev/kmsg of the host", await box.can("test -c /dev/kmsg"), "it is there", await box.sh("ls /dev"))


async def _privileged(trial: Trial) -> Box:
    pod_config = trial.pod_config()
    pod_config.linux.security_context.privileged = True
    config = trial.config()
    config.linux.security_context.privileged = True
    return await trial.box(config, await trial.pod(pod_config))


@case("CreateContainer", Level.SHOULD, "CRI: privileged", "LinuxContainerSecurityContext.privileged")
async def a_privileged_container_may_write_to_sys(trial: Trial) -> None:
    """In a privileged container /sys is mounted to be written, and nothing below /proc is masked."""
    box = await _privileged(trial)
    true("/sys is writable", await box.can("! grep -q ' /sys sysfs ro' /proc/mounts"), "rw", "ro")
    true(
        "/proc/sys is writable", await box.can("! grep -q ' /proc/sys ' /proc/mounts"), "no mount", "a mount"
    )


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: privileged containers need a privileged sandbox",
    "LinuxSandboxSecurityContext.privileged",
)
async def privileged_in_a_plain_pod_is_refused(trial: Trial) -> None:
    """A privileged container in a pod that is not privileged is an error."""
    config = trial.config()
    config.linux.security_context.privileged = True
    await refused("CreateContainer of it", trial.create(config))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: run_as_user and run_as_group",
    "LinuxContainerSecurityContext.run_as_user,run_as_group",
)
async def runs_as_user_and_group(trial: Trial) -> None:
    """The program and commands run as that user and group, which need not be in /etc/passwd."""
    config = trial.config()
    config.linux.security_context.run_as_user.value = 12345
    config.linux.security_context.run_as_group.value = 23456
    box = await trial.box(config)
    equal("uid and gid of a command", (await box.sh("echo $(id -u):$(id -g)")), "12345:23456")
    equal("owner of the program", await box.sh("stat -c %u:%g /proc/1"), "12345:23456")


@case("CreateContainer", Level.MUST, "CRI: run_as_username", "LinuxContainerSecurityContext.run_as_username")
async def runs_as_a_user_of_the_image(trial: Trial) -> None:
    """A user's name is looked up in the image's /etc/passwd."""
    config = trial.config()
    config.linux.security_context.run_as_username = "nobody"
    box = await trial.box(config)
    equal(
        "uid of a command",
        await box.sh("id -u"),
        await box.sh("sed -n 's/^nobody:[^:]*:\\([0-9]*\\):.*/\\1/p' /etc/passwd"),
    )


@case("CreateContainer", Level.MUST, "CRI: run_as_username", "LinuxContainerSecurityContext.run_as_username")
async def an_unknown_user_name_is_refused(trial: Trial) -> None:
    """A user that the image does not know is an error, never root."""
    config = trial.config()
    config.linux.security_context.run_as_username = "no-such-user"
    await refused("CreateContainer and StartContainer of it", trial.box(config))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: run_as_group without a user MUST be an error",
    "LinuxContainerSecurityContext.run_as_group",
)
async def a_container_group_without_a_user_is_refused(trial: Trial) -> None:
    """run_as_group without run_as_user or run_as_username is refused."""
    config = trial.config()
    config.linux.security_context.run_as_group.value = 2000
    await refused("CreateContainer with run_as_group alone", trial.create(config))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: supplemental_groups",
    "LinuxContainerSecurityContext.supplemental_groups",
)
async def has_supplemental_groups(trial: Trial) -> None:
    """The program is in the supplemental groups."""
    config = trial.config()
    context = config.linux.security_context
    context.run_as_user.value, context.run_as_group.value = 1000, 1000
    context.supplemental_groups.extend([4444, 5555])
    groups = (await (await trial.box(config)).sh("sed -n 's/^Groups:[^0-9]*//p' /proc/1/status")).split()
    true("Groups of the program", {"4444", "5555"} <= set(groups), "4444 and 5555 among them", groups)


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "KEP-3619: supplemental groups policy",
    "LinuxContainerSecurityContext.supplemental_groups_policy",
    "RuntimeFeatures.supplemental_groups_policy",
)
async def strict_groups_are_those_of_the_request(trial: Trial) -> None:
    """With Strict a process has no group but those of the request."""
    trial.needs("supplemental_groups_policy")
    config = trial.config()
    context = config.linux.security_context
    context.run_as_user.value, context.run_as_group.value = 1000, 1000
    context.supplemental_groups.append(4444)
    context.supplemental_groups_policy = pb.Strict
    groups = (await (await trial.box(config)).sh("sed -n 's/^Groups:[^0-9]*//p' /proc/1/status")).split()
    equal("Groups of the program, but its own", sorted(set(groups) - {"1000"}), ["4444"])


@case("CreateContainer", Level.MUST, "CRI: readonly_rootfs", "LinuxContainerSecurityContext.readonly_rootfs")
async def a_readonly_root_cannot_be_written(trial: Trial) -> None:
    """With readonly_rootfs nothing can be written to the root; volumes can."""
    config = trial.config()
    config.linux.security_context.readonly_rootfs = True
    config.mounts.add(container_path="/mnt", host_path=trial.directory())
    box = await trial.box(config)
    true("a write to /", not await box.can("touch /conform"), "it fails", "it succeeds")
    true("a write to a volume", await box.can("touch /mnt/conform"), "it succeeds", "it fails")


@case("CreateContainer", Level.MUST, "CRI: no_new_privs", "LinuxContainerSecurityContext.no_new_privs")
async def no_new_privs_is_set(trial: Trial) -> None:
    """NoNewPrivs is 1 if it is asked for, and 0 otherwise."""
    for wanted in (True, False):
        config = trial.config()
        config.linux.security_context.no_new_privs = wanted
        found = await (await trial.box(config)).sh("sed -n 's/^NoNewPrivs:[^0-9]*//p' /proc/1/status")
        equal(f"NoNewPrivs with no_new_privs={wanted}", found, str(int(wanted)))


@case("CreateContainer", Level.MUST, "CRI: masked_paths", "LinuxContainerSecurityContext.masked_paths")
async def masked_paths_hide_what_is_there(trial: Trial) -> None:
    """A masked file reads as empty and a masked directory as empty."""
    config = trial.config()
    config.linux.security_context.masked_paths.extend(["/proc/cpuinfo", "/proc/fs"])
    box = await trial.box(config)
    equal("bytes of a masked file", await box.sh("cat /proc/cpuinfo | wc -c"), "0")
    equal("entries of a masked directory", await box.sh("ls /proc/fs | wc -l"), "0")


@case("CreateContainer", Level.MUST, "CRI: readonly_paths", "LinuxContainerSecurityContext.readonly_paths")
async def readonly_paths_cannot_be_written(trial: Trial) -> None:
    """Nothing can be written below a read-only path."""
    config = trial.config()
    config.linux.security_context.readonly_paths.append("/proc/sys")
    box = await trial.box(config)
    true(
        "a write to /proc/sys/net/ipv4/ping_group_range",
        not await box.can("echo 1 1 >/proc/sys/net/ipv4/ping_group_range"),
        "it fails",
        "it succeeds",
    )


@case(
    "ExecSync",
    Level.MUST,
    "CRI: commands run as the container does",
    "LinuxContainerSecurityContext.capabilities,no_new_privs",
)
async def commands_have_the_containers_privileges(trial: Trial) -> None:
    """A command has the container's capabilities and no_new_privs."""
    config = trial.config()
    config.linux.security_context.capabilities.drop_capabilities.append("ALL")
    config.linux.security_context.no_new_privs = True
    found = await (await trial.box(config)).sh(
        "sed -n -e 's/^CapEff:[^0-9a-f]*//p' -e 's/^NoNewPrivs:[^0-9]*//p' /proc/self/status"
    )
    equal("CapEff and NoNewPrivs of a command", found.split(), ["0" * 16, "1"])
