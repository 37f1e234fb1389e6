"""Handlers by their kind: which class opens each, and what becomes of those that cannot be used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from crib.backends import handlers
from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.handler_notes import noted_handlers, write_handler_note
from crib.backends.handlers import check_kinds, closed_handlers, open_handlers
from crib.model.docker_settings import DockerSettings
from crib.model.errors import Broken
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import HandlerSettings, Settings
from crib.model.shim_settings import ShimSettings
from crib.ports.handler import Handler
from tests.unit.ocispec.inputs_for_tests import HOST

NO_LAYERS = cast(SharedLayers, None)


@dataclass
class Opened:
    """Stands for a handler."""

    opening: HandlerOpening
    problem: str = ""


class Kind:
    """Opens all but those of a handler named `bad`."""

    async def open(self, opening: HandlerOpening) -> Handler:
        if opening.name == "bad":
            raise Broken("no such machine")
        return cast(Handler, Opened(opening))

    def closed(self, opening: HandlerOpening, problem: str) -> Handler:
        return cast(Handler, Opened(opening, problem))


def node(default: str, **kinds: str) -> Settings:
    return Settings(
        handlers={name: HandlerSettings(kind=kind) for name, kind in kinds.items()}, default_handler=default
    )


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setitem(handlers.KINDS, "hyper", Kind())
    return Paths(f"{tmp_path}/data", f"{tmp_path}/state")


async def opened(settings: Settings, paths: Paths, *, to_run: bool = True) -> dict[str, Opened]:
    found = await open_handlers(settings, paths, HOST, NO_LAYERS, to_run=to_run)
    return {name: cast(Opened, handler) for name, handler in found.items()}


async def test_each_handler_is_opened_by_its_kind_and_the_default_one_looks_after_others(
    paths: Paths,
) -> None:
    found = await opened(node("one", one="hyper", two="hyper"), paths)
    assert {name: handler.opening.options.kind for name, handler in found.items()} == {
        "one": "hyper",
        "two": "hyper",
    }
    assert found["one"].opening.others == frozenset({"two"})
    assert found["two"].opening.others is None


async def test_a_handler_that_cannot_be_opened_is_closed_and_an_error_only_where_pods_need_it(
    paths: Paths,
) -> None:
    found = await opened(node("good", good="hyper", bad="hyper"), paths)
    assert {name: handler.problem for name, handler in found.items()} == {
        "good": "",
        "bad": "no such machine",
    }
    with pytest.raises(Broken, match="no such machine"):
        await opened(node("bad", bad="hyper"), paths)
    assert (await opened(node("bad", bad="hyper"), paths, to_run=False))["bad"].problem == "no such machine"


@pytest.mark.usefixtures("paths")
def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    check_kinds(node("crun", crun="oci", slow="hyper"))
    kinds = r"\(there is: 'docker', 'hyper', 'oci', 'shim', 'vm'\)"
    text = rf"handlers\.fast\.kind is 'microvm', .* {kinds}"
    with pytest.raises(Broken, match=text):
        check_kinds(node("crun", crun="oci", fast="microvm"))


async def test_a_wipe_has_each_handler_closed(paths: Paths) -> None:
    found = closed_handlers(node("one", one="hyper", bad="hyper"), paths, HOST, NO_LAYERS)
    assert {cast(Opened, handler).problem for handler in found.values()} == {"it only removes"}


def test_an_oci_handler_says_its_kind_also_when_it_is_closed(paths: Paths) -> None:
    found = closed_handlers(node("crun", crun="oci"), paths, HOST, NO_LAYERS)
    assert found[HandlerName("crun")].facts.kind == "oci"


def test_a_closed_handler_of_shims_knows_how_its_pods_must_be_ended(paths: Paths) -> None:
    shim = HandlerSettings(kind="shim", shim=ShimSettings(runtime="io.containerd.kata.v2"))
    settings = Settings(handlers={"kata": shim}, default_handler="kata")
    check_kinds(settings)
    facts = closed_handlers(settings, paths, HOST, NO_LAYERS)[HandlerName("kata")].facts
    assert (facts.own_kernel, facts.sandbox_container, facts.statistics) == (True, True, "runtime")


async def test_an_engines_handler_that_was_taken_out_is_opened_by_its_note(paths: Paths) -> None:
    noted = HandlerSettings(
        kind="docker", docker=DockerSettings(socket=f"{paths.state}/none.sock", log_files=9)
    )
    write_handler_note(paths, "gone", noted)
    gone = (await open_handlers(node("one", one="hyper"), paths, HOST, NO_LAYERS))[HandlerName("gone")]
    try:
        assert (gone.facts.kind, gone.facts.retired) == ("docker", True)
        assert noted_handlers(paths)["gone"] == noted
        assert "no longer configured" in (await gone.readiness()).message
        await gone.sweep(lambda: ())
        assert "gone" in noted_handlers(paths), "nobody knows what an Engine that is away has"
    finally:
        await gone.close()


async def test_a_handler_of_shims_that_was_taken_out_is_opened_by_its_note(paths: Paths) -> None:
    options: dict[str, Any] = {"ConfigPath": "/etc/kata.toml", "Debug": True}
    shim = ShimSettings(runtime="/opt/kata/containerd-shim-kata-v2", options=options, sandbox_service="never")
    noted = HandlerSettings(kind="shim", sandbox_container="never", shim=shim)
    os.makedirs(paths.shims)
    write_handler_note(paths, "gone", noted)
    write_handler_note(paths, "one", noted)
    Path(f"{paths.shims}/torn.json").write_text("{")
    found = await open_handlers(node("one", one="hyper"), paths, HOST, NO_LAYERS)
    one, gone = cast(Opened, found[HandlerName("one")]), found[HandlerName("gone")]
    try:
        assert set(found) == {"one", "gone"}
        assert one.opening.others == frozenset({"gone"})
        assert one.opening.options.kind == "hyper", "what is configured counts"
        assert gone.facts.retired
        assert (gone.facts.own_kernel, gone.facts.sandbox_container) == (True, False)
        assert gone.facts.program == "/opt/kata/containerd-shim-kata-v2"
        assert noted_handlers(paths)["gone"] == noted
        assert not (await gone.readiness()).ready
        await gone.sweep(lambda: ())
        assert "gone" not in noted_handlers(paths)
    finally:
        await gone.close()
