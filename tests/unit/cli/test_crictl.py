"""crictl's names and its configuration files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crib.cli import checkpoints, crictl
from crib.cli.checkpoint_options import CheckpointOptions
from crib.cli.crictl_options import (
    CreateOptions,
    DocumentOptions,
    InspectiOptions,
    InspectpOptions,
    RunpOptions,
    UpdateRuntimeConfigOptions,
    VersionOptions,
)
from crib.cli.session import CliSession, CommandError
from crib.client.errors import NotOffered
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.cli.command_world import IMAGE, served
from tests.unit.client.fake_runtime import World

Output = pytest.CaptureFixture[str]
POD: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "test", "uid": "u1", "attempt": 1},
    "log_directory": "/tmp",
    "linux": {"security_context": {"namespace_options": {"network": 2}}},
    "port_mappings": [{"protocol": 0, "container_port": 80}],
}
CONTAINER: dict[str, Any] = {
    "metadata": {"name": "server"},
    "image": {"image": IMAGE},
    "command": ["sleep", "5"],
    "envs": [{"key": "A", "value": "grün"}],
    "log_path": "server.log",
    "linux": {"resources": {"memory_limit_in_bytes": 1048576}},
}


@pytest.fixture
def world() -> World:
    world = World()
    world.add_image(IMAGE)
    return world


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    async with served(world, tmp_path) as made:
        yield made


@pytest.fixture
def configs(tmp_path: Path) -> tuple[str, str]:
    """Of the pod as JSON, of the container as YAML."""
    pod, container = tmp_path / "pod.json", tmp_path / "container.yaml"
    pod.write_text(json.dumps(POD))
    container.write_text(
        "metadata: {name: server}\n"
        f"image: {{image: '{IMAGE}'}}\n"
        "command: [sleep, '5']\n"
        "envs: [{key: A, value: grün}]\n"
        "log_path: server.log\n"
        "linux: {resources: {memory_limit_in_bytes: 1048576}}\n"
    )
    return str(pod), str(container)


async def test_runp_and_create_take_crictls_files(
    session: CliSession, world: World, configs: tuple[str, str], capsys: Output
) -> None:
    pod, container = configs
    await crictl.runp(session, RunpOptions(pod))
    pod_id = capsys.readouterr().out.strip()
    made = world.configs[pod_id]
    assert (made.metadata.attempt, made.linux.security_context.namespace_options.network) == (1, cri.NODE)
    await crictl.create(session, CreateOptions(pod_id[:9], container, pod))
    container_id = capsys.readouterr().out.strip()
    config = world.container_configs[container_id]
    assert config.envs[0].value.decode() == "grün"
    assert config.linux.resources.memory_limit_in_bytes == 1 << 20
    assert world.containers[container_id].state == cri.CONTAINER_CREATED


async def test_run_takes_both_files_and_starts_the_container(
    session: CliSession, world: World, configs: tuple[str, str], capsys: Output
) -> None:
    pod, container = configs
    assert crictl.are_configs([container, pod])
    await crictl.run(session, container, pod)
    (status,) = world.containers.values()
    assert (capsys.readouterr().out.strip(), status.state) == (status.id, cri.CONTAINER_RUNNING)


def test_manifests_are_not_taken_for_configurations(tmp_path: Path, configs: tuple[str, str]) -> None:
    manifest = tmp_path / "pod.yaml"
    manifest.write_text("kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: b}\n")
    assert not crictl.are_configs([str(manifest), str(manifest)])
    assert not crictl.are_configs([configs[0]])
    assert not crictl.are_configs(["-", configs[0]])
    assert not crictl.are_configs([f"{tmp_path}/none", configs[0]])


async def test_a_pod_without_namespace_and_uid_gets_them(
    session: CliSession, world: World, tmp_path: Path, capsys: Output
) -> None:
    path = tmp_path / "pod.json"
    path.write_text('{"metadata": {"name": "web"}, "lunix": {}}')
    await crictl.runp(session, RunpOptions(str(path)))
    said = capsys.readouterr()
    metadata = world.configs[said.out.strip()].metadata
    assert metadata.namespace == "default"
    assert metadata.uid
    assert '"lunix"' in said.err
    assert said.err.endswith("It is passed over.\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "metadata.name is missing"),
        ("[]", "it is no PodSandboxConfig, but list"),
        ('{"metadata": {"name": 5}}', "pod.json: "),
        ("{", "is neither JSON nor YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pod.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=message):
        crictl.pod_config(str(path))


async def test_single_calls_are_shown_as_documents(
    session: CliSession, world: World, configs: tuple[str, str], capsys: Output
) -> None:
    await crictl.run(session, configs[1], configs[0])
    capsys.readouterr()
    await crictl.inspectp(session, InspectpOptions(["web"]))
    assert json.loads(capsys.readouterr().out)["status"]["metadata"]["name"] == "web"
    await crictl.inspecti(session, InspectiOptions([IMAGE, IMAGE]))
    assert [one["image"]["repoTags"] for one in json.loads(capsys.readouterr().out)] == [[IMAGE], [IMAGE]]
    await crictl.imagefsinfo(session, DocumentOptions())
    assert "imageFilesystems" in json.loads(capsys.readouterr().out)["status"]
    await crictl.version(session, VersionOptions())
    assert capsys.readouterr().out.splitlines()[1] == "RuntimeName:  fake"


async def test_what_a_runtime_does_not_have_is_told_in_its_words(
    session: CliSession, configs: tuple[str, str]
) -> None:
    await crictl.run(session, configs[1], configs[0])
    for work in (
        checkpoints.checkpoint(session, CheckpointOptions(["web"])),
        crictl.metricdescs(session, DocumentOptions()),
        crictl.update_runtime_config(session, UpdateRuntimeConfigOptions("10.0.0.0/24")),
    ):
        with pytest.raises(NotOffered):
            await work
