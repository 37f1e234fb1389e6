"""`crib rmi`, `crib images` and `crib prune`: which images and pods are meant, and what is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import app, image_listing, images, prune
from crib.cli.image_options import ImagePruneOptions, ImagesOptions, PruneOptions, RmiOptions
from crib.cli.session import CliSession, CommandError
from crib.client import ClientError
from crib.client.lookup import KUBELETS
from crib.client.workloads import keeping
from crib.stubs.node.v1.node_pb2 import KeptPod
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.cli.command_world import IMAGE, add_container, add_pod, served
from tests.unit.client.fake_runtime import World

HOUR = 3600 * 10**9


@pytest.fixture
def world() -> World:
    world = World()
    world.add_image(IMAGE)
    return world


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    async with served(world, tmp_path) as made:
        yield made


def names(world: World) -> list[str]:
    return [name for image in world.images.values() for name in image.repo_tags]


async def test_an_image_in_use_stays_and_its_users_are_named(session: CliSession, world: World) -> None:
    web = add_pod(world, "web")
    add_container(world, web, "server")
    add_container(world, web, "init", cri.CONTAINER_EXITED)
    with pytest.raises(ClientError) as refused:
        await images.remove(session, RmiOptions([IMAGE]))
    assert str(refused.value) == (
        f"image {IMAGE} is in use by default/web/server (running), default/web/init (exited); "
        "remove those first, or use --force"
    )
    assert names(world) == [IMAGE]
    await images.remove(session, RmiOptions([IMAGE], force=True))
    assert names(world) == []


async def test_an_image_volume_is_a_use_too(session: CliSession, world: World) -> None:
    data = world.add_image("localhost/data:1", 2)
    mount = cri.Mount(container_path="/data", image=cri.ImageSpec(image=data))
    add_container(world, add_pod(world, "web"), "server", mounts=[mount])
    with pytest.raises(ClientError, match="image localhost/data:1 is in use by default/web/server"):
        await images.remove(session, RmiOptions(["localhost/data:1"]))


async def test_rmi_all_takes_what_is_not_used_and_not_pinned(session: CliSession, world: World) -> None:
    world.add_image("localhost/old:1", 2)
    world.images[world.add_image("localhost/pause:1", 3)].pinned = True
    add_container(world, add_pod(world, "web"), "server")
    await images.remove(session, RmiOptions(prune=True))
    assert names(world) == [IMAGE, "localhost/pause:1"]
    with pytest.raises(CommandError, match="name the images to remove, or use --all"):
        await images.remove(session, RmiOptions())


async def test_image_prune_takes_images_without_a_name_unless_all_are_wanted(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = world.add_image("x", 2)
    del world.images[nameless].repo_tags[:]
    world.add_image("localhost/old:1", 3)
    add_container(world, add_pod(world, "web"), "server")
    await prune.prune_images(session, ImagePruneOptions(dry_run=True))
    assert capsys.readouterr().out == (
        "would remove image 000000000000 (without a name)\n1 thing, at most 1.4 MiB of images\n"
    )
    assert len(world.images) == 3
    world.used_bytes = [5 << 20, 2 << 20]
    await prune.prune_images(session, ImagePruneOptions())
    assert capsys.readouterr().out.endswith("freed 3.0 MiB\n")
    assert names(world) == [IMAGE, "localhost/old:1"]
    await prune.prune_images(session, ImagePruneOptions(every=True))
    assert names(world) == [IMAGE]


async def test_until_spares_what_came_here_later(session: CliSession, world: World) -> None:
    new, old = world.add_image("localhost/new:1", 2), world.add_image("localhost/old:1", 3)
    world.image_infos = {
        new: '{"record": {"created_at": 1800000000000000000}}',
        old: '{"imageSpec": {"created": "2020-01-01T00:00:00Z"}}',
    }
    limit = ImagePruneOptions(every=True, filters=["until=2021-01-01T00:00:00Z"])
    await prune.prune_images(session, limit)
    assert names(world) == [IMAGE, "localhost/new:1"]


async def test_prune_removes_pods_of_which_nothing_runs_and_replaced_attempts(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    web = add_pod(world, "web")
    first = add_container(world, web, "server", cri.CONTAINER_EXITED)
    second = add_container(world, web, "server", attempt=1)
    init = add_container(world, web, "init", cri.CONTAINER_EXITED)
    add_pod(world, "stopped", ready=False)
    add_container(world, add_pod(world, "job"), "work", cri.CONTAINER_EXITED)
    add_pod(world, "empty")
    theirs = add_pod(world, "theirs", ready=False, annotations={KUBELETS: "api"})
    await prune.prune(session, PruneOptions())
    assert {pod.metadata.name for pod in world.pods.values()} == {"web", "empty", "theirs"}
    assert set(world.containers) == {second, init}
    assert first not in world.containers
    assert theirs in world.pods
    said = capsys.readouterr()
    assert "removed container default/web/server" in said.out
    assert said.err == "left alone: 1 stopped pod of a kubelet\n"
    assert names(world) == [IMAGE]


async def test_pods_that_are_kept_up_stay_while_they_have_not_ended(
    session: CliSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[KeptPod] = []
    for name, phase in (("crashing", "Running"), ("stopped", "Stopped"), ("done", "Succeeded")):
        add_container(world, add_pod(world, name, ready=phase != "Stopped"), "main", cri.CONTAINER_EXITED)
        kept.append(KeptPod(uid=f"uid-{name}", name=name, phase=phase))

    async def all_kept(connection: object) -> list[KeptPod]:
        return kept

    async def forget(connection: object, uid: str) -> bool:
        return True

    monkeypatch.setattr(keeping, "all_kept", all_kept)
    monkeypatch.setattr(keeping, "forget", forget)
    await prune.prune(session, PruneOptions())
    assert {pod.metadata.name for pod in world.pods.values()} == {"crashing", "stopped"}


async def test_prune_all_takes_the_images_of_the_pods_that_go(session: CliSession, world: World) -> None:
    add_container(world, add_pod(world, "job", labels={"tier": "batch"}), "work", cri.CONTAINER_EXITED)
    await prune.prune(session, PruneOptions(every=True, filters=["label!=tier=batch"]))
    assert names(world) == [IMAGE]
    await prune.prune(session, PruneOptions(every=True, filters=["label=tier"]))
    assert (names(world), world.pods) == ([], {})


async def test_a_person_at_a_terminal_is_asked_first(
    session: CliSession,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Person:
        answer = "n\n"

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.answer

    person = Person()
    monkeypatch.setattr("sys.stdin", person)
    with pytest.raises(CommandError, match="nothing was removed"):
        await prune.prune_images(session, ImagePruneOptions(every=True))
    assert "Remove all of this? [y/N]" in capsys.readouterr().err
    assert names(world) == [IMAGE]
    person.answer = "y\n"
    await prune.prune_images(session, ImagePruneOptions(every=True))
    assert names(world) == []
    world.add_image(IMAGE)
    person.answer = "n\n"
    await prune.prune_images(session, ImagePruneOptions(every=True, yes=True))
    assert names(world) == []


@pytest.mark.parametrize(
    ("filters", "repository", "expected"),
    [
        (["dangling=true"], None, 0),
        (["dangling=false"], None, 2),
        (["reference=localhost/de*"], None, 1),
        (["reference=/busy.*1/"], None, 1),
        ([], "busybox", 1),
        ([], "busybox:2", 0),
        (["before=busybox:1.36"], None, 1),
        ([f"since={IMAGE}"], None, 1),
    ],
)
async def test_images_are_filtered(
    session: CliSession,
    world: World,
    capsys: pytest.CaptureFixture[str],
    filters: list[str],
    repository: str | None,
    expected: int,
) -> None:
    first = next(iter(world.images))
    second = world.add_image("docker.io/library/busybox:1.36", 2)
    world.images[second].repo_tags.append("busybox:1.36")
    world.image_infos = {
        first: '{"record": {"created_at": 1}}',
        second: '{"record": {"created_at": 2}}',
    }
    await image_listing.images(session, ImagesOptions(repository, filters=filters, quiet=True))
    assert len(capsys.readouterr().out.splitlines()) == expected


def test_a_filter_that_is_not_known_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending(["prune", "--filter", "size=3"]) == 2
    assert capsys.readouterr().err == "crib: --filter 'size=3' is not one of until=…, label=…, label!=…\n"
