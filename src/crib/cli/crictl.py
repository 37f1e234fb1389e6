"""What crictl's commands do that have no other name here; and the configuration files that it takes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from crib.cli import progress
from crib.cli.each import naming
from crib.cli.inspection import opened
from crib.cli.output import as_dict, document, tell
from crib.cli.session import CommandError, say
from crib.client import images, lookup, pods
from crib.client.plain_messages import from_plain
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from crib.cli.crictl_options import (
        CreateOptions,
        DocumentOptions,
        InspectiOptions,
        InspectpOptions,
        RunpOptions,
        UpdateRuntimeConfigOptions,
        VersionOptions,
    )
    from crib.cli.session import CliSession
    from crib.client import Connection

_Kind = TypeVar("_Kind", bound="Message")
MAX_CONFIG = 1 << 20
"""Bytes of a configuration file."""


async def runp(session: CliSession, options: RunpOptions) -> None:
    """Make a pod; print its id."""
    config = pod_config(options.config)
    async with session.connect() as connection:
        tell((await pods.run_sandbox(connection, config, options.handler)).id)


async def create(session: CliSession, options: CreateOptions) -> None:
    """Create a container; print its id."""
    sandbox = _read(options.pod_config, pb.PodSandboxConfig)
    config = container_config(options.container_config)
    async with session.connect() as connection:
        pod = await lookup.find_pod(connection, options.pod)
        if options.pull:
            await _bring(connection, config)
        with naming(lookup.PodOrContainer(pod)):
            tell(await pods.create_container(connection, pods.Pod(pod.id, sandbox), config))


async def run(session: CliSession, container_path: str, pod_path: str) -> None:
    """Make a pod and a container in it and start that; print its id. A failure leaves nothing behind."""
    sandbox, config = pod_config(pod_path), container_config(container_path)
    async with session.connect() as connection:
        await _bring(connection, config)
        made = await pods.run(connection, sandbox, [config])
        tell(made.containers[config.metadata.name])


def are_configs(paths: list[str]) -> bool:
    """Whether these are what crictl run takes, not manifests: a container's and a pod's configuration."""
    if len(paths) != 2 or "-" in paths:
        return False
    try:
        found = [_document(path) for path in paths]
    except CommandError:
        return False
    return all(isinstance(one, dict) and "metadata" in one and "kind" not in one for one in found)


async def _bring(connection: Connection, config: pb.ContainerConfig) -> None:
    name = config.image.image
    if await images.find(connection, name) is None:
        await progress.pull(connection, name)


def pod_config(path: str) -> pb.PodSandboxConfig:
    """A PodSandboxConfig from a file, with a namespace and a uid."""
    config = _read(path, pb.PodSandboxConfig)
    if not config.metadata.name:
        raise CommandError(f"{path}: metadata.name is missing")
    config.metadata.namespace = config.metadata.namespace or "default"
    config.metadata.uid = config.metadata.uid or str(uuid.uuid4())
    return config


def container_config(path: str) -> pb.ContainerConfig:
    """A ContainerConfig from a file."""
    config = _read(path, pb.ContainerConfig)
    if not config.metadata.name or not config.image.image:
        missing = "image.image" if config.metadata.name else "metadata.name"
        raise CommandError(f"{path}: {missing} is missing")
    return config


def _read(path: str, kind: type[_Kind]) -> _Kind:
    """Fields that the CRI does not have are told and passed over, as crictl passes over them."""
    found = _document(path)
    try:
        return from_plain(found, kind, strict=True)
    except ValueError as error:
        unknown = error
    try:
        config = from_plain(found, kind)
    except ValueError as error:
        raise CommandError(f"{path}: {error}") from None
    say(f"note: {path}: {str(unknown).partition(' Available Fields')[0]} It is passed over.")
    return config


def _document(path: str) -> Any:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8 text") from None
    if len(text) > MAX_CONFIG:
        raise CommandError(f"{path} is longer than {MAX_CONFIG} characters")
    try:
        return yaml.safe_load(text)  # JSON is YAML, too
    except yaml.YAMLError as error:
        raise CommandError(f"{path} is neither JSON nor YAML: {error}") from None


async def inspectp(session: CliSession, options: InspectpOptions) -> None:
    """Everything about each pod; several as a list."""
    found = []
    async with session.connect() as connection:
        for name in options.pods:
            pod = await lookup.find_pod(connection, name)
            request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
            reply = await connection.call(connection.runtime.PodSandboxStatus, request)
            found.append(opened(reply))
    document(found[0] if len(found) == 1 else found, options.output)


async def inspecti(session: CliSession, options: InspectiOptions) -> None:
    """Everything about each image; several as a list."""
    found = []
    async with session.connect() as connection:
        for name in options.images:
            image = await images.resolve(connection, name)
            request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image.id), verbose=True)
            reply = await connection.call(connection.image.ImageStatus, request)
            found.append(opened(reply))
    document(found[0] if len(found) == 1 else found, options.output)


async def metricsp(session: CliSession, options: DocumentOptions) -> None:
    """ListPodSandboxMetrics."""
    async with session.connect() as connection:
        reply = await connection.call(
            connection.runtime.ListPodSandboxMetrics, pb.ListPodSandboxMetricsRequest()
        )
    document(as_dict(reply), options.output)


async def metricdescs(session: CliSession, options: DocumentOptions) -> None:
    """ListMetricDescriptors."""
    async with session.connect() as connection:
        reply = await connection.call(
            connection.runtime.ListMetricDescriptors, pb.ListMetricDescriptorsRequest()
        )
    document(as_dict(reply), options.output)


async def imagefsinfo(session: CliSession, options: DocumentOptions) -> None:
    """ImageFsInfo."""
    async with session.connect() as connection:
        reply = await connection.call(connection.image.ImageFsInfo, pb.ImageFsInfoRequest())
    document({"status": as_dict(reply)}, options.output)


async def version(session: CliSession, options: VersionOptions) -> None:
    """As crictl writes it."""
    async with session.connect() as connection:
        reply = await connection.call(connection.runtime.Version, pb.VersionRequest())
    tell(f"Version:  {reply.version}")
    tell(f"RuntimeName:  {reply.runtime_name}")
    tell(f"RuntimeVersion:  {reply.runtime_version}")
    tell(f"RuntimeApiVersion:  {reply.runtime_api_version}")


async def runtime_config(session: CliSession, options: DocumentOptions) -> None:
    """RuntimeConfig."""
    async with session.connect() as connection:
        reply = await connection.call(connection.runtime.RuntimeConfig, pb.RuntimeConfigRequest())
    document(as_dict(reply), options.output)


async def update_runtime_config(session: CliSession, options: UpdateRuntimeConfigOptions) -> None:
    """UpdateRuntimeConfig."""
    network = pb.NetworkConfig(pod_cidr=options.pod_cidr)
    request = pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=network))
    async with session.connect() as connection:
        await connection.call(connection.runtime.UpdateRuntimeConfig, request)
