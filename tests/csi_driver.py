"""A storage driver of the tests' own (CSI 1.x): directories and files of this host, mounted for real.

It keeps books across restarts, holds its caller to the rules of the interface, and does wrong what a test
tells it to. `Fault` has the kinds. It runs in the test's own loop, or as a program that can be killed:

    python -m tests.csi_driver SOCKET ROOT OPTIONS_AS_JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from crib.host.mount_table import is_mountpoint
from crib.host.mounts import Bind, perform, unmount
from crib.stubs.csi.v1 import csi_pb2 as pb

NAME = "test.csi.crib.example"
NODE = "node-1"
CONTROLLER = (
    "CREATE_DELETE_VOLUME",
    "PUBLISH_UNPUBLISH_VOLUME",
    "CREATE_DELETE_SNAPSHOT",
    "EXPAND_VOLUME",
    "PUBLISH_READONLY",
)
NODE_CAN = ("STAGE_UNSTAGE_VOLUME", "GET_VOLUME_STATS", "EXPAND_VOLUME", "VOLUME_CONDITION")
PLUGIN = ("CONTROLLER_SERVICE",)
LONGEST_TEXT = 128
LONGEST_MAP = 4096
_PATHS = {"staging_target_path", "target_path", "volume_path"}
_CREATED_SIZE = 1 << 20


@dataclass
class Fault:
    """What goes wrong with the next `times` calls of one name.

    hang: no answer and nothing done, until the caller has gone. slow: no answer until `release` is set, then
    all is done. deaf: done, and answered with `code`. refuse: nothing done, and answered with `code`.
    kill-before, kill-after: the program ends without and with the work. garbage: the answer is no message.
    wrong: the answer is changed by `wrong`. twice: mounts once more at each call. idle: answers, and does
    nothing.
    """

    call: str
    kind: str
    times: int = 1
    code: str = "INTERNAL"
    text: str = "the backend is broken"


@dataclass
class Options:
    """What the driver says that it can."""

    name: str = NAME
    plugin: tuple[str, ...] = PLUGIN
    controller: tuple[str, ...] = CONTROLLER
    node: tuple[str, ...] = NODE_CAN
    expansion: str = "ONLINE"
    topology: dict[str, str] = field(default_factory=dict)
    created_topology: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    """That calls with secrets must bring."""
    ready_after: int = 0
    """Calls of CreateSnapshot that are answered with `not ready to use`."""
    faults: list[Fault] = field(default_factory=list)


class Refused(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = grpc.StatusCode[code]


class Books:
    """What there is: volumes and snapshots, in a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "books.json"
        self.data: dict[str, dict[str, Any]] = {"volumes": {}, "snapshots": {}}
        if self.file.exists():
            self.data = json.loads(self.file.read_text())

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        return self.data["volumes"]

    @property
    def snapshots(self) -> dict[str, dict[str, Any]]:
        return self.data["snapshots"]

    def save(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.data))
        new.rename(self.file)

    def breach(self, text: str) -> None:
        """The caller has done what it must not."""
        with (self.root / "breaches").open("a") as file:
            file.write(f"{text}\n")

    def called(self, name: str) -> None:
        with (self.root / "calls").open("a") as file:
            file.write(f"{name}\n")

    def breaches(self) -> list[str]:
        return _lines(self.root / "breaches")

    def calls(self) -> list[str]:
        return _lines(self.root / "calls")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _plain(message: Message) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


