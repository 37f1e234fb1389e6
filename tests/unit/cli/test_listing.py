"""`crib ps` and `crib pods`: which ones a list has, and what it shows of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crib.cli import app, listing, watching
from crib.cli.forms import Format
from crib.cli.listing_options import PodsOptions, PsOptions
from crib.cli.session import CliSession, CommandError
from crib.manifest.plan import INIT_CONTAINER
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.cli.command_world import IMAGE, add_container, add_pod, served
from tests.unit.client.fake_runtime import World

Output = pytest.CaptureFixture[str]


@pytest.fixture
def world() -> World:
    """Pod `web` with an init container that has finished, a restarted server and an exited job; pod `db`."""
    world = World()
    world.add_image(IMAGE)
    world.add_image("docker.io/library/redis:7", 2)
    web = add_pod(world, "web", labels={"app": "shop", "tier": "front"})
    add_container(world, web, "init", cri.CONTAINER_EXITED, annotations={INIT_CONTAINER: "true"})
    add_container(world, web, "server", cri.CONTAINER_EXITED)
    add_container(world, web, "server", attempt=1, labels={"part": "server"})
    add_container(world, web, "job", cri.CONTAINER_EXITED)
    db = add_pod(world, "db", "data", labels={"app": "shop"})
    add_container(world, db, "redis", image="docker.io/library/redis:7")
    add_pod(world, "old", ready=False)
    return world


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    async with served(world, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["data/db/redis", "default/web/server"]),
        (
            {"every": True},
            [
                "data/db/redis",
                "default/web/job",
                "default/web/server",
                "default/web/server",
                "default/web/init",
            ],
        ),
        ({"pod": "db"}, ["data/db/redis"]),
        ({"of_pod": "web"}, ["default/web/server"]),
        ({"namespace": "data"}, ["data/db/redis"]),
        ({"state": "exited", "name": "^(job|init)$"}, ["default/web/job", "default/web/init"]),
        ({"state": "CONTAINER_CREATED"}, []),
        ({"selectors": ["app=shop,part=server"]}, ["default/web/server"]),
        ({"image": "redis:7"}, ["data/db/redis"]),
        ({"image": IMAGE}, ["default/web/server"]),
        ({"latest": True}, ["data/db/redis"]),
        ({"last": 2}, ["data/db/redis", "default/web/job"]),
        ({"filters": ["status=exited", "name=job"]}, ["default/web/job"]),
        ({"filters": ["ancestor=redis:7"]}, ["data/db/redis"]),
        ({"filters": ["label=tier"]}, ["default/web/server"]),
    ],
)
async def test_containers_are_filtered(
    session: CliSession, capsys: Output, options: dict[str, Any], expected: list[str]
) -> None:
    await listing.containers(session, PsOptions(output=Format.NAME, **options))
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["default/old", "data/db", "default/web"]),
        ({"state": "ready"}, ["data/db", "default/web"]),
        ({"state": "NotReady"}, ["default/old"]),
        ({"selectors": ["app=shop,!tier"]}, ["data/db"]),
        ({"selectors": ["app", "tier=front"]}, ["default/web"]),
        ({"name": "^d"}, ["data/db"]),
        ({"last": 2}, ["default/old", "data/db"]),
        ({"latest": True}, ["default/old"]),
        ({"filters": ["label=tier"]}, ["default/web"]),
        ({"id": "00000007"}, ["data/db"]),
    ],
)
async def test_pods_are_filtered(
    session: CliSession, world: World, capsys: Output, options: dict[str, Any], expected: list[str]
) -> None:
    if "id" in options:
        options["id"] = next(pod.id for pod in world.pods.values() if pod.metadata.name == "db")[:8]
    await listing.pods(session, PodsOptions(output=Format.NAME, **options))
    assert capsys.readouterr().out.splitlines() == expected


async def test_finished_init_containers_and_earlier_attempts_are_not_counted(
    session: CliSession, capsys: Output
) -> None:
    await listing.pods(session, PodsOptions(name="web"))
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[2:6] == ["web", "Ready", "1/2", "1"]
    await listing.containers(session, PsOptions(name="server"))
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[2:5] == ["server", "Running", "1"]


async def test_ids_are_whole_if_they_are_wanted_so(session: CliSession, world: World, capsys: Output) -> None:
    await listing.pods(session, PodsOptions(name="web", no_trunc=True))
    assert capsys.readouterr().out.splitlines()[1].split()[0] in world.pods
    await listing.containers(session, PsOptions(name="redis", no_trunc=True))
    assert capsys.readouterr().out.splitlines()[1].split()[0] in world.containers
    await listing.containers(session, PsOptions(name="redis", quiet=True))
    assert capsys.readouterr().out.strip() in world.containers


async def test_a_state_or_pattern_that_is_none_is_wrong_usage(session: CliSession) -> None:
    with pytest.raises(CommandError, match="--state 'paused' is not one of created, running, exited"):
        await listing.containers(session, PsOptions(state="paused"))
    with pytest.raises(CommandError, match=r"--name '\[' is no regular expression"):
        await listing.pods(session, PodsOptions(name="["))


def test_the_short_options_are_those_of_kubectl(tmp_path: Path, capsys: Output) -> None:
    for command in ("ps", "pods"):
        assert app._ending([command, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "what crictl and docker call -l is --latest" in text


async def test_a_watched_list_is_shown_again_when_it_has_changed(
    world: World, session: CliSession, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def pause() -> None:
        """Nothing, then a new pod, then Ctrl-C."""
        nonlocal looks
        looks += 1
        if looks == 2:
            add_pod(world, "new")
        elif looks == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(watching, "_pause", pause)
    with pytest.raises(asyncio.CancelledError):
        await listing.pods(session, PodsOptions(output=Format.NAME, watch=True))
    said = capsys.readouterr().out.split()
    assert len(said) == 3 + 4
    assert said[3:].count("default/new") == 1
