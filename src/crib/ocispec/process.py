"""What runs: arguments, environment, working directory, terminal; and the same for a command run later."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest, below
from crib.model.facts import HostFacts, RootfsFacts
from crib.model.image import ImageConfig
from crib.model.streams import ExecProcess
from crib.ocispec.defaults import UMASK, annotation, parse_ulimit, parse_umask
from crib.ocispec.init_system import systemd_variables
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.security import apparmor_profile, capabilities, selinux_label
from crib.ocispec.user import container_user, exec_user
from crib.wire import oci_runtime as oci

NO_USERS = RootfsFacts("", "")
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OOM_RANGE = range(-1000, 1001)


def container_process(inputs: ContainerInputs) -> oci.Process:
    """The `process` of config.json."""
    config = inputs.config
    with below("linux.resources"):
        score = oom_score_adj(config.resources.oom_score_adj, inputs.host)
    return oci.Process(
        user=msgspec.structs.replace(
            container_user(config.security, inputs.image, inputs.rootfs), umask=umask(inputs)
        ),
        args=process_args(config, inputs.image),
        cwd=working_directory(config, inputs.image),
        terminal=config.tty,
        env=environment(inputs),
        capabilities=capabilities(inputs),
        rlimits=rlimits(inputs),
        no_new_privileges=config.security.no_new_privs,
        oom_score_adj=score,
        apparmor_profile=apparmor_profile(inputs),
        selinux_label=selinux_label(inputs),
    )


def exec_process(process: oci.Process, wanted: ExecProcess, rootfs: RootfsFacts = NO_USERS) -> oci.Process:
    """process.json of a command run in the container: as its first process, but for what is asked for.

    `rootfs` is needed if that is another user. The kernel takes from one that is not root what capabilities
    the first process has, at the command's execve (capabilities(7)).
    """
    if not wanted.argv or not wanted.argv[0]:
        raise InvalidRequest("a command to run is needed", field="cmd")
    env = dict(map(_split, process.env))
    env.update(_texts(wanted.envs))
    if wanted.tty:
        env.setdefault("TERM", "xterm")
    user = process.user
    if wanted.user:
        user = msgspec.structs.replace(exec_user(wanted.user, rootfs), umask=user.umask)
        if user.uid != process.user.uid:
            # The first process's home is not this user's; the runtime looks it up where none is set.
            env = {key: value for key, value in env.items() if key != "HOME" or key in dict(wanted.envs)}
    return msgspec.structs.replace(
        process,
        user=user,
        args=wanted.argv,
        cwd=os.path.normpath(wanted.working_dir or process.cwd),
        terminal=wanted.tty,
        env=tuple(f"{key}={value}" for key, value in env.items()),
    )


def rlimits(inputs: ContainerInputs) -> tuple[oci.Rlimit, ...]:
    """The node's. The daemon raises its own limit of open files: else a container gets what it began with."""
    limits = {"nofile": inputs.host.open_files}
    limits |= {name: parse_ulimit(text) for name, text in inputs.options.containers.ulimits.items()}
    return tuple(
        oci.Rlimit(f"RLIMIT_{name.upper()}", hard=hard, soft=soft)
        for name, (soft, hard) in sorted(limits.items())
    )


def umask(inputs: ContainerInputs) -> int | None:
    """By annotation, else the node's; None leaves it to the runtime (022)."""
    asked = annotation(UMASK, inputs.sandbox.config, inputs.config, inputs.options.annotations)
    if asked is not None:
        try:
            return parse_umask(asked.value)
        except ValueError as error:
            raise InvalidRequest(str(error), field=asked.field, of=asked.of) from error
    text = inputs.options.containers.umask
    return parse_umask(text) if text else None


def process_args(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """The CRI's rule: `command` stands for ENTRYPOINT and takes CMD away with it, `args` stands for CMD."""
    if config.command:
        args = (*config.command, *config.args)
    else:
        args = (*image.entrypoint, *(config.args or image.cmd))
    if not args or not args[0]:
        raise InvalidRequest(
            f"neither the container nor image {config.image} names a command", field="command"
        )
    for position, arg in enumerate(args):
        if "\0" in arg:
            raise InvalidRequest(f"argument {position} holds a NUL byte", field="command")
    return args


def working_directory(config: ContainerConfig, image: ImageConfig) -> str:
    """`working_dir`, else the image's, else the root; always absolute."""
    directory = config.working_dir or image.working_dir or "/"
    if "\0" in directory:
        raise InvalidRequest("a path cannot hold a NUL byte", field="working_dir")
    return os.path.normpath(f"/{directory.lstrip('/')}")


def environment(inputs: ContainerInputs) -> tuple[str, ...]:
    """Defaults, then the node's, then the image's, then the container's.

    The last one to name a variable wins, in the first's place.
    """
    sandbox = inputs.sandbox.config
    hostname = inputs.default_hostname if sandbox.host_network else sandbox.hostname
    merged = dict([_split(DEFAULT_PATH)])
    if hostname:
        merged["HOSTNAME"] = hostname
    if inputs.config.tty:
        merged["TERM"] = "xterm"
    merged.update(systemd_variables(inputs))
    merged.update(inputs.options.containers.env)
    merged.update(_split(entry) for entry in inputs.image.env)
    merged.update(_texts(inputs.config.envs))
    return tuple(f"{key}={value}" for key, value in merged.items())


def _texts(envs: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, (key, value) in enumerate(envs):
        if not key or "=" in key or "\0" in key or b"\0" in value:
            raise InvalidRequest(f"{key!r} cannot be set", field=f"envs[{position}]")
        try:
            found[key] = value.decode("utf-8")
        except UnicodeDecodeError as error:
            # JSON has no way to write such bytes: crun refuses the file, and runc would change the value in
            # silence.
            raise InvalidRequest(
                f"the value of {key} is not UTF-8, and an OCI spec carries nothing else",
                field=f"envs[{position}]",
            ) from error
    return found


def _split(entry: str) -> tuple[str, str]:
    key, _, value = entry.partition("=")
    return key, value


def oom_score_adj(wanted: int, host: HostFacts) -> int:
    """What was asked for, raised to the daemon's own where the host lets nobody go below it."""
    if wanted not in _OOM_RANGE:
        raise InvalidRequest(f"{wanted} is not between -1000 and 1000", field="oom_score_adj")
    return wanted if host.may_lower_oom else max(wanted, host.oom_score_adj)