class TestDriver:
    """The three services."""

    __test__ = False

    def __init__(self, root: Path, options: Options) -> None:
        root.mkdir(exist_ok=True, parents=True)
        (root / "data").mkdir(exist_ok=True)
        self.books = Books(root)
        self._device = root / "device"
        if not self._device.exists():
            os.mknod(self._device, stat.S_IFBLK | 0o600, os.makedev(7, 1 << 19))
        self.options = options
        self.release = asyncio.Event()
        """Ends what is slow."""
        self.reached = asyncio.Event()
        """Set when a call with a fault has come."""
        self.wrong: Callable[[Any], None] = lambda answer: None
        self.requests: list[tuple[str, Any]] = []
        self._busy: set[str] = set()
        self._working: set[asyncio.Task[bytes]] = set()
        self._not_yet = options.ready_after

    # -- how a call is taken

    async def take(self, name: str, body: bytes, context: Any) -> bytes:
        kind = getattr(pb, f"{name}Request")
        request = kind.FromString(body)
        self.books.called(name)
        self.requests.append((name, request))
        self._check_sizes(name, request)
        self._check_secrets(name, request)
        subject = getattr(request, "volume_id", "") or getattr(request, "name", "") or name
        fault = self._fault(name)
        if subject in self._busy and "Get" not in name and name != "Probe":
            await context.abort(grpc.StatusCode.ABORTED, f"an operation for {subject} is pending")
        if fault and fault.kind == "hang":
            await asyncio.Event().wait()
        self._busy.add(subject)
        working = asyncio.get_running_loop().create_task(self._work(subject, name, request, fault))
        self._working.add(working)
        try:
            return await asyncio.shield(working)  # a driver goes on when its caller has gone
        except Refused as error:
            await context.abort(error.code, str(error))
            raise

    async def _work(self, subject: str, name: str, request: Any, fault: Fault | None) -> bytes:
        try:
            return await self._answer(name, request, fault)
        finally:
            self._busy.discard(subject)

    async def end(self) -> None:
        """Ends what hangs."""
        for one in self._working:
            one.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    def _fault(self, name: str) -> Fault | None:
        for fault in self.options.faults:
            if fault.call == name and fault.times:
                fault.times -= 1
                self.reached.set()
                return fault
        return None

    async def _answer(self, name: str, request: Any, fault: Fault | None) -> bytes:
        what = fault.kind if fault else ""
        if what == "slow":
            await self.release.wait()
        if what == "refuse":
            raise Refused(fault.code, fault.text)  # type: ignore[union-attr]
        if what == "kill-before":
            self._die(name)
        work = getattr(self, _snake(name))
        answer = getattr(pb, f"{name}Response")() if what == "idle" else work(request)
        if what == "twice":
            work(request)
            self._mount_again(request)
        self.books.save()
        if what == "kill-after":
            self._die(name)
        if what == "deaf":
            raise Refused(fault.code, fault.text)  # type: ignore[union-attr]
        if what == "wrong":
            self.wrong(answer)
        body: bytes = answer.SerializeToString()
        return b"\xff\xff\xff" if what == "garbage" else body

    def _die(self, name: str) -> None:
        """Once for each call, over all processes."""
        once = self.books.root / f"died-in-{name}"
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _mount_again(self, request: Any) -> None:
        target = getattr(request, "target_path", "") or request.staging_target_path
        perform(Bind(target, target))

    def _check_sizes(self, name: str, message: Message) -> None:
        for one, value in message.ListFields():
            if one.message_type is not None and one.message_type.GetOptions().map_entry:
                if one.name != "secrets" and sum(len(k) + len(v) for k, v in value.items()) > LONGEST_MAP:
                    self.books.breach(f"{name}: {one.name} is too long")
            elif isinstance(value, str) and one.name not in _PATHS and len(value) > LONGEST_TEXT:
                self.books.breach(f"{name}: {one.name} is too long")
            elif isinstance(value, str) and one.name in _PATHS and not value.startswith("/"):
                self.books.breach(f"{name}: {one.name} is not absolute")

    def _check_secrets(self, name: str, request: Any) -> None:
        if "secrets" in request.DESCRIPTOR.fields_by_name and dict(request.secrets) != self.options.secrets:
            self.books.breach(f"{name}: the secrets are not those of the files")

    def _must(self, holds: object, breach: str) -> None:
        if not holds:
            self.books.breach(breach)

    def _volume(self, request: Any, call: str) -> dict[str, Any]:
        self._must(request.volume_id, f"{call} without a volume_id")
        found = self.books.volumes.get(request.volume_id)
        if found is None:
            raise Refused("NOT_FOUND", f"there is no volume {request.volume_id}")
        return found

    # -- Identity

    def get_plugin_info(self, _: Any) -> Any:
        return pb.GetPluginInfoResponse(name=self.options.name, vendor_version="1.2.3")

    def get_plugin_capabilities(self, _: Any) -> Any:
        service, growth = pb.PluginCapability.Service, pb.PluginCapability.VolumeExpansion
        answer = pb.GetPluginCapabilitiesResponse(
            capabilities=[
                pb.PluginCapability(service=service(type=service.Type.Value(one)))
                for one in self.options.plugin
            ]
        )
        if self.options.expansion:
            kind = growth.Type.Value(self.options.expansion)
            answer.capabilities.append(pb.PluginCapability(volume_expansion=growth(type=kind)))
        return answer

    def probe(self, _: Any) -> Any:
        return pb.ProbeResponse()

    # -- Controller

    def controller_get_capabilities(self, _: Any) -> Any:
        one = pb.ControllerServiceCapability
        return pb.ControllerGetCapabilitiesResponse(
            capabilities=[one(rpc=one.RPC(type=one.RPC.Type.Value(can))) for can in self.options.controller]
        )

    def create_volume(self, request: Any) -> Any:
        self._must(request.name, "CreateVolume without a name")
        self._must(request.volume_capabilities, "CreateVolume without volume_capabilities")
        wanted = _plain(request)
        wanted.pop("secrets", None)
        for handle, volume in self.books.volumes.items():
            if volume["name"] == request.name:
                if volume["wanted"] != wanted:
                    raise Refused("ALREADY_EXISTS", f"{request.name} is another volume")
                return self._made(handle, volume, request)
        content: Path | None = None
        if request.HasField("volume_content_source"):
            origin = request.volume_content_source
            if origin.HasField("volume"):
                can = "CLONE_VOLUME" in self.options.controller
                self._must(can, "CreateVolume of a volume without CLONE_VOLUME")
                source, known = origin.volume.volume_id, self.books.volumes
            else:
                source, known = origin.snapshot.snapshot_id, self.books.snapshots
            if source not in known:
                raise Refused("NOT_FOUND", f"there is nothing called {source} to begin as")
            content = self.books.root / "data" / source
        handle = f"vol-{len(self.books.volumes) + 1}-{request.name[-8:]}"
        place = self.books.root / "data" / handle
        if content:
            shutil.copytree(content, place)
        else:
            place.mkdir()
        size = max(request.capacity_range.required_bytes, _CREATED_SIZE)
        volume = self.books.volumes[handle] = {
            "name": request.name,
            "wanted": wanted,
            "size": size,
            "attached": {},
            "staged": {},
            "published": {},
        }
        return self._made(handle, volume, request)

    def _made(self, handle: str, volume: Mapping[str, Any], request: Any) -> Any:
        made = pb.Volume(volume_id=handle, capacity_bytes=volume["size"], volume_context={"made": handle})
        if request.HasField("volume_content_source"):
            made.content_source.CopyFrom(request.volume_content_source)
        if self.options.created_topology:
            made.accessible_topology.append(pb.Topology(segments=self.options.created_topology))
        return pb.CreateVolumeResponse(volume=made)

    def delete_volume(self, request: Any) -> Any:
        self._must(request.volume_id, "DeleteVolume without a volume_id")
        volume = self.books.volumes.get(request.volume_id)
        if volume is not None:
            for state in ("published", "staged", "attached"):
                self._must(not volume[state], f"DeleteVolume while it is {state}")
            shutil.rmtree(self.books.root / "data" / request.volume_id)
            del self.books.volumes[request.volume_id]
        return pb.DeleteVolumeResponse()

    def controller_publish_volume(self, request: Any) -> Any:
        volume = self._volume(request, "ControllerPublishVolume")
        self._must(request.node_id == NODE, "ControllerPublishVolume with another node_id")
        self._must(request.HasField("volume_capability"), "ControllerPublishVolume without a capability")
        how = {"capability": _plain(request.volume_capability), "readonly": request.readonly}
        if volume["attached"].get(NODE, how) != how:
            raise Refused("ALREADY_EXISTS", "it is attached in another way")
        volume["attached"][NODE] = how
        return pb.ControllerPublishVolumeResponse(publish_context={"device": f"/dev/{request.volume_id}"})

    def controller_unpublish_volume(self, request: Any) -> Any:
        self._must(request.volume_id, "ControllerUnpublishVolume without a volume_id")
        volume = self.books.volumes.get(request.volume_id)
        if volume is not None:
            self._must(not volume["staged"], "ControllerUnpublishVolume while it is staged")
            self._must(not volume["published"], "ControllerUnpublishVolume while it is published")
            volume["attached"].pop(request.node_id, None)
        return pb.ControllerUnpublishVolumeResponse()

    def validate_volume_capabilities(self, request: Any) -> Any:
        self._volume(request, "ValidateVolumeCapabilities")
        self._must(request.volume_capabilities, "ValidateVolumeCapabilities without capabilities")
        confirmed = pb.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_capabilities=request.volume_capabilities
        )
        return pb.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    def controller_expand_volume(self, request: Any) -> Any:
        volume = self._volume(request, "ControllerExpandVolume")
        if self.options.expansion == "OFFLINE":
            self._must(not (volume["staged"] or volume["published"]), "ControllerExpandVolume while in use")
        volume["size"] = max(volume["size"], request.capacity_range.required_bytes)
        return pb.ControllerExpandVolumeResponse(
            capacity_bytes=volume["size"], node_expansion_required="EXPAND_VOLUME" in self.options.node
        )

    def create_snapshot(self, request: Any) -> Any:
        self._must(request.name and request.source_volume_id, "CreateSnapshot without a name or a volume")
        for handle, snapshot in self.books.snapshots.items():
            if snapshot["name"] == request.name:
                if snapshot["volume"] != request.source_volume_id:
                    raise Refused("ALREADY_EXISTS", f"{request.name} is of another volume")
                return self._cut(handle, snapshot)
        volume = self.books.volumes.get(request.source_volume_id)
        if volume is None:
            raise Refused("NOT_FOUND", f"there is no volume {request.source_volume_id}")
        handle = f"snap-{len(self.books.snapshots) + 1}-{request.name[-8:]}"
        data = self.books.root / "data"
        shutil.copytree(data / request.source_volume_id, data / handle)
        snapshot = {"name": request.name, "volume": request.source_volume_id, "size": volume["size"]}
        self.books.snapshots[handle] = snapshot
        return self._cut(handle, snapshot)

    def _cut(self, handle: str, snapshot: Mapping[str, Any]) -> Any:
        self._not_yet -= 1
        made = pb.Snapshot(
            snapshot_id=handle,
            source_volume_id=snapshot["volume"],
            size_bytes=snapshot["size"],
            ready_to_use=self._not_yet < 0,
        )
        return pb.CreateSnapshotResponse(snapshot=made)

    def delete_snapshot(self, request: Any) -> Any:
        self._must(request.snapshot_id, "DeleteSnapshot without a snapshot_id")
        if self.books.snapshots.pop(request.snapshot_id, None):
            shutil.rmtree(self.books.root / "data" / request.snapshot_id)
        return pb.DeleteSnapshotResponse()

    # -- Node

    def node_get_capabilities(self, _: Any) -> Any:
        one = pb.NodeServiceCapability
        return pb.NodeGetCapabilitiesResponse(
            capabilities=[one(rpc=one.RPC(type=one.RPC.Type.Value(can))) for can in self.options.node]
        )

    def node_get_info(self, _: Any) -> Any:
        answer = pb.NodeGetInfoResponse(node_id=NODE, max_volumes_per_node=16)
        answer.accessible_topology.segments.update(self.options.topology)
        return answer

    def _check_mounted_use(self, call: str, volume: Mapping[str, Any], request: Any) -> None:
        """What holds of staging and of publishing."""
        self._must(request.HasField("volume_capability"), f"{call} without a capability")
        attaches = "PUBLISH_UNPUBLISH_VOLUME" in self.options.controller
        context = {"device": f"/dev/{request.volume_id}"} if attaches else {}
        self._must(not attaches or NODE in volume["attached"], f"{call} before ControllerPublishVolume")
        self._must(dict(request.publish_context) == context, f"{call} with another publish_context")
        made = request.volume_context.get("made")
        self._must(made == request.volume_id, f"{call} with another volume_context")

    def node_stage_volume(self, request: Any) -> Any:
        volume = self._volume(request, "NodeStageVolume")
        self._must("STAGE_UNSTAGE_VOLUME" in self.options.node, "NodeStageVolume was never offered")
        self._check_mounted_use("NodeStageVolume", volume, request)
        path = request.staging_target_path
        self._must(os.path.isdir(path), "NodeStageVolume without a directory")
        how = _plain(request.volume_capability)
        if volume["staged"].get(path, how) != how:
            raise Refused("ALREADY_EXISTS", "it is staged in another way")
        if not request.volume_capability.HasField("block") and not is_mountpoint(path):
            perform(Bind(str(self.books.root / "data" / request.volume_id), path))
        volume["staged"] = {path: how}
        return pb.NodeStageVolumeResponse()

    def node_unstage_volume(self, request: Any) -> Any:
        path = request.staging_target_path
        volume = self._volume(request, "NodeUnstageVolume")
        self._must(not volume["published"], "NodeUnstageVolume while it is published")
        unmount(path)
        volume["staged"].pop(path, None)
        return pb.NodeUnstageVolumeResponse()

    def node_publish_volume(self, request: Any) -> Any:
        target = request.target_path
        if request.volume_context.get("csi.storage.k8s.io/ephemeral") == "true":
            volume = self._ephemeral(request)
        else:
            volume = self._volume(request, "NodePublishVolume")
            self._check_mounted_use("NodePublishVolume", volume, request)
            stages = "STAGE_UNSTAGE_VOLUME" in self.options.node
            staged = [request.staging_target_path] if stages else []
            self._must(list(volume["staged"]) == staged, "NodePublishVolume before NodeStageVolume")
        how = {"capability": _plain(request.volume_capability), "readonly": request.readonly}
        if volume["published"].get(target, how) != how:
            raise Refused("ALREADY_EXISTS", "it is published in another way")
        self._must(
            os.path.isdir(os.path.dirname(target)), "NodePublishVolume without a directory for the target"
        )
        self._must(
            target in volume["published"] or not os.path.exists(target), "the caller has made the target"
        )
        if request.volume_capability.HasField("block"):
            self._publish_device(request)
        elif not is_mountpoint(target):
            with contextlib.suppress(FileExistsError):
                os.mkdir(target)
            place = str(self.books.root / "data" / request.volume_id)
            perform(Bind(place, target, read_only=request.readonly))
        volume["published"][target] = how
        return pb.NodePublishVolumeResponse()

    def _publish_device(self, request: Any) -> None:
        """A node of a device that nobody has."""
        if not os.path.exists(request.target_path):
            Path(request.target_path).touch()
        if not is_mountpoint(request.target_path):
            perform(Bind(str(self._device), request.target_path, recursive=False))

    def _ephemeral(self, request: Any) -> dict[str, Any]:
        self._must(not request.staging_target_path, "an inline volume is staged")
        (self.books.root / "data" / request.volume_id).mkdir(exist_ok=True)
        empty = {"name": "", "inline": True, "size": 0, "attached": {}, "staged": {}, "published": {}}
        return self.books.volumes.setdefault(request.volume_id, empty)

    def node_unpublish_volume(self, request: Any) -> Any:
        volume = self._volume(request, "NodeUnpublishVolume")
        target = request.target_path
        unmount(target)
        if not is_mountpoint(target):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(target) if os.path.isdir(target) else os.unlink(target)
            volume["published"].pop(target, None)
            if volume.get("inline"):
                shutil.rmtree(self.books.root / "data" / request.volume_id)
                del self.books.volumes[request.volume_id]
        return pb.NodeUnpublishVolumeResponse()

    def node_get_volume_stats(self, request: Any) -> Any:
        volume = self._volume(request, "NodeGetVolumeStats")
        known = {*volume["published"], *volume["staged"]}
        self._must(request.volume_path in known, "NodeGetVolumeStats of a path where it is not")
        usage = pb.VolumeUsage
        files = (self.books.root / "data" / request.volume_id).iterdir()
        used = sum(file.stat().st_size for file in files)
        return pb.NodeGetVolumeStatsResponse(
            usage=[
                usage(unit=usage.BYTES, total=volume["size"], used=used, available=volume["size"] - used),
                usage(unit=usage.INODES, total=100, used=3, available=97),
            ],
            volume_condition=pb.VolumeCondition(abnormal=False, message="well"),
        )

    def node_expand_volume(self, request: Any) -> Any:
        volume = self._volume(request, "NodeExpandVolume")
        known = {*volume["published"], *volume["staged"]}
        self._must(request.volume_path in known, "NodeExpandVolume of a path where it is not")
        volume["grown"] = request.capacity_range.required_bytes
        return pb.NodeExpandVolumeResponse(capacity_bytes=volume["size"])


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class _Calls(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    def __init__(self, driver: TestDriver) -> None:
        self._driver = driver

    def service(self, details: Any) -> Any:
        service, _, name = details.method.lstrip("/").partition("/")
        if (
            service.rpartition(".")[2] == "Controller"
            and "CONTROLLER_SERVICE" not in self._driver.options.plugin
        ):
            self._driver.books.breach(f"{name}: the service Controller was never offered")
            return None

        async def answer(body: bytes, context: Any) -> bytes:
            return await self._driver.take(name, body, context)

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serving(driver: TestDriver, socket: str) -> AsyncIterator[TestDriver]:
    """Listens at the socket within the block, and does not wait for calls that hang at its end."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Calls(driver),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield driver
    finally:
        await server.stop(0)
        await driver.end()


def as_json(options: Options) -> str:
    return json.dumps(asdict(options))


async def _main(socket: str, root: str, options: str) -> None:
    read = json.loads(options)
    read["faults"] = [Fault(**one) for one in read["faults"]]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    async with serving(TestDriver(Path(root), Options(**read)), socket):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:4]))
