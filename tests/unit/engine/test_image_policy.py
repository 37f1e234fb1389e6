"""Which images the policy lets in, and lets run."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from crib.model.errors import SIGNATURE_VALIDATION_FAILED, WrongState
from crib.model.image import Signature
from crib.model.image_settings import ImagePolicy
from crib.model.settings import Settings
from tests.fakes.images import made_image
from tests.fakes.settings import image_settings
from tests.fakes.world import IMAGE, World, bounded, container_config, order, until

SIGNATURE = Signature(b"{}", "c2ln")
KEYS = ("/keys/a.pub",)
Govern = Callable[..., Awaitable[World]]
"""Makes a world with these rules and verifiers."""


@pytest.fixture
async def governed() -> AsyncIterator[Govern]:
    """Makes worlds with a policy."""
    async with AsyncExitStack() as ends:

        async def make(*rules: ImagePolicy, verifiers: tuple[str, ...] = ()) -> World:
            world = World(Settings(images=image_settings(policy=rules, verifiers=verifiers)))
            await world.start()
            ends.push_async_callback(world.close)
            return world

        yield make


async def refused(world: World, name: str) -> str:
    async with bounded():
        with pytest.raises(WrongState) as caught:
            await world.pull(name)
    assert caught.value.reason == SIGNATURE_VALIDATION_FAILED
    return caught.value.message


async def test_a_rejected_image_is_not_even_asked_for(governed: Govern) -> None:
    world = await governed(ImagePolicy("docker.io/*", "reject"))
    assert "docker.io/*" in await refused(world, IMAGE)
    assert world.images.orders == []


async def test_the_first_rule_that_fits_decides(governed: Govern) -> None:
    rules = (ImagePolicy("docker.io/library/*"), ImagePolicy("*", "reject"))
    world = await governed(*rules)
    await world.pull(IMAGE)
    world.images.publish("other.example/library/x:1", made_image("x"))
    await refused(world, "other.example/library/x:1")


async def test_a_star_spans_slashes_and_other_characters_stand_for_themselves(
    governed: Govern,
) -> None:
    world = await governed(ImagePolicy("reg.example/te[a]m/*", "reject"))
    world.images.publish("reg.example/team/deep/x:1", made_image("x"))
    await world.pull("reg.example/team/deep/x:1")


@pytest.mark.parametrize(
    ("match", "name"),
    [
        ("localhost:5902/*", "LocalHost:5902/a/b:1"),
        ("localhost:5902/*", "localhost:05902/a/b:1"),
        ("LocalHost:5902/*", "localhost:5902/a/b:1"),
        ("registry.example/*", "registry.example:443/a/b:1"),
        ("registry.example:443/*", "REGISTRY.example/a/b:1"),
        ("*.Example/a/*", "Registry.example:443/a/b:1"),
        ("*.example:443/*", "registry.example/a/b:1"),
        ("[::1]:5000/*", "[0::1]:5000/a/b:1"),
        ("docker.io/*", "Registry-1.Docker.io:443/a/b:1"),
        ("index.docker.io/*", "a/b:1"),
        ("registry.example:443*", "registry.example:443/a/b:1"),
        ("registry.example:0443*", "registry.example/a/b:1"),
        ("registry.example:*/*", "registry.example:443/a/b:1"),
        ("*.example:0443/*", "registry.example/a/b:1"),
        ("LocalHost:5902*", "localhost:5902/a/b:1"),
        ("localhost:80*", "localhost:80/a/b:1"),
        ("localhost:80*", "localhost:8080/a/b:1"),
        ("index.docker.io*", "a/b:1"),
        ("Index.Docker.io:*", "a/b:1"),
        ("[0:0::1]*", "[::1]:5000/a/b:1"),
        ("127.0.0.1:5902/*", "127.1:5902/a/b:1"),
        ("127.0.0.1:5902/*", "[::ffff:7f00:1]:5902/a/b:1"),
        ("127.0.0.1:5902/*", "0x7f000001:5902/a/b:1"),
        ("0177.0.0.1:*", "127.0.0.1:5902/a/b:1"),
    ],
)
async def test_no_rule_is_passed_by_another_spelling_of_the_registry(
    match: str, name: str, governed: Govern
) -> None:
    world = await governed(ImagePolicy(match, "reject"))
    await refused(world, name)
    assert world.images.orders == []


@pytest.mark.parametrize(
    ("match", "name"),
    [
        ("registry.example:443*", "registry.example:5000/a/b:1"),
        ("localhost:80*", "localhost:443/a/b:1"),
        ("127.1*", "127.0.0.1:5902/a/b:1"),
    ],
)
async def test_a_rule_for_some_ports_or_the_beginning_of_a_host_is_none_for_others(
    match: str, name: str, governed: Govern
) -> None:
    world = await governed(ImagePolicy(match, "reject"))
    world.images.publish(name, made_image("x"))
    await world.pull(name)


async def test_a_rule_that_requires_a_digest_refuses_tags_and_takes_digests(
    governed: Govern,
) -> None:
    world = await governed(ImagePolicy("*", "digest"))
    assert "requires a digest" in await refused(world, IMAGE)
    image = world.images.publish("pinned:1", made_image("pinned", "base"))
    record = await world.pull(f"pinned@{image.manifest_digest}")
    assert record.tags == ()


async def test_a_signed_image_is_verified_and_its_signatures_are_kept(governed: Govern) -> None:
    world = await governed(ImagePolicy("*", "signed", keys=KEYS))
    image = world.images.publish("ok:1", replace(made_image("ok", "base"), signatures=(SIGNATURE,)))
    record = await world.pull("ok:1")
    (suspect,) = world.images.suspects
    assert (suspect.keys, suspect.digest, suspect.signatures) == (KEYS, image.manifest_digest, (SIGNATURE,))
    assert record.signatures == (SIGNATURE,)
    assert [one.signatures for one in world.images.resolved] == [True]
    assert [one.reference.digest for one in world.images.orders] == [image.manifest_digest]
    assert record.tags == ("docker.io/library/ok:1",)


async def test_an_unsigned_image_is_refused_before_a_layer_is_fetched(governed: Govern) -> None:
    world = await governed(ImagePolicy("*", "signed", keys=KEYS))
    assert "no signature" in await refused(world, IMAGE)
    assert list(world.node.images.list()) == []
    assert world.images.orders == []


async def test_an_image_that_was_here_before_the_rule_is_not_run(governed: Govern) -> None:
    world = await governed(ImagePolicy("*", "signed", keys=KEYS))
    image = made_image("old", "base")
    world.images.layers |= {layer.diff_id for layer in image.layers}
    await world.node._catalogue.admit(image, [order("old:1").reference])
    pod = await world.pod()
    with pytest.raises(WrongState, match="no signature"):
        await world.node.containers.create(pod, container_config("app", image="old:1"))
    assert list(world.node.containers.list()) == []


async def test_the_name_that_the_user_gave_decides_at_create_and_else_any_name(
    governed: Govern,
) -> None:
    world = await governed(ImagePolicy("bad.example/*", "reject"))
    image = made_image("both", "base")
    world.images.layers |= {layer.diff_id for layer in image.layers}
    names = [order("good.example/x:1").reference, order("bad.example/x:1").reference]
    record = await world.node._catalogue.admit(image, names)
    pod = await world.pod()
    await world.node.containers.create(pod, container_config("by-id", image=record.id))
    with pytest.raises(WrongState, match="rejects"):
        await world.node.containers.create(pod, container_config("by-name", image="bad.example/x:1"))


async def test_verifier_programs_judge_every_pull(governed: Govern) -> None:
    world = await governed(verifiers=("/bin/judge",))
    world.images.verdicts[IMAGE] = "judge says no"
    assert "judge says no" in await refused(world, IMAGE)
    world.images.verdicts.clear()
    await world.pull(IMAGE)
    assert [suspect.programs for suspect in world.images.suspects] == [("/bin/judge",)] * 2


async def test_audit_only_logs(governed: Govern, caplog: pytest.LogCaptureFixture) -> None:
    world = await governed(ImagePolicy("*", "reject", audit=True))
    with caplog.at_level(logging.WARNING):
        await world.pull(IMAGE)
    assert "audit: image docker.io/library/busybox:latest is refused" in caplog.text


async def test_a_rejected_name_cannot_be_imported(governed: Govern) -> None:
    world = await governed(ImagePolicy("bad.example/*", "reject"))
    world.images.archives["/tmp/a.tar"] = (replace(made_image("a", "l"), names=("bad.example/a:1",)),)
    with pytest.raises(WrongState, match="rejects"):
        async for _ in world.node.images.import_archive("/tmp/a.tar", []):
            pass
    assert list(world.node.images.list()) == []
    await until(lambda: not world.images.layers)


async def test_what_the_policy_says_is_told(governed: Govern) -> None:
    rules = (ImagePolicy("docker.io/*", "signed", keys=KEYS, audit=True),)
    world = await governed(*rules, verifiers=("/bin/judge",))
    hosts, text = await world.node.images.explain(order(IMAGE))
    assert [host.repository for host in hosts] == ["library/busybox"]
    for word in ("signed", "docker.io/*", "/keys/a.pub", "audit", "/bin/judge"):
        assert word in text
