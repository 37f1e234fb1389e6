"""crib's own Node service: messages of crib.v1 to values and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from crib.api.translate import checks
from crib.engine.images.transfers import TransferUpdate
from crib.engine.status import NodeStatus
from crib.engine.timeline import PodStart
from crib.model.image import Progress
from crib.model.settings import Settings
from crib.stubs.node.v1 import node_pb2 as pb

MAX_NAMES = 100

# the engine's words for a layer's stage, as the proto lists them
_LAYER_STAGES = {"resolving": "waiting", "importing": "writing", "verifying": "writing"}


@dataclass(frozen=True, slots=True)
class ImportImage:
    """An archive to import; `names` replace those in it."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FollowPull:
    """A pull to watch, or to start."""

    image: str
    start: bool


def decode_import(message: pb.ImportImageRequest) -> ImportImage:
    names = tuple(message.names)
    if len(names) > MAX_NAMES:
        checks.refuse("names", f"has {len(names)} names, more than {MAX_NAMES}")
    checks.distinct(names, "names", "name")
    return ImportImage(checks.absolute(message.path, "path"), names)


def decode_follow(message: pb.PullProgressRequest) -> FollowPull:
    if not message.image:
        checks.refuse("image", "is empty")
    return FollowPull(checks.no_nul(message.image, "image"), message.start)


def decode_timeline(message: pb.TimelineRequest) -> str:
    return checks.identifier(message.pod, "pod")


def encode_info(status: NodeStatus, settings: Settings, about: Mapping[str, str]) -> pb.InfoResponse:
    """`about` has the version and the cgroup driver."""
    mounting = status.mounting
    return pb.InfoResponse(
        version=about["version"],
        runtime_api_version="v1",
        state_root=settings.state,
        data_root=settings.data,
        socket=settings.socket_path,
        network_mode=settings.network.mode,
        cgroup_driver=about["cgroup_driver"],
        cgroup_version=2 if status.host.cgroup_layout == "v2" else 1,
        handlers=[
            pb.Handler(
                name=name, kind="oci", program=facts.program, default_handler=name == status.default_handler
            )
            for name, facts in status.handlers.items()
        ],
        layer_mounts=pb.LayerMounts(
            method=mounting.method,
            block_size=mounting.block_size,
            directio=mounting.direct_io,
            reason=mounting.detail,
        ),
        programs=_programs(status),
        counts=pb.Counts(**{key: status.counts.get(key, 0) for key in pb.Counts.DESCRIPTOR.fields_by_name}),
        facts=_facts(status),
    )


def _programs(status: NodeStatus) -> list[pb.Program]:
    """Runtimes and monitors, each once."""
    found = {}
    for facts in status.handlers.values():
        found[facts.program] = (facts.name, facts.version)
        if facts.monitor:
            found[facts.monitor] = (facts.monitor.rpartition("/")[2], facts.monitor_version)
    return [pb.Program(name=name, path=path, version=version) for path, (name, version) in found.items()]


def _facts(status: NodeStatus) -> dict[str, str]:
    found = {f"host.{key}": _text(value) for key, value in dataclasses.asdict(status.host).items()}
    for name, facts in status.handlers.items():
        found |= {f"handler.{name}.{key}": _text(value) for key, value in dataclasses.asdict(facts).items()}
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def encode_start(start: PodStart) -> pb.TimelineResponse:
    return pb.TimelineResponse(
        pod_sandbox_id=start.sandbox,
        pod=start.pod,
        stages=[
            pb.Stage(
                name=stage.name,
                subject=stage.subject,
                started_at=stage.started_at,
                duration_ns=stage.duration,
                outcome=stage.outcome if stage.outcome == "ok" else f"failed: {stage.outcome}",
                parent=stage.parent,
            )
            for stage in start.stages
        ],
    )


def encode_import(update: TransferUpdate) -> pb.ImportProgress:
    """The last update has the images; before that, the layer that moves is the one that is not done."""
    if update.finished:
        return pb.ImportProgress(
            stage="done",
            images=[
                pb.ImportedImage(image_id=record.id, names=record.tags or record.digests)
                for record in update.images
            ],
        )
    layers = [layer for layer in update.layers if layer.layer]
    moving = next((layer for layer in layers if layer.stage != "done"), None)
    if moving is None:
        whole = next((layer for layer in update.layers if not layer.layer), Progress("reading"))
        stage = "committing" if layers else "reading"
        return pb.ImportProgress(stage=stage, done_bytes=whole.done, total_bytes=whole.total)
    return pb.ImportProgress(
        stage="layer", layer_digest=moving.layer, done_bytes=moving.done, total_bytes=moving.total
    )


def encode_pull(image: str, update: TransferUpdate) -> pb.PullProgress:
    layers = [layer for layer in update.layers if layer.layer]
    stage = "resolving"
    if layers:
        stage = "committing" if all(layer.stage == "done" for layer in layers) else "fetching"
    return pb.PullProgress(
        image=image,
        stage="done" if update.finished else stage,
        host=next((layer.host for layer in reversed(update.layers) if layer.host), ""),
        layers=[
            pb.LayerProgress(
                digest=layer.layer,
                done_bytes=layer.done,
                total_bytes=layer.total,
                stage=_LAYER_STAGES.get(layer.stage, layer.stage),
            )
            for layer in layers
        ],
        finished=update.finished,
        image_id=update.images[0].id if update.finished and update.images else "",
    )


def encode_failed_pull(image: str, error: str) -> pb.PullProgress:
    return pb.PullProgress(image=image, stage="failed", finished=True, error=error)
