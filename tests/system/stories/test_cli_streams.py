"""`crib exec`, `attach`, `forward` and `cp` as a person has them: real daemon, terminal and tar."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.cli.session import CliSession
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.hostile_layers import CANARY, LEADS_OUT, looks
from tests.images import layer_tar
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import BOUND, box_in, echo, pod_server
from tests.system.labs.stream_lab import crib as background
from tests.unit.cli.stream_pod import crib, terminal

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connected:
        yield connected


@pytest.fixture
def session(cribd: Cribd) -> CliSession:
    return CliSession(f"unix://{cribd.socket}")


async def test_a_shell_on_a_terminal(cri: Cri, session: CliSession) -> None:
    await box_in(cri, "shell")
    with terminal(session, "exec", "-it", "shell", "--", "sh") as screen:
        await screen.until_shown(b"# ")
        screen.resize(90, 20)
        screen.type(b"until [ \"$(stty size)\" = '20 90' ]; do :; done; echo SI''ZE\n")
        await screen.until_shown(b"SIZE\r\n")
        screen.type(
            b"exec sh -c 'trap \"echo CAUGHT; exit 9\" INT; echo READY; while :; do sleep 0.1; done'\n"
        )
        await screen.until_shown(b"\r\nREADY\r\n")
        screen.type(b"\x03")
        await screen.until_shown(b"CAUGHT\r\n")
        assert await screen.ended() == 9
        assert screen.is_as_before


async def test_twenty_megabytes_through_cat_are_the_same(cri: Cri, session: CliSession) -> None:
    await box_in(cri, "cat")
    data = os.urandom(20_000_000)
    done = await crib(session, "exec", "-i", "cat", "cat", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


async def test_a_terminal_is_left_by_keys_and_the_container_goes_on(
    cri: Cri, cribd: Cribd, session: CliSession
) -> None:
    _, box = await box_in(cri, "left", "sh", stdin=True, tty=True)
    for word in (b"ONE", b"TWO"):
        with terminal(session, "attach", "-i", "left") as screen:
            await until(lambda screen=screen: screen.is_raw)
            screen.type(b"echo " + word[:1] + b"''" + word[1:] + b"\r")
            await screen.until_shown(word + b"\r\n")
            screen.type(b"\x10\x11")
            await screen.until_shown(b"detached\r\n")
            assert await screen.ended() == 0
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
    assert b"TWO" in (cribd.logs / "left" / "box.log").read_bytes()


async def test_ports_are_forwarded_until_it_is_interrupted(cri: Cri, cribd: Cribd) -> None:
    pod, _ = await box_in(cri, "ports")
    async with (
        pod_server(cribd, pod, 80, echo),
        background(cribd, "forward", "ports", ":80", ":81") as client,
    ):
        lines = [await client.seen(b"\n") for _ in range(2)]
        good, bad = (int(line.split()[2].rpartition(b":")[2]) for line in lines)
        reader, writer = await asyncio.open_connection("127.0.0.1", bad)
        assert b"refused" in await client.seen(b"\n")
        assert await asyncio.wait_for(reader.read(), BOUND) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", good)
        data = os.urandom(1 << 20)
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), BOUND) == data
        writer.close()


async def _busybox(cri: Cri, box: str) -> str:
    """The program that all others in the image are names of."""
    return (await cri.sh(box, "readlink -f /bin/sh")).strip()


async def test_a_tree_goes_into_a_container_and_comes_back(
    cri: Cri, session: CliSession, tmp_path: Path
) -> None:
    _, box = await box_in(cri, "copies")
    await cri.sh(box, f"ln -s {await _busybox(cri, box)} /bin/tar")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/file").write_bytes(os.urandom(3_000_000))
    (tree / "deep/file").chmod(0o640)
    os.utime(tree / "deep/file", (1_000_000_000, 1_000_000_000))
    (tree / "-link").symlink_to("deep/file")
    (tree / ("l" * 150)).write_text("long")
    for words in (("cp", str(tree), "copies:/var"), ("cp", "copies:/var/tree", f"{tmp_path}/back")):
        done = await crib(session, *words)
        assert (done.returncode, done.stderr) == (0, b"")
    back = tmp_path / "back"
    assert sorted(os.listdir(back)) == sorted(os.listdir(tree))
    assert (back / "-link").read_bytes() == (tree / "deep/file").read_bytes()
    status = (back / "deep/file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 1_000_000_000)
    assert (await cri.sh(box, "stat -c %u:%g:%a /var/tree/deep/file")).strip() == "0:0:640"
    done = await crib(session, "cp", "copies:/var/tree/deep/file", str(tmp_path))
    assert (done.returncode, (tmp_path / "file").read_bytes()) == (0, (tree / "deep/file").read_bytes())
    done = await crib(session, "cp", "copies:/nothing", str(tmp_path))
    assert done.returncode == 1
    assert b"tar in the container ended with 1: tar: ./nothing: No such file" in done.stderr


async def test_a_container_whose_tar_is_hostile_writes_nothing_outside(
    cri: Cri, session: CliSession, tmp_path: Path
) -> None:
    await box_in(cri, "hostile")
    evil = "printf '#!/bin/sh\\ncat /evil' > /bin/tar; chmod +x /bin/tar"
    assert (await crib(session, "exec", "hostile", "--", "sh", "-c", evil)).returncode == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(CANARY)
    before = looks(outside), looks(outside / "secret")
    for number, (name, entries) in enumerate(LEADS_OUT.items()):
        put = await crib(
            session, "exec", "-i", "hostile", "--", "sh", "-c", "cat > /evil", stdin=layer_tar(entries)
        )
        assert put.returncode == 0
        done = await crib(session, "cp", "hostile:/data/.", f"{tmp_path}/root{number}")
        assert done.returncode == 1, name
        assert (looks(outside), looks(outside / "secret")) == before, name
        assert os.listdir(outside) == ["secret"], name


async def test_a_container_without_tar_is_told(cri: Cri, session: CliSession, tmp_path: Path) -> None:
    await box_in(cri, "bare")
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    for words in ((f"{tmp_path}/file", "bare:/var/"), ("bare:/etc", str(tmp_path))):
        done = await crib(session, "cp", *words)
        assert done.returncode == 1
        assert done.stderr.startswith(b"crib: copying needs tar in the container: "), done.stderr


async def test_an_input_that_is_empty_ends_a_command_that_was_to_have_a_terminal(
    cri: Cri, session: CliSession
) -> None:
    await box_in(cri, "empty")
    done = await crib(session, "exec", "-it", "empty", "--", "sh", "-c", "cat; tty; exit 4", stdin=b"")
    assert (done.returncode, done.stdout) == (4, b"not a tty\n")
    assert done.stderr == b"crib: standard input is not a terminal, so the command gets none\n"


async def test_a_command_runs_as_another_user_with_variables_in_a_directory(
    cri: Cri, session: CliSession
) -> None:
    _, box = await box_in(cri, "others")
    passwd = "ali:x:1234:1234::/tmp:/bin/sh"
    group = "wheel:x:10:ali"
    await cri.sh(box, f"mkdir -p /etc /tmp && echo {passwd} >> /etc/passwd && echo {group} >> /etc/group")
    show = "id -u; id -g; id -G; pwd; echo $A$B; grep CapEff /proc/self/status"
    words = ("exec", "-u", "ali", "-e", "A=1", "-e", "B=2", "-w", "/tmp", "others", "--", "sh", "-c", show)
    done = await crib(session, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        *("1234", "1234", "1234 10", "/tmp", "12"),
        "CapEff:\t0000000000000000",
    ]
    done = await crib(session, "exec", "-u", "eve", "others", "id")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"user 'eve' is not in the container's /etc/passwd" in done.stderr


async def test_a_program_that_cannot_run_has_the_exit_code_of_a_shell(cri: Cri, session: CliSession) -> None:
    _, box = await box_in(cri, "codes")
    script = "echo text > /plain; echo text > /text; echo '#!/nosuch' > /script; chmod +x /text /script"
    await cri.sh(box, script)
    cases = (
        *((["nosuch"], 127), (["/nosuch"], 127), (["/script"], 127)),
        *((["/plain"], 126), (["/etc"], 126), (["/text"], 126), (["sh", "-c", "exit 9"], 9)),
    )
    ways = ((), ("-i",), ("-t",))
    for words, code in cases:
        outcomes = [crib(session, "exec", *options, "codes", "--", *words) for options in ways]
        for done in await asyncio.gather(*outcomes):
            assert done.returncode == code, (words, done)
            assert box.encode() not in done.stderr
            assert b"rror" not in done.stderr.replace(b"Exec format error", b"")
    for words, code in cases[:-1]:
        done = await crib(session, "exec", "--detach", "codes", "--", *words)
        assert done.returncode == code, (words, done)
        assert done.stderr.startswith(b"crib: ")


async def test_files_with_several_names_go_there_and_back(
    cri: Cri, session: CliSession, tmp_path: Path
) -> None:
    _, box = await box_in(cri, "edges")
    await cri.sh(box, "ln -s $(readlink -f /bin/sh) /bin/tar")
    tree, back = tmp_path / "tree", tmp_path / "back"
    (tree / "other").mkdir(parents=True)
    (tree / "file").write_bytes(os.urandom(100_000))
    (tree / "other/name").hardlink_to(tree / "file")
    for words in (("cp", str(tree), "edges:/var"), ("cp", "edges:/var/tree", f"{back}/")):
        done = await crib(session, *words)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (await cri.sh(box, "stat -c %h /var/tree/file")).strip() == "2"
    assert (back / "other/name").samefile(back / "file")
    assert (back / "file").read_bytes() == (tree / "file").read_bytes()
    done = await crib(session, "cp", "edges:/var/tree/file", f"{tmp_path}/none/")
    assert (done.returncode, done.stderr) == (1, b"crib: there is no directory 'none' to copy into\n")
    assert not (tmp_path / "none").exists()
