"""`crib network`: what the commands ask for, what they write, and how they end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import app, network
from crib.cli.forms import Format
from crib.cli.options import (
    NetworkCheckOptions,
    NetworkGcOptions,
    NetworkInspectOptions,
    NetworkListOptions,
)
from crib.cli.session import CliSession
from crib.client.errors import Ambiguous, NotFound, NotOffered, WrongState
from crib.stubs.node.v1 import node_pb2 as node
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_networks import NetworkWorld, serve_networks
from tests.unit.client.fake_runtime import World, serve

WEB, DATABASE = "aa01" + "0" * 60, "aa02" + "0" * 60


@pytest.fixture
def world() -> NetworkWorld:
    world = NetworkWorld()
    for pod_id, name in ((WEB, "web"), (DATABASE, "database")):
        metadata = cri.PodSandboxMetadata(name=name, namespace="default", uid=name)
        world.pods[pod_id] = cri.PodSandbox(id=pod_id, metadata=metadata)
    world.networks = [
        node.Network(
            name="crib0",
            kind="bridge",
            interface="eth0",
            attached=2,
            subnets=["10.0.0.0/16", "fd00::/64"],
        ),
        node.Network(name="other", kind="cni", problem="no plugin \x1b[31mx"),
    ]
    world.views[WEB] = node.InspectPodNetworkResponse(
        pod_sandbox_id=WEB,
        pod="default/web",
        networks=["crib0"],
        network_interfaces=["eth0"],
        netns="/run/netns",
        interfaces=[node.PodInterface(name="eth0", up=True, addresses=["10.0.0.7/16"], host_interface="v0")],
    )
    return world


@pytest.fixture
async def session(world: NetworkWorld, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve_networks(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


async def test_networks_are_listed_as_columns_or_documents(
    session: CliSession, world: NetworkWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    await network.list_networks(session, NetworkListOptions())
    assert capsys.readouterr().out.splitlines() == [
        "NETWORK   KIND     INTERFACE   SUBNETS                  PODS   PROBLEM",
        "crib0     bridge   eth0        10.0.0.0/16, fd00::/64   2      -",
        "other     cni      -           -                        0      no plugin ?[31mx",
    ]
    await network.list_networks(session, NetworkListOptions(Format.JSON))
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["attached"], first["subnets"]) == ("crib0", 2, ["10.0.0.0/16", "fd00::/64"])
    assert second["problem"] == "no plugin \x1b[31mx"


@pytest.mark.parametrize("name", ["web", "default/web", "aa01"])
async def test_a_pods_network_is_drawn_by_name_or_id(
    session: CliSession, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    await network.inspect(session, NetworkInspectOptions(name))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("┌─ pod default/web (aa0100000000) ─")
    assert "  ✗ v0 on the host, a port of no bridge" in lines


async def test_a_pods_network_is_a_document_too(
    session: CliSession, world: NetworkWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    await network.inspect(session, NetworkInspectOptions("web", Format.JSON))
    found = json.loads(capsys.readouterr().out)
    assert found["interfaces"][0]["addresses"] == ["10.0.0.7/16"]
    assert found["hostNetwork"] is False
    await network.inspect(session, NetworkInspectOptions("web", Format.YAML))
    assert "\nnetns: /run/netns\n" in capsys.readouterr().out


async def test_names_that_fit_no_pod_or_several_are_refused(session: CliSession) -> None:
    with pytest.raises(NotFound, match="there is no pod 'nosuch'"):
        await network.inspect(session, NetworkInspectOptions("nosuch"))
    with pytest.raises(Ambiguous, match="more than one pod"):
        await network.check(session, NetworkCheckOptions(["aa0"]))


async def test_a_check_writes_a_line_for_each_pod_and_fails_while_a_problem_remains(
    session: CliSession, world: NetworkWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.found = [
        node.NetworkCheck(pod_sandbox_id=WEB, pod="default/web"),
        node.NetworkCheck(pod_sandbox_id=DATABASE, pod="default/database", problem="eth0 is \x1bdown"),
    ]
    assert await network.check(session, NetworkCheckOptions()) == 1
    assert capsys.readouterr().out.splitlines() == [
        "aa0100000000  default/web  ok",
        "aa0200000000  default/database  damaged: eth0 is ?down",
    ]
    world.found[1].repair_error = "no address is free"
    assert await network.check(session, NetworkCheckOptions(["database"], repair=True)) == 1
    assert capsys.readouterr().out.splitlines()[1].endswith("; not repaired: no address is free")
    world.found[1].repaired, world.found[1].repair_error = True, ""
    assert await network.check(session, NetworkCheckOptions(["web", "aa02"], repair=True)) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("database  repaired: eth0 is ?down")
    asked = [(list(request.pod_sandbox_ids), request.repair) for request in world.check_networks]
    assert asked == [([], False), ([DATABASE], True), ([WEB, DATABASE], True)]


async def test_a_check_as_a_document_ends_the_same(
    session: CliSession, world: NetworkWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.found = [node.NetworkCheck(pod_sandbox_id=WEB, pod="default/web", problem="torn")]
    assert await network.check(session, NetworkCheckOptions(output=Format.JSON)) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["podSandboxId"], found["problem"], found["repaired"]) == (WEB, "torn", False)
    world.found = []
    assert await network.check(session, NetworkCheckOptions(output=Format.JSON)) == 0
    assert capsys.readouterr().out == "[]\n"


async def test_a_check_of_no_pod_says_so(session: CliSession, capsys: pytest.CaptureFixture[str]) -> None:
    assert await network.check(session, NetworkCheckOptions()) == 0
    assert capsys.readouterr() == ("", "no ready pod has a network of its own\n")


async def test_what_was_released_is_told(
    session: CliSession, world: NetworkWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    await network.collect(session, NetworkGcOptions())
    assert capsys.readouterr() == ("", "nothing to release\n")
    world.released = ["address 10.0.0.9 of pod 0001", "interface crib\x1b"]
    await network.collect(session, NetworkGcOptions(everything=True))
    assert capsys.readouterr().out.splitlines() == [
        "released address 10.0.0.9 of pod 0001",
        "released interface crib?",
    ]
    assert world.everything == [False, True]


async def test_the_bridge_is_removed_when_no_pod_is_attached(
    session: CliSession, world: NetworkWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pods_attached = 2
    with pytest.raises(WrongState, match="2 pods are attached"):
        await network.remove(session)
    assert capsys.readouterr().out == ""
    world.pods_attached = 0
    await network.remove(session)
    assert capsys.readouterr().out == "removed the built-in bridge and its rules\n"


async def test_another_runtime_does_not_offer_them(tmp_path: Path, world: NetworkWorld) -> None:
    other = World(pods=world.pods)
    server = await serve(f"{tmp_path}/s", other, node=False)
    session = CliSession(f"unix://{tmp_path}/s")
    for work in (
        network.list_networks(session, NetworkListOptions()),
        network.inspect(session, NetworkInspectOptions("web")),
        network.check(session, NetworkCheckOptions()),
        network.collect(session, NetworkGcOptions()),
        network.remove(session),
    ):
        with pytest.raises(NotOffered, match="does not offer"):
            await work
    await server.stop(None)


@pytest.mark.parametrize(
    "words", [["list"], ["inspect", "web"], ["check", "web", "--repair"], ["gc", "--all"], ["remove"]]
)
def test_the_commands_are_there_and_say_in_one_line_that_nobody_answers(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending(["--endpoint", f"{tmp_path}/none", "network", *words]) == 1
    expected = (
        f"crib: no runtime answers at unix://{tmp_path}/none: "
        "no such socket; is cribd running? (--endpoint, CRIB_ENDPOINT)\n"
    )
    assert capsys.readouterr().err == expected


def test_the_help_of_gc_tells_what_all_may_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending(["network", "gc", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "another runtime may hold" in text
    assert "would lose them" in text
