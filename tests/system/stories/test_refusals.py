"""Bad input: each a clear error with the right code, nothing left behind, the daemon unharmed."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from crib.client import pods
from crib.client.errors import AlreadyExists, ClientError, InvalidRequest, NotFound, WrongState
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import (
    BuiltImage,
    BuiltLayer,
    Entry,
    busybox_image,
    digest_of,
    directory,
    layer_tar,
    layout_files,
    saved_files,
    write_tar,
)
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

NOWHERE = "f" * 64


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def test_a_handler_that_is_not_configured_is_named_with_those_that_are(cri: Cri) -> None:
    with pytest.raises(InvalidRequest, match=r"runtime_handler.*'kata'.*crun"):
        await pods.run_sandbox(cri.connection, cri.pod_config("x"), "kata")


@pytest.mark.parametrize("name", ["a/b", "..", "", "a" * 300, "../../etc"])
async def test_a_pods_name_must_be_a_name(cri: Cri, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"metadata\.name"):
        await cri.run_pod(name, log_directory="", hostname="x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("log_directory", "relative"),
        ("log_directory", "/tmp/../etc"),
        ("hostname", "no_host name"),
        ("port_mappings", [pb.PortMapping(container_port=99999, host_port=1)]),
        ("port_mappings", [pb.PortMapping(container_port=80, host_port=80, host_ip="not-an-ip")]),
        ("dns_config", pb.DNSConfig(searches=["two\nlines"])),
        ("sysctls", {"../../etc/passwd": "x"}),
    ],
)
async def test_a_pods_config_with_a_wrong_field_is_refused_by_its_name(
    cri: Cri, field: str, value: object
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        await cri.run_pod("x", **{field: value})


@pytest.mark.parametrize(
    "path", ["../../../etc/cron.d/x", "/etc/passwd", "a/../../b", "..", ".", "a" * 5000, "a\0b"]
)
async def test_a_log_path_may_not_leave_its_directory(cri: Cri, path: str) -> None:
    pod = await cri.run_pod("logs")
    with pytest.raises(InvalidRequest, match="log_path"):
        await cri.create(pod, "true", log_path=path)
    assert await cri.containers() == {}


@pytest.mark.parametrize(
    ("kind", "message", "field", "value"),
    [
        (NotFound, "registry.test/no/such:image", "image", "registry.test/no/such:image"),
        (InvalidRequest, "metadata.name", "name", "a/b"),
        (InvalidRequest, "mounts", "mounts", [pb.Mount(container_path="/x", host_path="relative")]),
        (InvalidRequest, "mounts", "mounts", [pb.Mount(container_path="/x", host_path="/tmp/../etc")]),
        (InvalidRequest, "mounts", "mounts", [pb.Mount(container_path="/", host_path="/tmp")]),
        (InvalidRequest, "envs", "envs", [pb.KeyValue(key="A=B", value=b"x")]),
        (InvalidRequest, "devices", "devices", [pb.Device(container_path="x", host_path="/dev/null")]),
        (InvalidRequest, "stop_signal", "stop_signal", 9999),
    ],
)
async def test_a_containers_config_with_a_wrong_field_is_refused_by_its_name(
    cri: Cri, kind: type[ClientError], message: str, field: str, value: object
) -> None:
    pod = await cri.run_pod("wrong")
    before = cri.cribd.leftovers()
    with pytest.raises(kind, match=message):
        await cri.create(pod, "true", **{"log_path": "box.log", field: value})
    cri.cribd.settle(before)


async def test_a_command_that_is_not_there_fails_the_create_or_start_in_the_runtimes_words(cri: Cri) -> None:
    pod = await cri.run_pod("nothere")
    before = cri.cribd.leftovers()
    with pytest.raises(ClientError, match="/no/such/program"):
        await cri.run_container(pod, "/no/such/program")
    for container in await cri.containers():
        await cri.remove_container(container)
    cri.cribd.settle(before)


@pytest.mark.parametrize("sandbox", [NOWHERE, "not-an-id", "../../etc", "x" * 500, ""])
async def test_a_container_needs_a_sandbox_that_is_there(cri: Cri, sandbox: str) -> None:
    pod = pods.Pod(sandbox, cri.pod_config("x"))
    with pytest.raises((NotFound, InvalidRequest)) as caught:
        await cri.create(pod, "true")
    assert isinstance(caught.value, NotFound) is (0 < len(sandbox) < 100)


async def test_a_container_needs_a_sandbox_that_is_not_stopped(cri: Cri) -> None:
    pod = await cri.run_pod("stopped")
    await cri.stop_pod(pod)
    with pytest.raises(WrongState, match=pod.id):
        await cri.create(pod, "true")
    assert await cri.containers() == {}


async def test_a_start_may_be_repeated_and_comes_too_late_after_the_end(cri: Cri) -> None:
    pod = await cri.run_pod("twice")
    box = await cri.run_container(pod, "sleep", "100")
    began = (await cri.status(box)).started_at
    await cri.start(box)  # by a caller that did not hear of the first one's success
    assert (await cri.status(box)).started_at == began
    await cri.stop_container(box)
    with pytest.raises(WrongState, match=box):
        await cri.start(box)


async def test_the_same_name_with_another_config_is_refused_and_the_difference_named(cri: Cri) -> None:
    pod = await cri.run_pod("named", labels={"a": "1"})
    other = pb.PodSandboxConfig()
    other.CopyFrom(pod.config)
    other.labels["a"] = "2"
    with pytest.raises(AlreadyExists, match="labels"):
        await pods.run_sandbox(cri.connection, other)
    await cri.create(pod, "sleep", "1")
    with pytest.raises(AlreadyExists, match="command"):
        await cri.create(pod, "sleep", "2")


@pytest.mark.parametrize("text", [NOWHERE, "nothing-that-ever-was", "0000"])
async def test_stop_and_remove_of_something_unknown_succeed(cri: Cri, text: str) -> None:
    await cri.stop_container(text)
    await cri.remove_container(text)
    await cri.stop_pod(text)
    await cri.remove_pod(text)
    image = pb.RemoveImageRequest(image=pb.ImageSpec(image=f"registry.test/{text}"))
    await cri.call(cri.image.RemoveImage, image)


async def test_stop_and_remove_may_be_repeated(cri: Cri) -> None:
    pod = await cri.run_pod("again")
    box = await cri.run_container(pod, "sleep", "100")
    for _ in range(3):
        await cri.stop_container(box)
    for _ in range(3):
        await cri.remove_container(box)
    for _ in range(3):
        await cri.stop_pod(pod)
    for _ in range(3):
        await cri.remove_pod(pod)


async def test_questions_about_something_unknown_are_not_found(cri: Cri) -> None:
    with pytest.raises(NotFound):
        await cri.status(NOWHERE)
    with pytest.raises(NotFound):
        await cri.pod_status(pods.Pod(NOWHERE, pb.PodSandboxConfig()))
    with pytest.raises(NotFound):
        await cri.start(NOWHERE)
    for method, request in (
        (cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=NOWHERE)),
        (cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=NOWHERE)),
        (cri.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest(container_id=NOWHERE)),
    ):
        with pytest.raises(NotFound):
            await cri.call(cast(Any, method), request)


def _image() -> BuiltImage:
    """Its second layer is not here yet: one that is here is not read again, whatever an archive holds."""
    return busybox_image([Entry("own", b"of this image")], name="registry.test/bad:1")


def _wrong_digest(path: Path) -> Path:
    image = _image()
    name = f"blobs/sha256/{digest_of(image.layers[1].blob).removeprefix('sha256:')}"
    other = BuiltLayer(layer_tar([Entry("own", b"of another")])).blob
    return write_tar(path, {**layout_files([image]), name: other})


def _wrong_diff_id(path: Path) -> Path:
    files = saved_files([_image()])
    layer = [name for name in files if name.endswith("layer.tar")][1]
    return write_tar(path, {**files, layer: layer_tar([Entry("other", b"data")])})


def _below_a_device(path: Path) -> Path:
    device = tarfile.TarInfo("d")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
    below = tarfile.TarInfo("d/file")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(device)
        tar.addfile(below)
    image = replace(_image(), layers=(BuiltLayer(buffer.getvalue()),))
    return write_tar(path, layout_files([image]))


def _truncated(path: Path) -> Path:
    whole = write_tar(path, layout_files([busybox_image(name="registry.test/bad:1")])).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _layer_of(*entries: Entry) -> Callable[[Path], Path]:
    image = busybox_image(entries, name="registry.test/bad:1")
    return lambda path: write_tar(path, layout_files([image]))


def _manifest_outside(path: Path) -> Path:
    files = saved_files([busybox_image(name="registry.test/bad:1")])
    manifest = files["manifest.json"].decode().replace("layer.tar", "../../../etc/passwd")
    return write_tar(path, {**files, "manifest.json": manifest.encode()})


ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a blob whose digest is another": (_wrong_digest, "digest|sha256"),
    "a layer whose diff id is another": (_wrong_diff_id, "diff|sha256"),
    "half an archive": (_truncated, "truncated|ends|end of|incomplete|not|missing"),
    "a layer that climbs out": (_layer_of(Entry("../../evil", b"x")), r"\.\."),
    "a layer with an absolute name that climbs": (_layer_of(Entry("/../evil", b"x")), r"\.\."),
    "a device where a directory should be": (_below_a_device, "'d' is used as a directory"),
    "a fifo where a directory should be": (
        _layer_of(Entry("d", kind=tarfile.FIFOTYPE), Entry("d/f", b"x")),
        "d",
    ),
    "a file that is used as a directory": (
        _layer_of(Entry("f", b"x"), Entry("f/g", b"y")),
        "'f' is used as a directory",
    ),
    "a hard link to nothing": (
        _layer_of(directory("x"), Entry("x/y", kind=tarfile.LNKTYPE, link="no")),
        "no",
    ),
    "a manifest that points outside": (_manifest_outside, "passwd"),
    "no archive at all": (lambda path: _written(path, b"\0" * 4096), "bad.tar"),
    "random bytes": (lambda path: _written(path, bytes(range(256)) * 64), "bad.tar"),
    "an empty file": (lambda path: _written(path, b""), "bad.tar"),
}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("what", ARCHIVES)
async def test_a_lying_archive_is_refused_and_leaves_nothing(cri: Cri, tmp_path: Path, what: str) -> None:
    make, message = ARCHIVES[what]
    before = await cri.image_names()
    with pytest.raises(ClientError, match=message) as caught:
        await cri.import_archive(make(tmp_path / "bad.tar"))
    assert caught.value.code in ("INVALID_ARGUMENT", "INTERNAL"), caught.value
    assert await cri.image_names() == before
    assert (await cri.call(cri.runtime.Version, pb.VersionRequest())).runtime_name == "crib"


@pytest.mark.parametrize("path", ["relative.tar", "/no/such/archive.tar", "/tmp/../etc/passwd", ""])
async def test_an_archive_that_cannot_be_had_is_refused(cri: Cri, path: str) -> None:
    from crib.client import images

    with pytest.raises((InvalidRequest, NotFound)):
        async for _ in images.import_progress(cri.connection, path):
            pass


async def test_bytes_that_are_no_message_are_refused_and_harm_nothing(cri: Cri, cribd: Cribd) -> None:
    import grpc

    async with grpc.aio.insecure_channel(f"unix://{cribd.socket}") as channel:
        for method in ("RunPodSandbox", "CreateContainer", "ListContainers"):
            raw = cast(Any, channel).unary_unary(f"/runtime.v1.RuntimeService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                await raw(b"\xff\xff\xff\xff not a message")
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert await cri.sandboxes() == {}


async def test_the_processes_of_another_pods_container_cannot_be_looked_at(cri: Cri) -> None:
    mine, other = await cri.run_pod("mine"), await cri.run_pod("other")
    target, foreign = [await cri.run_container(pod, "sleep", "600", name="main") for pod in (mine, other)]

    def looking_into(target: str) -> pb.NamespaceOption:
        return pb.NamespaceOption(pid=pb.TARGET, target_id=target)

    with pytest.raises(InvalidRequest, match=f"namespace_options.target_id: container {foreign} is of pod"):
        await cri.create(mine, "true", namespaces=looking_into(foreign))
    debug = await cri.run_container(mine, "sleep", "601", name="debug", namespaces=looking_into(target))
    assert await cri.sh(debug, r"tr '\0' ' ' < /proc/1/cmdline") == "sleep 600"
    await cri.stop_container(target)
    with pytest.raises(WrongState, match=r"target_id: container .* is not running: it is exited"):
        await cri.create(mine, "true", name="late", namespaces=looking_into(target))


async def test_a_container_may_have_a_name_and_a_log_beyond_ascii(cri: Cri) -> None:
    pod = await cri.run_pod("words", log_directory=str(cri.cribd.logs / "größe"))
    box = await cri.run_container(pod, "echo", "hello", name="日本語", log_path="ü/é.log")
    status = await cri.exited(box)
    assert status.metadata.name == "日本語"
    assert status.log_path.endswith("größe/ü/é.log")
    log = await asyncio.to_thread((cri.cribd.logs / "größe" / "ü" / "é.log").read_text)
    assert log.endswith("stdout F hello\n")


async def test_a_quota_of_minus_one_is_no_limit_at_create_too(cri: Cri) -> None:
    pod = await cri.run_pod("unlimited")
    limits = pb.LinuxContainerResources(cpu_quota=-1, cpu_period=100_000, cpu_shares=512)
    box = await cri.run_container(pod, "sleep", "100", resources=limits)
    assert (await cri.status(box)).resources.linux.cpu_quota == -1


@pytest.mark.parametrize(
    ("name", "value"),
    [("cpuset_cpus", "8000"), ("cpuset_mems", "1000"), ("memory_limit_in_bytes", 4096)],
)
async def test_a_limit_that_this_node_cannot_keep_is_the_callers_at_create(
    cri: Cri, name: str, value: object
) -> None:
    pod = await cri.run_pod("limits")
    limits = pb.LinuxContainerResources()
    setattr(limits, name, value)
    with pytest.raises(InvalidRequest, match=rf"config\.linux\.resources\.{name}: "):
        await cri.create(pod, "sleep", "100", resources=limits)


async def test_a_limit_that_this_node_cannot_keep_is_the_callers_at_update(cri: Cri) -> None:
    pod = await cri.run_pod("limits")
    box = await cri.run_container(pod, "sleep", "100")
    limits = pb.LinuxContainerResources(cpuset_mems="1000")
    update = pb.UpdateContainerResourcesRequest(container_id=box, linux=limits)
    with pytest.raises(InvalidRequest, match=r"linux\.cpuset_mems: "):
        await cri.call(cri.runtime.UpdateContainerResources, update)
    of_pod = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod.id, resources=limits)
    with pytest.raises(InvalidRequest, match=r"resources\.cpuset_mems: "):
        await cri.call(cri.runtime.UpdatePodSandboxResources, of_pod)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("config.mounts", {"mounts": [("file", "/bin")]}),
        ("config.mounts", {"mounts": [("directory", "/bin/busybox")]}),
        ("config.mounts", {"mounts": [("file", "/m"), ("directory", "/m/x")]}),
        ("config.mounts", {"mounts": [("directory", "/sys/x")]}),
        ("config.command", {"command": ["/bin"]}),
        ("config.command", {"command": ["no-such-program"]}),
        ("config.working_dir", {"working_dir": "/dev/null"}),
        ("config.devices", {"device": "/bin/busybox/x"}),
        ("config.devices[0].container_path", {"device": "/proc/x"}),
        ("config.log_path", {"log_path": "taken.log/x.log"}),
        ("config.log_path", {"log_path": "directory"}),
    ],
)
async def test_a_place_that_cannot_be_is_the_callers(
    cri: Cri, tmp_path: Path, field: str, fields: dict[str, Any]
) -> None:
    logs = cri.cribd.logs / "places"
    pod = await cri.run_pod("places")
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (logs / "taken.log").touch()
    (logs / "directory").mkdir(exist_ok=True)
    config = cri.container_config(*fields.get("command", ["true"]))
    for source, place in fields.get("mounts", ()):
        config.mounts.add(host_path=str(tmp_path / source), container_path=place)
    if device := fields.get("device"):
        config.devices.add(host_path="/dev/null", container_path=device)
    config.working_dir = fields.get("working_dir", "")
    config.log_path = fields.get("log_path", "box.log")
    with pytest.raises(InvalidRequest) as caught:
        await pods.create_container(cri.connection, pod, config)
    assert str(caught.value).startswith(f"{field}: "), caught.value


async def test_a_pods_log_directory_that_is_a_file_is_the_callers(cri: Cri, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(InvalidRequest, match=r"^config\.log_directory: "):
            await cri.run_pod("taken", log_directory=str(tmp_path / path))
