"""What cribd does at its start, and what it refuses to start with."""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def test_a_second_cribd_is_refused_and_told_who_holds_the_roots(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("undisturbed")
    refused = cribd.run()
    assert refused.returncode == 1
    assert f"another cribd (pid {cribd.pid})" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert cribd.run("--wipe").returncode == 1
    assert (await cri.pod_status(pod)).state == pb.SANDBOX_READY
    # one root shared is one too many
    for shared, other in (("data", "state"), ("state", "data")):
        config = cribd.root / "other.toml"
        text = cribd.config.read_text()
        path = getattr(cribd, other)
        config.write_text(text.replace(f'{other} = "{path}"', f'{other} = "{path}2"', 1))
        refused = cribd.run(config=config)
        assert refused.returncode == 1, refused
        assert f"{getattr(cribd, shared)}/lock" in refused.stderr
        config.unlink()
        shutil.rmtree(f"{path}2")


async def test_the_socket_is_for_root_and_its_group_alone(cribd: Cribd) -> None:
    socket, directory = cribd.socket.stat(), cribd.state.stat()
    assert (stat.S_IMODE(socket.st_mode), stat.S_IMODE(directory.st_mode)) == (0o660, 0o751)
    assert (socket.st_uid, directory.st_uid) == (0, 0)
    assert socket.st_gid == directory.st_gid
    assert stat.S_IMODE(cribd.data.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("conmn = 'x'", "unknown key conmn, did you mean conmon?"),
        ("verb_timeout = 'long'", "verb_timeout must be a number"),
        ("cgroup_root = '../..'", "cgroup_root is '../..', and must be an absolute path"),
        ("not toml", ""),
    ],
)
async def test_a_mistake_in_the_configuration_is_told_with_file_and_line(
    cribd: Cribd, tmp_path: Path, line: str, message: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"# first\n\n{line}\n")
    for arguments in ((), ("--check-config",)):
        done = cribd.run(*arguments, config=config)
        assert done.returncode == 1
        assert re.search(rf"^cribd: {re.escape(str(config))}:3:\d+: {re.escape(message)}", done.stderr)
        assert "Traceback" not in done.stderr
    assert cribd.run("--check-config").stdout == f"{cribd.config}: ok\n"


async def test_an_unknown_kind_of_handler_is_refused_before_anything_is_made(
    cribd: Cribd, tmp_path: Path
) -> None:
    roots = [tmp_path / "data", tmp_path / "state"]
    config = tmp_path / "config.toml"
    config.write_text(
        f'data = "{roots[0]}"\nstate = "{roots[1]}"\nsocket = "{tmp_path}/never.sock"\n'
        '[handlers.crun]\n[handlers.fast]\nkind = "microvm"\n'
    )
    for arguments in ((), ("--check-config",), ("--check",), ("--wipe",)):
        done = cribd.run(*arguments, config=config)
        assert done.returncode == (2 if arguments == ("--check",) else 1)
        assert done.stderr.startswith(
            "cribd: handlers.fast.kind is 'microvm', and no distribution here has that"
        )
    assert not any(root.exists() for root in roots)


async def test_records_of_a_later_crib_are_left_alone(cribd: Cribd, tmp_path: Path) -> None:
    data, state = tmp_path / "data", tmp_path / "state"
    data.mkdir()
    with closing(sqlite3.connect(data / "crib.db")) as database:
        database.execute("PRAGMA user_version=999")
    config = tmp_path / "config.toml"
    config.write_text(f'data = "{data}"\nstate = "{state}"\nsocket = "/tmp/crib-never.sock"\n')
    done = cribd.run(config=config)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert "schema 999" in done.stderr
    assert not Path("/tmp/crib-never.sock").exists()
