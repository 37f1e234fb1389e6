"""What a container runs and with what: command, args, working directory, environment, terminal."""

from __future__ import annotations

from crib.conform.case import Level, case
from crib.conform.expect import equal, true
from crib.conform.trial import Trial


@case("CreateContainer", Level.MUST, "CRI: ContainerConfig.command and args", "ContainerConfig.command,args")
async def command_and_args_are_one_line(trial: Trial) -> None:
    """args follow command, word by word and without a shell."""
    config = trial.config("sh", "-c", 'test "$#" = 2 && test "$1" = "a  b" && test "$2" = "\\$x"')
    config.args.extend(["zero", "a  b", "$x"])
    config.command[-1] = 'test "$#" = 2 && test "$1" = "a  b" && test "$2" = \'$x\''
    equal("exit code of a script that compares its words", (await trial.ended(config)).exit_code, 0)


@case("CreateContainer", Level.MUST, "CRI: ContainerConfig.args", "ContainerConfig.args")
async def args_alone_replace_the_images_command(trial: Trial) -> None:
    """args without a command run after the image's entrypoint, or by themselves if it has none."""
    config = trial.config()
    del config.command[:]
    config.args.extend(["sh", "-c", "exit 5"])
    equal("exit code", (await trial.ended(config)).exit_code, 5)


@case("CreateContainer", Level.MUST, "CRI: ContainerConfig.working_dir", "ContainerConfig.working_dir")
async def working_dir_is_where_it_begins(trial: Trial) -> None:
    """The program and commands run in it begin in working_dir, which is made if it is missing."""
    for path in ("/tmp", "/conform/made/now"):  # noqa: S108  # in the container
        config = trial.config()
        config.working_dir = path
        box = await trial.box(config)
        equal("the program's directory", await box.sh("readlink /proc/1/cwd"), path)
        equal("the directory of a command", await box.sh("pwd"), path)


@case(
    "CreateContainer", Level.MUST, "CRI: ContainerConfig.envs", "ContainerConfig.envs", "KeyValue.key,value"
)
async def envs_are_set(trial: Trial) -> None:
    """Variables are set for the program and for commands, stronger than the image's."""
    config = trial.config()
    config.envs.add(key="CONFORM", value=b"a=b c\nd")
    config.envs.add(key="EMPTY", value=b"")
    config.envs.add(key="PATH", value=b"/bin:/usr/bin:/conform")
    box = await trial.box(config)
    equal("$CONFORM in a command", await box.sh('printf %s "$CONFORM"'), "a=b c\nd")
    equal("$EMPTY in a command", await box.sh("echo ${EMPTY-unset}."), ".")
    equal("$PATH in a command", await box.sh("echo $PATH"), "/bin:/usr/bin:/conform")
    found = (await box.sh("tr '\\0' '|' </proc/1/environ")).split("|")
    true("the program's environment", "CONFORM=a=b c\nd" in found, "CONFORM is set", found)


@case("CreateContainer", Level.SHOULD, "OCI image: Env", "ContainerConfig.envs")
async def the_images_path_is_set(trial: Trial) -> None:
    """Without a PATH of its own a container has one."""
    box = await trial.box()
    true("$PATH", await box.sh("echo $PATH"), "not empty", "empty")


@case("CreateContainer", Level.MUST, "CRI: ContainerConfig.tty", "ContainerConfig.tty")
async def a_tty_is_a_terminal(trial: Trial) -> None:
    """With tty the three standard streams are a terminal; without it they are not."""
    script = "test -t 0 && test -t 1 && test -t 2"
    config = trial.config("sh", "-c", script)
    config.tty, config.stdin = True, True
    equal("exit code of a script that tests them, with tty", (await trial.ended(config)).exit_code, 0)
    plain = trial.config("sh", "-c", "test -t 0 || test -t 1 || test -t 2")
    equal("exit code of a script that tests them, without", (await trial.ended(plain)).exit_code, 1)


@case("CreateContainer", Level.MUST, "CRI: ContainerConfig.stdin", "ContainerConfig.stdin")
async def without_stdin_it_reads_an_end(trial: Trial) -> None:
    """A program without stdin reads an end at once."""
    status = await trial.ended(trial.config("sh", "-c", "cat; exit 4"))
    equal("exit code of a script that reads to the end first", status.exit_code, 4)


@case(
    "CreateContainer",
    Level.SHOULD,
    "OCI runtime: process.rlimits; POSIX limits are inherited, not zero",
    "ContainerConfig.command",
)
async def has_file_descriptors(trial: Trial) -> None:
    """A container may open at least 1024 files."""
    limit = await (await trial.box()).sh("ulimit -n")
    true("`ulimit -n`", limit == "unlimited" or int(limit) >= 1024, "1024 or more", limit)


@case("CreateContainer", Level.MUST, "OCI runtime: default file systems", "ContainerConfig.linux")
async def has_the_default_devices_and_file_systems(trial: Trial) -> None:
    """A container has /proc, /sys, /dev/null, zero, full, random, urandom, tty and a /dev/shm."""
    box = await trial.box()
    nodes = " && ".join(
        f"test -c /dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
    )
    true("character devices", await box.can(nodes), "all of them", await box.sh("ls -l /dev"))
    true("/proc and /sys", await box.can("test -d /proc/self && test -d /sys/kernel"), "both", "not both")
    true("its /dev/shm", await box.can("echo x >/dev/shm/x"), "can be written to", "cannot")


@case(
    "CreateContainer",
    Level.MUST,
    "kubelet: an init container's files are not those of another",
    "ContainerConfig.image",
)
async def each_container_has_files_of_its_own(trial: Trial) -> None:
    """What one container writes to its root no other container of the image sees."""
    one, other = await trial.box(), await trial.box()
    await one.sh("echo mine >/conform-file")
    true(
        "the file in the other container",
        not await other.can("test -e /conform-file"),
        "no such file",
        "it is there",
    )


@case(
    "ContainerStatus",
    Level.OPTIONAL,
    "KEP-3619: ContainerStatus.user",
    "ContainerStatus.user",
    "ContainerUser.linux",
    "LinuxContainerUser.uid,gid,supplemental_groups",
    "RuntimeFeatures.supplemental_groups_policy",
)
async def tells_who_it_runs_as(trial: Trial) -> None:
    """The status has uid, gid and groups of the first process."""
    trial.needs("supplemental_groups_policy")
    config = trial.config()
    context = config.linux.security_context
    context.run_as_user.value, context.run_as_group.value = 1234, 2345
    context.supplemental_groups.append(3456)
    user = (await (await trial.box(config)).status()).user.linux
    equal("ContainerStatus: uid and gid", (user.uid, user.gid), (1234, 2345))
    true("ContainerStatus: groups", 3456 in user.supplemental_groups, "3456 is one", user)
