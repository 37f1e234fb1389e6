"""Lifecycle hooks around the verbs: what they see, what they can refuse, and what they cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from crib.model.container import ContainerState
from crib.model.errors import Unavailable, WrongState
from crib.model.extension import VERBS, ContainerView, ImageView, PodView, Refused, View
from crib.model.image import SuspectImage
from crib.ports.extensions import HookFailed
from tests.fakes.world import IMAGE, World, order, pod_config

MOMENTS = frozenset(f"{when}_{verb}" for when in ("before", "after") for verb in VERBS)


@dataclass
class Recorder:
    """A hook that remembers, and does what it is told."""

    name: str = "recorder"
    moments: frozenset[str] = MOMENTS
    failure_refuses: bool = True
    seen: list[tuple[str, View]] = field(default_factory=list)
    answer: Callable[[str], Exception | None] = lambda moment: None

    async def call(self, moment: str, view: View) -> None:
        self.seen.append((moment, view))
        if (error := self.answer(moment)) is not None:
            raise error

    def told(self) -> list[str]:
        return [moment for moment, _ in self.seen]

    def view(self, moment: str) -> View:
        return next(view for found, view in self.seen if found == moment)


def failing(moment: str, error: Exception) -> Callable[[str], Exception | None]:
    return lambda asked: error if asked == moment else None


@pytest.fixture
def hook(world: World) -> Recorder:
    recorder = Recorder()
    world.hooks.append(recorder)
    return recorder


async def test_every_verb_of_a_life_is_told_before_and_after(world: World, hook: Recorder) -> None:
    await world.pulled()
    pod = await world.pod("web")
    container = await world.running(pod, "app")
    node = world.node
    await node.containers.stop(container, 0)
    await node.containers.remove(container)
    await node.sandboxes.stop(pod)
    await node.sandboxes.remove(pod)
    await node.images.remove(IMAGE)
    verbs = ["pull_image", "run_pod", "create_container", "start_container", "stop_container"]
    verbs += ["remove_container", "stop_pod", "remove_pod", "remove_image"]
    assert hook.told() == [f"{when}_{verb}" for verb in verbs for when in ("before", "after")]


async def test_views_are_frozen_and_say_what_it_is_about(world: World, hook: Recorder) -> None:
    await world.pulled()
    pod = await world.pod("web")
    container = await world.running(pod, "app")
    before, after = hook.view("before_run_pod"), hook.view("after_run_pod")
    assert isinstance(before, PodView)
    assert isinstance(after, PodView)
    assert (before.id, before.namespace, before.name, before.addresses) == (pod, "default", "web", ())
    assert after.addresses != ()
    with pytest.raises(FrozenInstanceError):
        before.name = "other"  # type: ignore[misc]  # that is what is tried
    with pytest.raises(TypeError):
        before.labels["team"] = "mine"  # type: ignore[index]  # as above
    made = hook.view("before_create_container")
    assert isinstance(made, ContainerView)
    assert (made.id, made.name, made.image, made.pod.name) == (container, "app", IMAGE, "web")
    image = hook.view("after_pull_image")
    assert isinstance(image, ImageView)
    assert (image.name, bool(image.id)) == (IMAGE, True)


async def test_a_refusal_reaches_the_caller_and_nothing_is_left(world: World, hook: Recorder) -> None:
    hook.answer = failing("before_run_pod", Refused("no team"))
    with pytest.raises(WrongState, match="hook recorder refuses it: no team"):
        await world.pod("web")
    assert list(world.node.sandboxes.list()) == []
    hook.answer = lambda moment: None
    assert await world.pod("web")


async def test_a_failure_refuses_or_is_logged_as_the_settings_say(world: World, hook: Recorder) -> None:
    hook.answer = failing("before_run_pod", HookFailed("it did not return within 2 s"))
    with pytest.raises(Unavailable, match="hook recorder failed in before_run_pod: it did not return"):
        await world.pod("web")
    (warning,) = world.node.notices.warnings
    assert (warning.subject, warning.is_fault) == ("hook recorder", False)
    hook.failure_refuses = False
    assert await world.pod("web")
    hook.answer = lambda moment: None
    await world.pod("other")
    assert world.node.notices.warnings == ()


@pytest.mark.parametrize("error", [Refused("stay"), HookFailed("ValueError: x")])
async def test_nothing_keeps_what_runs_from_being_stopped_and_removed(
    world: World, hook: Recorder, error: Exception
) -> None:
    await world.pulled()
    pod = await world.pod("web")
    container = await world.running(pod, "app")
    hook.answer = lambda moment: error
    await world.node.containers.stop(container, 0)
    assert world.node.containers.get(container).state is ContainerState.EXITED
    await world.node.containers.remove(container)
    await world.node.sandboxes.stop(pod)
    await world.node.sandboxes.remove(pod)
    await world.node.images.remove(IMAGE)
    assert list(world.node.sandboxes.list()) == []
    assert [notice.subject for notice in world.node.notices.warnings] == ["hook recorder"]


async def test_after_a_failed_verb_the_view_has_the_error(world: World, hook: Recorder) -> None:
    with pytest.raises(Exception, match="missing") as caught:
        await world.pull("docker.io/library/missing:1")
    assert hook.view("after_pull_image").error == str(caught.value)


async def test_a_hook_is_called_for_its_moments_only_and_shown_as_a_stage(
    world: World, hook: Recorder
) -> None:
    hook.moments = frozenset(("after_run_pod",))
    pod = await world.pod("web")
    assert hook.told() == ["after_run_pod"]
    stages = [(stage.name, stage.subject) for stage in world.node.timeline(pod).timeline.stages]
    assert ("hook recorder", "after_run_pod") in stages


@dataclass
class Judge:
    name: str
    answer: str

    async def problem(self, suspect: SuspectImage) -> str:
        return f"{self.answer} {suspect.reference}" if self.answer else ""


async def test_a_verifier_refuses_before_layers_are_fetched(world: World) -> None:
    world.verifiers += [Judge("first", ""), Judge("second", "we do not like")]
    world = await world.restarted()
    with pytest.raises(WrongState, match=f"image {IMAGE} is refused: we do not like {IMAGE}"):
        await world.pulled()
    _, policy = await world.node.images.explain(order(IMAGE))
    assert policy == "accept (no rule); verifiers: first, second"
    assert pod_config().metadata.name == "web"
