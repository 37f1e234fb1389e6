"""crib's own Node service: messages of crib.v1 to values and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crib.api.translate import checks, containers, images, limits, sandboxes
from crib.engine.checks.images import LayerCheck
from crib.engine.images.transfers import TransferUpdate
from crib.engine.status import NodeStatus
from crib.model.explanation import Explanation, PlannedContainer
from crib.model.ids import HandlerName
from crib.model.image import ImageReference, Progress, PullOrder, parse_reference
from crib.model.registry import AuthConfig, RegistryHost
from crib.model.settings import Settings
from crib.stubs.node.v1 import node_pb2 as pb

_ENDED = ("done", "present")


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """An archive to import; `names` replace those in it."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FollowOrder:
    """A pull to watch, or to start."""

    order: PullOrder
    start: bool


@dataclass(frozen=True, slots=True)
class ImageCheckOrder:
    """Images to check, all when none is named."""

    images: tuple[str, ...]
    repair: bool


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """Images to write to an archive that is not there yet."""

    path: str
    images: tuple[str, ...]
    format: str


def decode_import(message: pb.ImportImageRequest) -> ImportOrder:
    names = tuple(checks.at_most(message.names, limits.MAX_IMAGE_NAMES, "names"))
    checks.distinct(names, "names", "name")
    return ImportOrder(checks.absolute(message.path, "path"), names)


def decode_follow(message: pb.PullProgressRequest) -> FollowOrder:
    credentials = message.credentials
    auth = AuthConfig(
        username=images.secret(credentials.username, "credentials.username"),
        password=images.secret(credentials.password, "credentials.password"),
        identity_token=images.secret(credentials.identity_token, "credentials.identity_token"),
        registry_token=images.secret(credentials.registry_token, "credentials.registry_token"),
    )
    platform = images.platform(message.platform, "platform")
    if not message.start and (auth.fingerprint() or str(platform)):
        checks.refuse("start", "is false, so credentials and platform cannot be given")
    return FollowOrder(PullOrder(_reference(message.image), auth, platform), message.start)


def decode_explain(message: pb.ExplainRegistryRequest) -> PullOrder:
    return PullOrder(_reference(message.image))


def decode_explain_container(message: pb.ExplainContainerRequest) -> str | PlannedContainer:
    """The id of a container, or a plan for one."""
    planned = message.HasField("config") or message.HasField("sandbox_config") or message.runtime_handler
    if message.container_id:
        if planned:
            checks.refuse("container_id", "is set, so nothing else can be")
        return checks.identifier(message.container_id, "container_id")
    for field in ("config", "sandbox_config"):
        if not message.HasField(field):
            checks.refuse(field, "is missing, and so is container_id")
    return PlannedContainer(
        sandbox=sandboxes.config(message.sandbox_config, "sandbox_config"),
        handler=HandlerName(checks.handler(message.runtime_handler)),
        config=containers.config(message.config, "config"),
    )


def decode_check(message: pb.CheckImagesRequest) -> ImageCheckOrder:
    return ImageCheckOrder(_images(message.images), message.repair)


def decode_export(message: pb.ExportImagesRequest) -> ExportOrder:
    wanted = _images(message.images)
    if not wanted:
        checks.refuse("images", "is empty")
    if message.format not in ("", "oci", "docker"):
        checks.refuse("format", f"is {message.format[:100]!r}, and must be oci or docker")
    return ExportOrder(checks.absolute(message.path, "path"), wanted, message.format or "oci")


def _reference(text: str) -> ImageReference:
    if not text:
        checks.refuse("image", "is empty")
    return parse_reference(checks.no_nul(text, "image"), field="image")


def _images(names: Sequence[str]) -> tuple[str, ...]:
    checks.at_most(names, limits.MAX_IMAGES, "images")
    for number, name in enumerate(names):
        if not images.name(name, f"images[{number}]"):
            checks.refuse(f"images[{number}]", "is empty")
    return tuple(names)


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
                name=name,
                kind=facts.kind,
                program=facts.program,
                default_handler=name == status.default_handler,
                can=facts.abilities if not facts.problem else (),
                statistics=facts.statistics,
                problem=facts.problem,
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
        loop=pb.LoopLag(**dataclasses.asdict(status.vitals.lag)),
        waiting=[pb.ThreadWait(**dataclasses.asdict(wait)) for wait in status.vitals.waiting],
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
    return found | {f"verbs.{key}": str(value) for key, value in dataclasses.asdict(status.verbs).items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return " ".join(sorted(map(str, value)))
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


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
    moving = next((layer for layer in layers if layer.stage not in _ENDED), None)
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
        stage = "committing" if all(layer.stage in _ENDED for layer in layers) else "fetching"
    return pb.PullProgress(
        image=image,
        stage="done" if update.finished else stage,
        host=next((layer.host for layer in reversed(update.layers) if layer.host), ""),
        layers=[
            pb.LayerProgress(
                digest=layer.layer,
                done_bytes=layer.done,
                total_bytes=layer.total,
                stage=layer.stage,
            )
            for layer in layers
        ],
        finished=update.finished,
        image_id=update.images[0].id if update.finished and update.images else "",
    )


def encode_failed_pull(image: str, code: str, error: str) -> pb.PullProgress:
    return pb.PullProgress(image=image, stage="failed", finished=True, error=error, error_code=code)


def encode_explanation(
    reference: ImageReference, hosts: Sequence[RegistryHost], policy: str
) -> pb.ExplainRegistryResponse:
    """Secrets stay here: of headers the names, of credentials where they are from."""
    return pb.ExplainRegistryResponse(
        image=str(reference),
        hosts=[
            pb.RegistryHost(
                url=host.url,
                repository=host.repository,
                reason=host.reason,
                origin=host.is_origin,
                resolves=host.resolves,
                pulls=host.pulls,
                skip_verify=host.skip_verify,
                authorities=len(host.authorities),
                client_certificates=len(host.certificates),
                headers=[name for name, _ in host.headers],
                credential=host.credential.source,
                username=host.credential.username,
                connect_timeout=host.connect_timeout,
            )
            for host in hosts
        ],
        policy=policy,
    )


def encode_explained(found: Explanation) -> pb.ExplainContainerResponse:
    return pb.ExplainContainerResponse(
        spec=found.explained.spec.decode(),
        origins=found.explained.origins,
        handler=found.handler,
        container_id=found.container,
        pod_sandbox_id=found.sandbox,
    )


def encode_check(check: LayerCheck) -> pb.CheckProgress:
    return pb.CheckProgress(
        layer_digest=check.layer,
        problem=check.problem,
        repaired=check.repaired,
        images=check.images,
        repair_error=check.repair_error,
    )


def encode_checked(found: Sequence[LayerCheck]) -> pb.CheckProgress:
    damaged = sum(1 for check in found if check.problem and not check.repaired)
    return pb.CheckProgress(finished=True, layers=len(found), damaged=damaged)
