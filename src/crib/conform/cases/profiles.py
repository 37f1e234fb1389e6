"""Seccomp, AppArmor and SELinux of containers."""

from __future__ import annotations

import json
import os

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused, true
from crib.conform.trial import Box, Trial, write
from crib.stubs.runtime.v1 import api_pb2 as pb

_FILTERED, _UNFILTERED = "2", "0"
_PROFILE = pb.SecurityProfile


async def _mode(box: Box) -> str:
    return await box.sh("sed -n 's/^Seccomp:[^0-9]*//p' /proc/1/status")


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: SecurityProfile.RuntimeDefault",
    "LinuxContainerSecurityContext.seccomp",
    "SecurityProfile.profile_type",
)
async def the_default_seccomp_profile_filters(trial: Trial) -> None:
    """RuntimeDefault is a filter, Unconfined is none."""
    for kind, mode in ((_PROFILE.RuntimeDefault, _FILTERED), (_PROFILE.Unconfined, _UNFILTERED)):
        config = trial.config()
        config.linux.security_context.seccomp.CopyFrom(_PROFILE(profile_type=kind))
        equal(
            f"Seccomp of the program with {_PROFILE.ProfileType.Name(kind)}",
            await _mode(await trial.box(config)),
            mode,
        )


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: SecurityProfile.Localhost",
    "LinuxContainerSecurityContext.seccomp",
    "SecurityProfile.localhost_ref",
)
async def a_seccomp_profile_of_the_node_is_used(trial: Trial) -> None:
    """A Localhost profile that refuses chmod(2) makes chmod fail in the container, and nothing else."""
    path = os.path.join(trial.directory(), "profile.json")
    rule = {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}
    write(path, json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    config = trial.config()
    profile = _PROFILE(profile_type=_PROFILE.Localhost, localhost_ref=path)
    config.linux.security_context.seccomp.CopyFrom(profile)
    box = await trial.box(config)
    true("`touch`", await box.can("touch /tmp/x"), "it succeeds", "it fails")
    true("`chmod`", not await box.can("chmod 600 /tmp/x"), "it fails", "it succeeds")


@case("CreateContainer", Level.MUST, "CRI: SecurityProfile.Localhost", "SecurityProfile.localhost_ref")
async def a_missing_profile_is_refused(trial: Trial) -> None:
    """A Localhost profile that does not exist is an error, not a container without a filter."""
    config = trial.config()
    profile = _PROFILE(profile_type=_PROFILE.Localhost, localhost_ref="/nonexistent/crib-conform.json")
    config.linux.security_context.seccomp.CopyFrom(profile)
    await refused("CreateContainer and StartContainer with it", trial.box(config))


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: deprecated, read where seccomp is unset",
    "LinuxContainerSecurityContext.seccomp_profile_path",
)
async def the_deprecated_seccomp_path_is_read(trial: Trial) -> None:
    """`runtime/default` in the deprecated field is the default filter."""
    config = trial.config()
    config.linux.security_context.seccomp_profile_path = "runtime/default"
    equal("Seccomp of the program", await _mode(await trial.box(config)), _FILTERED)


@case("CreateContainer", Level.SHOULD, "CRI: AppArmor profiles", "LinuxContainerSecurityContext.apparmor")
async def apparmor_unconfined_is_accepted(trial: Trial) -> None:
    """An unconfined AppArmor profile is accepted with and without AppArmor."""
    config = trial.config("true")
    config.linux.security_context.apparmor.profile_type = _PROFILE.Unconfined
    equal("exit code", (await trial.ended(config)).exit_code, 0)


@case("CreateContainer", Level.MUST, "CRI: AppArmor profiles", "LinuxContainerSecurityContext.apparmor")
async def an_apparmor_profile_that_is_not_loaded_is_refused(trial: Trial) -> None:
    """A named AppArmor profile that is not loaded is an error, also on a node without AppArmor."""
    config = trial.config()
    profile = _PROFILE(profile_type=_PROFILE.Localhost, localhost_ref="crib-conform-missing")
    config.linux.security_context.apparmor.CopyFrom(profile)
    await refused("CreateContainer and StartContainer with it", trial.box(config))


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: deprecated, read where apparmor is unset",
    "LinuxContainerSecurityContext.apparmor_profile",
)
async def the_deprecated_apparmor_name_is_read(trial: Trial) -> None:
    """A profile in the deprecated field that is not loaded is an error as well."""
    config = trial.config()
    config.linux.security_context.apparmor_profile = "localhost/crib-conform-missing"
    await refused("CreateContainer and StartContainer with it", trial.box(config))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: AppArmor RuntimeDefault",
    "LinuxContainerSecurityContext.apparmor",
)
async def the_default_apparmor_profile_confines(trial: Trial) -> None:
    """RuntimeDefault is a profile that is enforced."""
    if not os.path.exists("/sys/kernel/security/apparmor/profiles"):
        raise NotApplicable("this node has no AppArmor")
    config = trial.config()
    config.linux.security_context.apparmor.profile_type = _PROFILE.RuntimeDefault
    found = await (await trial.box(config)).sh("cat /proc/1/attr/current")
    true("the program's profile", found.endswith("(enforce)"), "one that is enforced", found)


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: SELinuxOption has no effect without SELinux",
    "LinuxContainerSecurityContext.selinux_options",
    "SELinuxOption.user,role,type,level",
    "Mount.selinux_relabel",
)
async def selinux_has_no_effect_where_it_is_off(trial: Trial) -> None:
    """A container with SELinux options and a volume to be relabelled runs on a node without SELinux."""
    if os.path.exists("/sys/fs/selinux/enforce"):
        raise NotApplicable("SELinux is on: labels need a policy that knows them")
    config = trial.config()
    options = pb.SELinuxOption(user="system_u", role="system_r", type="container_t", level="s0:c1,c2")
    config.linux.security_context.selinux_options.CopyFrom(options)
    config.mounts.add(container_path="/mnt", host_path=trial.directory(), selinux_relabel=True)
    box = await trial.box(config)
    true("a write to the volume", await box.can("touch /mnt/x"), "it succeeds", "it fails")
