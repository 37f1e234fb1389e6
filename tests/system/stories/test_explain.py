"""`crib explain` over the real socket: what it says is what a creation writes, and it makes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.client.errors import InvalidRequest, NotFound
from crib.client.node import explain_container, explain_plan
from crib.client.pods import run_sandbox
from crib.stubs.node.v1.node_pb2 import ExplainContainerResponse
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import IMAGE, Cri, Cribd, crib, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

ZEROS = "0" * 64
SOURCE = Path(__file__).resolve().parents[3] / "src"
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: told}
spec:
  containers:
    - name: main
      image: busybox:test
      command: [sleep]
      args: ["100"]
      env: [{name: GREETING, value: hello}]
      resources: {limits: {cpu: 500m}}
      securityContext: {capabilities: {add: [NET_ADMIN]}, runAsUser: 1000}
      volumeMounts: [{name: cache, mountPath: /cache, readOnly: true}]
    - name: second
      image: busybox:test
      command: [sleep, "100"]
  volumes: [{name: cache, emptyDir: {}}]
"""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def written(cribd: Cribd, container: str) -> dict[str, Any]:
    """The config.json that the runtime was given."""
    document: dict[str, Any] = json.loads(
        (cribd.state / "containers" / container / "config.json").read_text()
    )
    return document


def configs() -> list[pb.ContainerConfig]:
    """Requests of every kind, but for what one has to have on the host."""
    context = pb.LinuxContainerSecurityContext
    options = pb.NamespaceOption(pid=pb.CONTAINER)
    return [
        pb.ContainerConfig(
            command=["sleep", "1"],
            linux=pb.LinuxContainerConfig(security_context=context(namespace_options=options)),
        ),
        pb.ContainerConfig(
            command=["sleep"],
            args=["1"],
            working_dir="/work",
            envs=[pb.KeyValue(key="A", value=b"1")],
            tty=True,
            mounts=[pb.Mount(container_path="/etc/hosts", host_path="/etc/hosts", readonly=True)],
            devices=[pb.Device(container_path="/dev/mine", host_path="/dev/null", permissions="rw")],
            annotations={"a": "b"},
            linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(cpu_shares=100, memory_limit_in_bytes=64 << 20),
                security_context=context(
                    namespace_options=options,
                    capabilities=pb.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["MKNOD"]),
                    seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
                    run_as_user=pb.Int64Value(value=1000),
                    supplemental_groups=[7],
                    readonly_rootfs=True,
                    no_new_privs=True,
                    masked_paths=["/proc/kcore"],
                    readonly_paths=["/proc/sys"],
                ),
            ),
        ),
        pb.ContainerConfig(
            command=["sleep", "1"],
            linux=pb.LinuxContainerConfig(
                security_context=context(namespace_options=options, privileged=True)
            ),
        ),
        pb.ContainerConfig(
            command=["sleep", "1"],
            mounts=[
                pb.Mount(
                    container_path="/model",
                    image=pb.ImageSpec(image=IMAGE),
                    image_sub_path="etc",
                    readonly=True,
                )
            ],
            linux=pb.LinuxContainerConfig(security_context=context(namespace_options=options)),
        ),
    ]


@pytest.mark.parametrize("number", range(4))
async def test_a_plan_is_explained_as_it_is_then_written(cri: Cri, cribd: Cribd, number: int) -> None:
    wanted = cri.pod_config("told")
    wanted.linux.security_context.privileged = number == 2
    pod = await run_sandbox(cri.connection, wanted)
    config = configs()[number]
    config.metadata.name = "main"
    config.image.image = IMAGE
    told = await explain_plan(cri.connection, pod.config, config)
    assert (told.container_id, told.pod_sandbox_id) == (ZEROS, ZEROS)
    request = pb.CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
    made = (await cri.call(cri.runtime.CreateContainer, request)).container_id
    spec = written(cribd, made)
    text = told.spec.replace(f"/sandboxes/{ZEROS}", f"/sandboxes/{pod.id}").replace(
        f"/containers/{ZEROS}", f"/containers/{made}"
    )
    expected = json.loads(text)
    expected["linux"]["cgroupsPath"] = spec["linux"]["cgroupsPath"]
    expected["annotations"]["io.kubernetes.cri.sandbox-id"] = pod.id
    for known in (spec, expected):  # kept of an earlier use of the profile, if there was one
        known["annotations"].pop("run.oci.seccomp_bpf_data", None)
    assert expected == spec
    found = await explain_container(cri.connection, made)
    assert json.loads(found.spec) == written(cribd, made)
    assert not [pointer for pointer, origin in found.origins.items() if origin.startswith("earlier")]
    drop = ("/annotations/run.oci.seccomp_bpf_data",)
    assert {key: text for key, text in found.origins.items() if key not in drop} == {
        key: text for key, text in told.origins.items() if key not in drop
    }


