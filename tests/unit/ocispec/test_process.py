from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode, NamespaceOptions
from crib.model.streams import ExecProcess
from crib.ocispec.process import (
    container_process,
    environment,
    exec_process,
    oom_score_adj,
    process_args,
    rlimits,
    working_directory,
)
from tests.unit.ocispec.inputs_for_tests import HOST, inputs, sandbox, with_config

IMAGE = ImageConfig(entrypoint=("entry", "e"), cmd=("cmd", "c"))


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ("entry", "e", "cmd", "c")),
        ((), ("a",), ("entry", "e", "a")),
        (("k",), (), ("k",)),
        (("k",), ("a",), ("k", "a")),
    ],
)
def test_command_and_args_stand_for_entrypoint_and_cmd(
    command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    config = ContainerConfig(name="c", image="i", command=command, args=args)
    assert process_args(config, IMAGE) == expected


@pytest.mark.parametrize("command", [(), ("",), ("a\0b",)])
def test_a_command_is_needed(command: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        process_args(ContainerConfig(name="c", image="i", command=command), ImageConfig())
    assert caught.value.field == "command"


def test_environment_is_merged_and_the_last_wins() -> None:
    assert environment(with_config(tty=True, envs=(("A", b"mine"), ("B", "ü".encode())))) == (
        "PATH=/bin",
        "HOSTNAME=web-0",
        "TERM=xterm",
        "A=mine",
        "B=ü",
    )


def test_path_has_a_default() -> None:
    assert environment(inputs(image=ImageConfig()))[0].startswith("PATH=/usr/local/sbin:")


def test_pods_on_the_hosts_network_have_its_name() -> None:
    made = inputs(sandbox=sandbox(NamespaceOptions(network=NamespaceMode.NODE)))
    assert "HOSTNAME=node-1" in environment(made)


@pytest.mark.parametrize("entry", [("", b"x"), ("A=B", b"x"), ("A", b"\0"), ("A", b"\xff")])
def test_variables_that_cannot_be_set_are_refused_by_name(entry: tuple[str, bytes]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        environment(with_config(envs=(("OK", b"1"), entry)))
    assert caught.value.field == "envs[1]"


@pytest.mark.parametrize(
    ("asked", "image", "expected"),
    [("", "", "/"), ("", "srv", "/srv"), ("/a/../b/", "/x", "/b"), ("", "/x//y", "/x/y")],
)
def test_working_directory_is_absolute(asked: str, image: str, expected: str) -> None:
    config = ContainerConfig(name="c", image="i", working_dir=asked)
    assert working_directory(config, ImageConfig(working_dir=image)) == expected


def test_oom_score_is_clipped_only_where_nobody_may_lower_it() -> None:
    bound = replace(HOST, may_lower_oom=False, oom_score_adj=5)
    assert oom_score_adj(-998, HOST) == -998
    assert oom_score_adj(-998, bound) == 5
    assert oom_score_adj(1000, bound) == 1000
    with pytest.raises(InvalidRequest):
        oom_score_adj(1001, HOST)


def test_exec_runs_as_the_first_process_did() -> None:
    process = container_process(with_config(tty=True))
    run = exec_process(process, ExecProcess(("ls", "-l")))
    assert (run.args, run.terminal) == (("ls", "-l"), False)
    assert (run.user, run.env, run.cwd, run.capabilities) == (
        process.user,
        process.env,
        process.cwd,
        process.capabilities,
    )
    assert "TERM=xterm" in exec_process(container_process(inputs()), ExecProcess(("sh",), tty=True)).env
    with pytest.raises(InvalidRequest):
        exec_process(process, ExecProcess(()))


USERS = RootfsFacts(
    "root:x:0:0::/root:/bin/sh\nali:x:1000:1000::/home/ali:/bin/sh\n", "ali:x:1000:\nwheel:x:10:root,ali\n"
)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("ali", 1000, 1000, (1000, 10)),
        ("1000", 1000, 1000, (1000, 10)),
        ("ali:wheel", 1000, 10, (10,)),
        ("1234:5", 1234, 5, (5,)),
        ("root", 0, 0, (0, 10)),
    ],
)
def test_a_command_runs_as_the_user_that_is_asked_for(
    user: str, uid: int, gid: int, groups: tuple[int, ...]
) -> None:
    process = container_process(inputs())
    run = exec_process(process, ExecProcess(("id",), user=user), USERS)
    assert (run.user.uid, run.user.gid, run.user.additional_gids) == (uid, gid, groups)
    assert (run.user.umask, run.capabilities) == (process.user.umask, process.capabilities)


def test_a_user_that_the_container_does_not_know_is_refused() -> None:
    for user in ("eve", "ali:ops", "4294967296"):
        with pytest.raises(InvalidRequest, match="user: "):
            exec_process(container_process(inputs()), ExecProcess(("id",), user=user), USERS)


def test_a_commands_variables_win_and_its_directory_is_its_own() -> None:
    process = container_process(with_config(envs=(("MODE", b"plain"), ("HOME", b"/root"))))
    envs = (("MODE", b"other"), ("NEW", b"1"))
    run = exec_process(process, ExecProcess(("env",), envs=envs, working_dir="/tmp/"))
    assert {"MODE=other", "NEW=1", "HOME=/root"} <= set(run.env)
    assert run.cwd == "/tmp"
    other = exec_process(process, ExecProcess(("env",), user="ali"), USERS)
    assert not any(entry.startswith("HOME=") for entry in other.env)


def test_a_container_gets_the_limit_of_open_files_that_the_daemon_was_started_with() -> None:
    (limit,) = rlimits(inputs())
    assert (limit.type, limit.soft, limit.hard) == ("RLIMIT_NOFILE", *HOST.open_files)
