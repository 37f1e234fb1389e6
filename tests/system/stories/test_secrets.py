"""What pods keep from each other's eyes stays so on disk, and what they must reach they reach."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crib.client import pods
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image, write_saved_archive
from tests.system.labs.daemon import IMAGE, Cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

NOBODY = 65534
READABLE = "/etc/passwd"
SECRET = "swordfish-in-the-environment"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    made = Cribd()
    made.root.chmod(0o755)
    try:
        yield made
    finally:
        made.end()


def files_below(top: Path) -> list[str]:
    """All but what is mounted there: that shows other places."""
    found = []
    for directory, below, names in os.walk(top):
        below[:] = [name for name in below if not os.path.ismount(f"{directory}/{name}")]
        found += [
            f"{directory}/{name}" for name in names if stat.S_ISREG(os.lstat(f"{directory}/{name}").st_mode)
        ]
    return found


def read_as_nobody(paths: list[str]) -> list[str]:
    """Those of the files that a user without rights can open; asked in a child that is that user."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(sender, "\0".join(filter(can_open, [READABLE, *paths])).encode()[:65536])
        finally:
            os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as answer:
        control, *found = answer.read().decode().split("\0")
    os.waitpid(child, 0)
    assert control == READABLE
    return found


def can_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
    return True


async def bring_image(cribd: Cribd) -> None:
    archive = write_saved_archive(cribd.root / "images.tar", [busybox_image(name=IMAGE)])
    async with cribd.connect() as cri:
        await cri.import_archive(archive)


async def run_with_secret(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        pod = await cri.run_pod("secret")
        await cri.run_container(
            pod, "sleep", "600", envs=[pb.KeyValue(key="PASSWORD", value=SECRET.encode())]
        )


async def remove_all(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        for sandbox in await cri.sandboxes():
            await cri.remove_pod(sandbox)


async def test_a_secret_in_the_environment_is_read_by_root_alone_in_fresh_directories(cribd: Cribd) -> None:
    with umask(0):
        cribd.start()
    await bring_image(cribd)
    await run_with_secret(cribd)
    cribd.written()
    assert SECRET.encode() in b"".join(path.read_bytes() for path in cribd.data.glob("crib.db*"))
    assert read_as_nobody([*files_below(cribd.data), *files_below(cribd.state)]) == []
    await remove_all(cribd)


async def test_a_data_directory_that_was_open_is_closed_at_the_next_start(cribd: Cribd) -> None:
    cribd.data.mkdir(0o755)
    cribd.data.chmod(0o755)
    cribd.start()
    await bring_image(cribd)
    await run_with_secret(cribd)
    cribd.written()
    (cribd.data / "crib.db.broken-1").write_bytes(SECRET.encode())
    cribd.kill()
    cribd.data.chmod(0o755)
    databases = [*cribd.data.glob("crib.db*"), *cribd.data.glob("images.db*")]
    for path in databases:
        path.chmod(0o644)
    assert read_as_nobody([str(path) for path in databases]) != []
    cribd.start()
    assert f"data: {cribd.data} could be read by others, and no longer is" in cribd.log()
    files = [*files_below(cribd.data), *files_below(cribd.state)]
    assert SECRET.encode() in b"".join(path.read_bytes() for path in cribd.data.glob("crib.db*"))
    assert read_as_nobody(files) == []
    # Even where somebody opens the directory again, the records are not for all.
    cribd.data.chmod(0o755)
    assert read_as_nobody(files) == []
    await remove_all(cribd)


@pytest.mark.parametrize(
    ("key", "mode", "owner", "words"),
    [
        ("data", 0o777, 0, "others may write {path} (mode 777): look what is in it, then chmod go-w"),
        ("data", 0o700, NOBODY, "{path} belongs to user 65534, and must belong to 0"),
        ("state", 0o1777, 0, "others may write {path} (mode 1777)"),
    ],
)
def test_a_directory_that_others_may_have_filled_is_refused(
    key: str, mode: int, owner: int, words: str
) -> None:
    cribd = Cribd()
    path = getattr(cribd, key)
    path.mkdir()
    path.chmod(mode)
    os.chown(path, owner, -1)
    refused = cribd.run()
    shutil.rmtree(cribd.root)
    assert refused.returncode == 1
    assert f"cribd: {key}: {words.format(path=path)}" in refused.stderr


async def test_what_is_made_for_pods_is_open_to_their_users_whatever_the_umask(cribd: Cribd) -> None:
    with umask(0o077):
        cribd.start()
    await bring_image(cribd)
    made = cribd.root / "host" / "path"
    async with cribd.connect() as cri:
        pod = await cri.run_pod("open")
        config = cri.container_config(
            *("sleep", "600"),
            mounts=[pb.Mount(host_path=str(made), container_path="/deep/inside/volume")],
            working_dir="/work/here",
        )
        config.linux.security_context.run_as_user.value = NOBODY
        box = await pods.create_container(cri.connection, pod, config)
        await cri.start(box)
        shown = await cri.sh(
            box, "id -u && cat /etc/resolv.conf /etc/hosts /etc/hostname /sys/fs/cgroup/*/tasks"
        )
        assert shown.startswith(str(NOBODY))
        modes = await cri.sh(box, "cd /deep/inside/volume && stat -c '%a%n' / /work /work/here . && umask")
        assert modes.split() == ["755/", "755/work", "755/work/here", "755.", "0022"]
        await cri.remove_pod(pod)
    for path in (made.parent, made, cribd.logs / "open"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755, path