async def test_a_running_container_is_explained_by_the_spec_that_it_has(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("told")
    box = await cri.run_container(pod, "sleep", "100")
    told = await explain_container(cri.connection, box[:12])
    assert (told.container_id, told.pod_sandbox_id, told.handler) == (box, pod.id, "crun")
    assert json.loads(told.spec) == written(cribd, box)
    assert origin(told, "/process/args/0") == "container command"
    assert origin(told, "/process/capabilities/bounding/0") == "default"
    assert origin(told, "/linux/namespaces/1/path") == "pod net_namespace"
    # what the container did to its own files since is nothing to the spec that it was made with
    await cri.sh(box, "rm /etc/passwd; ln -s /proc/self/environ /etc/passwd")
    assert (await explain_container(cri.connection, box)).origins == told.origins


async def test_explaining_makes_nothing(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("told")
    config = configs()[1]
    config.metadata.name = "main"
    config.image.image = IMAGE
    config.mounts.append(pb.Mount(container_path="/later", host_path=str(cribd.root / "later")))
    await explain_plan(cri.connection, pod.config, config)  # mounts the layer, as the first creation would
    before = cribd.leftovers()
    await explain_plan(cri.connection, pod.config, config)
    cribd.settle(before)
    assert not (cribd.root / "later").exists()
    assert not (cribd.state / "containers" / ZEROS).exists()
    assert not (cribd.data / "containers" / ZEROS).exists()
    assert await cri.containers() == {}


async def test_what_cannot_be_explained_is_said_by_field(cri: Cri) -> None:
    pod = await cri.run_pod("told")
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="main"), image=pb.ImageSpec(image="nosuch:1")
    )
    with pytest.raises(NotFound, match="pull it first"):
        await explain_plan(cri.connection, pod.config, config)
    config.image.image = IMAGE
    config.linux.security_context.run_as_username = "nobody-here"
    config.command.append("true")
    with pytest.raises(InvalidRequest, match="run_as_username"):
        await explain_plan(cri.connection, pod.config, config)
    config.linux.security_context.privileged = True
    with pytest.raises(InvalidRequest, match="privileged"):
        await explain_plan(cri.connection, pod.config, config)
    with pytest.raises(NotFound):
        await explain_container(cri.connection, "abcdef")
    request = pb.ContainerConfig()
    with pytest.raises(InvalidRequest, match=r"config\.metadata"):
        await explain_plan(cri.connection, pod.config, request)


async def test_the_command_explains_manifests_and_pods(cri: Cri, cribd: Cribd, tmp_path: Path) -> None:
    manifest = tmp_path / "told.yaml"
    manifest.write_text(MANIFEST)
    planned = await asyncio.to_thread(crib, cribd, tmp_path, "explain", str(manifest), "-o", "json")
    assert planned.returncode == 0, planned.stderr
    main, second = json.loads(planned.stdout)
    assert (main["container"], second["container"], main["containerId"]) == ("main", "second", "")
    assert main["spec"]["process"]["args"] == ["sleep", "100"]
    assert main["origins"]["/process/args"] in ("container command", "container args")
    table = await asyncio.to_thread(crib, cribd, tmp_path, "explain", str(manifest), "-c", "main")
    lines = [line.split("   ") for line in table.stdout.splitlines()]
    cells = {line[0].strip(): line[-1].strip() for line in lines}
    assert cells["mounts[/cache]"] == "container mounts[0]"
    assert cells["process.user.uid"] == "container linux.security_context.run_as_user"
    assert "GREETING=hello" in table.stdout
    run = await asyncio.to_thread(crib, cribd, tmp_path, "run", str(manifest))
    assert run.returncode == 0, run.stderr
    existing = await asyncio.to_thread(crib, cribd, tmp_path, "explain", "told", "-o", "json")
    assert [item["container"] for item in json.loads(existing.stdout)] == ["main", "second"]
    assert json.loads(existing.stdout)[0]["spec"]["process"] == main["spec"]["process"]
    missing = await asyncio.to_thread(crib, cribd, tmp_path, "explain", "nosuch")
    assert missing.returncode == 1
    assert "nosuch" in missing.stderr


def origin(told: ExplainContainerResponse, pointer: str) -> str:
    while pointer not in told.origins and pointer:
        pointer = pointer.rpartition("/")[0]
    return told.origins[pointer]
