"""`crib cp`: which side is the pod's, standard streams, and what is left out."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import copy, options
from crib.cli.copy import CopySide, parse
from crib.cli.session import CliSession, CommandError
from tests.hostile_layers import symlink
from tests.images import Entry, directory, layer_tar
from tests.unit.cli.stream_pod import crib, serving
from tests.unit.client.fake_runtime import World
from tests.unit.client.tar_scripts import Unpacking, tar_that
from tests.unit.streaming.lab import Lab

Served = tuple[CliSession, World, Lab]
TREE = layer_tar([directory("./t"), Entry("./t/a", b"x"), Entry("./t/b", b"y" * 1000)])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


async def test_a_tree_comes_and_goes(served: Served, tmp_path: Path) -> None:
    session, _, lab = served
    lab.script = tar_that(TREE)
    await copy.copy(session, options.CopyOptions("default/web:/data/t", f"{tmp_path}/here", "box"))
    assert (tmp_path / "here/a").read_bytes() == b"x"
    lab.script = unpacking = Unpacking("/data")
    await copy.copy(session, options.CopyOptions(f"{tmp_path}/here", "web:/data"))
    assert unpacking.names() == ["/data", "here", "here/a", "here/b"]


async def test_a_dash_is_an_archive_on_a_standard_stream(served: Served) -> None:
    session, _, lab = served
    lab.script = tar_that(TREE)
    done = await crib(session, "cp", "web:/data/t", "-")
    assert (done.returncode, done.stdout) == (0, TREE)
    lab.script = unpacking = Unpacking()
    done = await crib(session, "cp", "-", "web:/data", stdin=TREE)
    assert done.returncode == 0
    assert (unpacking.where, unpacking.archive) == ("/data", TREE)


async def test_what_is_left_out_is_told_and_makes_the_end_1(served: Served, tmp_path: Path) -> None:
    session, _, lab = served
    lab.script = tar_that(
        layer_tar([Entry("t/pipe", kind=tarfile.FIFOTYPE), symlink("t/\x1b", "/etc"), Entry("t/good")])
    )
    done = await crib(session, "cp", "web:/t", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "crib: skipped: 't/pipe': a fifo",
        "crib: skipped: 't/\\x1b': a link that leads out of the copy, to '/etc'",
        "crib: 2 entries were skipped",
    ]
    assert (tmp_path / "t/good").exists()


async def test_a_copy_that_fails_is_told_in_tars_words_and_nothing_a_terminal_obeys(
    served: Served, tmp_path: Path
) -> None:
    session, _, lab = served
    lab.script = tar_that(TREE[:1000], 2, b"tar: \x1b[2Jcannot\nread")
    done = await crib(session, "cp", "web:/data/t", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == b"crib: tar in the container ended with 2: tar: ?[2Jcannot read\n"


async def test_more_than_is_allowed_is_not_taken(served: Served, tmp_path: Path) -> None:
    session, _, lab = served
    lab.script = tar_that(TREE)
    done = await crib(session, "cp", "--max-bytes", "500", "web:/data/t", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, b"crib: there is more to copy than 500 bytes\n")


async def test_a_source_that_is_not_there_is_told(served: Served, tmp_path: Path) -> None:
    session, _, lab = served
    lab.script = Unpacking()
    done = await crib(session, "cp", f"{tmp_path}/none", "web:/data")
    assert (done.returncode, done.stderr.decode()) == (
        1,
        f"crib: No such file or directory {tmp_path}/none\n",
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("web:/x", CopySide("web", "/x")),
        ("default/web:x", CopySide("default/web", "x")),
        ("web:a:b", CopySide("web", "a:b")),
        ("/x:y", CopySide("", "/x:y")),
        ("./x:y", CopySide("", "./x:y")),
        ("x", CopySide("", "x")),
        ("-", CopySide("", "-")),
    ],
)
def test_a_colon_makes_it_the_pods(text: str, place: CopySide) -> None:
    assert parse(text) == place


@pytest.mark.parametrize("text", ["web:", ":/x", ":"])
def test_half_a_place_is_wrong_usage(text: str) -> None:
    with pytest.raises(CommandError, match="is not POD:PATH"):
        parse(text)
