"""`crib explain`: which requests it makes, and how a spec with its origins is shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import explain
from crib.cli.explain import origin_of, rows
from crib.cli.forms import Format
from crib.cli.options import ExplainSpecOptions
from crib.cli.session import CliSession, CommandError
from crib.client import pods
from crib.client.errors import Ambiguous, NotFound, NotOffered, PodFailure
from crib.stubs.node.v1.node_pb2 import ExplainContainerResponse
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.unit.client.fake_runtime import World, serve

SPEC = {
    "ociVersion": "1.0.2",
    "process": {
        "args": ["sleep", "1"],
        "user": {"uid": 5, "gid": 0},
        "env": ["A=\x1b[31m", "B=b b"],
        "oomScoreAdj": 0,
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "options": ["nosuid", "ro"]},
        {"destination": "/data", "type": "bind", "source": "/x"},
    ],
    "annotations": {"a/b": "c"},
}
ORIGINS = {
    "": "default",
    "/process/args": "container command",
    "/process/args/1": "container args",
    "/process/user/uid": "image USER",
    "/mounts/0/options/1": "container readonly",
    "/mounts/1": "container mounts[0]",
    "/annotations/a~1b": "pod annotations[a/b]",
}
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  initContainers: [{name: first, image: "reg/a:1"}]
  containers: [{name: main, image: "reg/a:1"}, {name: other, image: "reg/b:1", imagePullPolicy: Always}]
"""


@pytest.fixture
def world() -> World:
    world = World()
    world.explained_container = ExplainContainerResponse(
        spec=json.dumps(SPEC), origins=ORIGINS, handler="crun", container_id="0" * 64
    )
    return world


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    return str(tmp_path / "web.yaml")


async def run_pod(session: CliSession, name: str, *containers: str, uid: str = "") -> pods.Pod:
    async with session.connect() as connection:
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, namespace="default", uid=uid or name)
        )
        configs = [
            pb.ContainerConfig(metadata=pb.ContainerMetadata(name=container)) for container in containers
        ]
        return await pods.run(connection, config, configs)


def test_rows_put_together_what_has_the_same_origin() -> None:
    found = rows(SPEC, ORIGINS)
    assert found == [
        ("ociVersion", "1.0.2", "default"),
        ("process.args", "sleep", "container command"),
        ("process.args", "1", "container args"),
        ("process.user.uid", "5", "image USER"),
        ("process.user.gid", "0", "default"),
        ("process.env", 'A=\x1b[31m "B=b b"', "default"),
        ("process.oomScoreAdj", "0", "default"),
        ("mounts[/proc]", "type=proc", "default"),
        ("mounts[/proc].options", "nosuid", "default"),
        ("mounts[/proc].options", "ro", "container readonly"),
        ("mounts[/data]", "type=bind source=/x", "container mounts[0]"),
        ("annotations.a/b", "c", "pod annotations[a/b]"),
    ]


def test_the_longest_pointer_names_the_origin_and_long_values_are_cut() -> None:
    assert origin_of("/process/args/1", ORIGINS) == "container args"
    assert origin_of("/process/args/0/x", ORIGINS) == "container command"
    assert origin_of("/nothing", {}) == ""
    assert rows({"linux": {"x": {}}}, {"": "default"}) == [("linux.x", "{}", "default")]
    (row,) = rows({"linux": {"maskedPaths": ["/proc/kcore"] * 50}}, {"": "default"})
    assert len(row[1]) == 72
    assert row[1].endswith(" …")


async def test_every_container_of_a_manifest_is_asked_for_as_it_would_be_made(
    session: CliSession, world: World, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = world.add_image("reg/a:1"), world.add_image("reg/b:1", 2, uid=7)
    await explain.explain(session, ExplainSpecOptions(manifest, output=Format.JSON))
    told = json.loads(capsys.readouterr().out)
    assert [(item["pod"], item["container"], item["containerId"]) for item in told] == [
        ("default/web", "first", ""),
        ("default/web", "main", ""),
        ("default/web", "other", ""),
    ]
    assert told[0]["spec"] == SPEC
    assert told[0]["origins"] == ORIGINS
    asked = world.explain_requests
    assert [request.config.image.image for request in asked] == [first, first, other]
    assert asked[2].config.linux.security_context.run_as_user.value == 7
    assert asked[2].sandbox_config.metadata.name == "web"
    assert world.pull_requests == []
    assert world.pods == {}


async def test_one_container_is_shown_as_a_table_without_control_characters(
    session: CliSession, world: World, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.add_image("reg/a:1")
    world.add_image("reg/b:1", 2)
    await explain.explain(session, ExplainSpecOptions(manifest, "main"))
    said = capsys.readouterr().out
    assert said.startswith("container main of pod default/web (not made), handler crun\nFIELD ")
    assert "\x1b" not in said
    with pytest.raises(CommandError, match="has no container 'nosuch'"):
        await explain.explain(session, ExplainSpecOptions(manifest, "nosuch"))


async def test_an_image_that_is_not_here_is_named_and_not_pulled(
    session: CliSession, world: World, manifest: str
) -> None:
    world.add_image("reg/a:1")
    with pytest.raises(PodFailure, match=r"container other: image reg/b:1 is not on this node"):
        await explain.explain(session, ExplainSpecOptions(manifest))
    assert world.progress_requests == []


async def test_a_pods_containers_or_one_of_them_are_asked_for_by_id(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = await run_pod(session, "web", "one", "two")
    await run_pod(session, "bare")
    await explain.explain(session, ExplainSpecOptions("web", output=Format.YAML))
    await explain.explain(session, ExplainSpecOptions("web", "two"))
    await explain.explain(session, ExplainSpecOptions(pod.containers["one"]))
    one, two = pod.containers["one"], pod.containers["two"]
    assert [request.container_id for request in world.explain_requests] == [one, two, two, one]
    with pytest.raises(NotFound, match="has no containers"):
        await explain.explain(session, ExplainSpecOptions("bare"))
    with pytest.raises(NotFound, match="nosuch"):
        await explain.explain(session, ExplainSpecOptions("nosuch"))
    await run_pod(session, "web", "one", uid="another")
    with pytest.raises(Ambiguous):
        await explain.explain(session, ExplainSpecOptions("web"))


async def test_another_runtime_does_not_offer_it(world: World, tmp_path: Path, manifest: str) -> None:
    world.add_image("reg/a:1")
    world.add_image("reg/b:1", 2)
    server = await serve(f"{tmp_path}/other", world, node=False)
    with pytest.raises(NotOffered):
        await explain.explain(CliSession(f"unix://{tmp_path}/other"), ExplainSpecOptions(manifest))
    await server.stop(None)


async def test_an_address_that_is_not_known_yet_is_shown_as_one(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    world.add_image("reg/a:1")
    path = tmp_path / "ip.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: ip}\nspec: {containers: [{name: a, image: 'reg/a:1', "
        "env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, "
        "{name: C, valueFrom: {configMapKeyRef: {name: c, key: d}}}]}]}\n"
    )
    other = tmp_path / "data.yaml"
    other.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {d: red}\n")
    await explain.explain(session, ExplainSpecOptions(str(path), extra=[str(other)]))
    (request,) = world.explain_requests
    assert [env.value for env in request.config.envs] == [b"<pod-ip>", b"red"]
