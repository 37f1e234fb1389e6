"""`Client`: what people do with a runtime, one method each, in dataclasses. `sync` has its other face."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from crib.client import copying, events, images, logs, lookup, manifests, pods
from crib.client.connection import DEFAULT_TIMEOUT, Connection
from crib.client.deadlines import left_of
from crib.client.errors import ImageNotFound, NotFound, TimedOut
from crib.client.execution import execute
from crib.client.images import Pulled
from crib.client.logs import WantedLines
from crib.client.many import those_there
from crib.client.specs import CommandSpec, ContainerSpec, PodSpec, container_config, pod_config
from crib.client.streams import StreamOptions
from crib.client.streams.listening import forwarded
from crib.client.targets import config_of, container_id_of, pod_id_of
from crib.client.usage import UsageClient
from crib.client.views import (
    ContainerExit,
    ContainerInfo,
    ImageInfo,
    PodContainer,
    PodInfo,
    RuntimeEvent,
    container_exit,
    container_info,
    image_info,
    missed_event,
    nanoseconds,
    pod_info,
    pull_report,
    runtime_event,
    runtime_info,
)
from crib.client.workloads import DEFAULT_PODS_DIR, PODS_DIR_VARIABLE
from crib.manifest.plan import Dirs
from crib.stubs.node.v1.node_pb2 import EventsCut, EventsRequest
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from crib.client.targets import ContainerLike, PodLike
    from crib.client.usage import UsageReading
    from crib.client.views import CommandResult, PullReport, RuntimeInfo
    from crib.wire.crilog import LogLine

    Login: TypeAlias = tuple[str, str] | pb.AuthConfig
    """Of a registry: user name and password, or the CRI's message."""

PullPolicy = Literal["missing", "always", "never"]
PATIENCE = 30.0
"""Seconds for which a runtime may be away, for example to be restarted."""


class Client:
    """A runtime at a unix socket: crib, containerd, CRI-O. For asyncio; `SyncClient` has the same methods.

        async with Client() as crib:  # CRIB_ENDPOINT, or /run/crib/crib.sock
            web = await crib.run_pod_container(PodSpec("web"), ContainerSpec("docker.io/library/nginx"))
            print((await crib.exec(web, ["nginx", "-v"])).err)
            await crib.remove_pod_container(web)

    `timeout` is in seconds, for each call that names none. `patience`: seconds for which the runtime may be
    away; `repeats` says which calls outlast that. Every method raises ClientError, and OSError for files of
    this machine that it was given. A name is looked up at each call, what a method returned is not.
    `connection` leads to the functions below, in protobuf. `pods_dir` is where volumes and logs of pods are
    made on this machine; empty: CRIB_PODS_DIR, or where `crib run` makes them.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        patience: float = PATIENCE,
        pods_dir: str = "",
    ) -> None:
        self.connection = Connection(endpoint, timeout, patience)
        self._dirs = Dirs(pods_dir or os.environ.get(PODS_DIR_VARIABLE) or DEFAULT_PODS_DIR)
        self._usage = UsageClient(self.connection)

    async def __aenter__(self) -> Self:
        await self.connection.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. What it made stays."""
        await self.connection.close()

    # the runtime

    async def status(self) -> RuntimeInfo:
        """Who answers, and whether it is ready."""
        runtime = self.connection.runtime
        version, status = await asyncio.gather(
            self.connection.call(runtime.Version, pb.VersionRequest()),
            self.connection.call(runtime.Status, pb.StatusRequest()),
        )
        return runtime_info(version, status)

    async def stats(self) -> UsageReading:
        """What all pods and containers use now. A figure that the runtime does not tell is None."""
        return await self._usage.read()

    async def events(
        self,
        *,
        kinds: Sequence[str] = (),
        pod: str = "",
        since: datetime | None = None,
        after: int = 0,
        follow: bool = True,
    ) -> AsyncIterator[RuntimeEvent]:
        """Events as they come, each once, also across restarts of the runtime.

        `since` and `after` (the number of an event) also give earlier ones, which only crib keeps. Without
        `follow` there are only those.
        """
        begin = 0 if after else nanoseconds(since) if since is not None else time.time_ns()
        request = EventsRequest(kinds=kinds, pod=pod, since=begin, after=after)
        if not follow:
            async for answer in events.kept(self.connection, request):
                for event in answer.events:
                    yield runtime_event(event)
            return
        async for item in events.resumed(self.connection, request, self.connection.patience):
            yield missed_event(item) if isinstance(item, EventsCut) else runtime_event(item)

    # pods

    async def pods(self) -> list[PodInfo]:
        """All pods, the newest first."""
        listed = await lookup.pods(self.connection)
        return await those_there(self._pod(pod.id) for pod in listed)

    async def pod(self, target: PodLike) -> PodInfo:
        """The pod as it is now."""
        return await self._pod(await pod_id_of(self.connection, target))

    async def run_pod(self, pod: PodSpec | pb.PodSandboxConfig) -> PodInfo:
        """Make a pod without containers."""
        handler = pod.handler if isinstance(pod, PodSpec) else ""
        made = await pods.run_sandbox(self.connection, pod_config(pod, self._dirs), handler)
        return await self._pod(made.id)

    async def stop_pod(self, target: PodLike, *, grace: int = 30) -> None:
        """Stop all containers of a pod, with so many seconds before SIGKILL, and the pod. Safe to repeat."""
        await manifests.stop(self.connection, await pod_id_of(self.connection, target), grace)

    async def remove_pod(self, target: PodLike) -> None:
        """Remove a pod with its containers, running or not, and its files in `pods_dir`."""
        pod_id = await pod_id_of(self.connection, target)
        try:
            status = await pods.sandbox_status(self.connection, pod_id)
        except NotFound:
            return
        await manifests.remove(self.connection, status, self._dirs)

    # a pod with one container

    async def run_pod_container(
        self,
        pod: PodSpec | pb.PodSandboxConfig,
        container: ContainerSpec | pb.ContainerConfig,
        *,
        pull: PullPolicy = "missing",
    ) -> PodContainer:
        """Bring the image, make a pod with this container, and start it. Nothing stays of what fails."""
        config = pod_config(pod, self._dirs)
        wanted = container_config(container, config)
        await self._bring(wanted.image.image, pull)
        handler = pod.handler if isinstance(pod, PodSpec) else ""
        made = await pods.run(self.connection, config, [wanted], handler)
        status = await pods.container_status(self.connection, made.containers[wanted.metadata.name])
        return PodContainer(await self._pod(made.id), container_info(status))

    stop_pod_container = stop_pod
    remove_pod_container = remove_pod

    async def run_manifest(
        self,
        manifest: str | os.PathLike[str],
        *,
        replace: bool = False,
        restart: bool = False,
        progress: Callable[[PullReport], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> list[PodInfo]:
        """Run the pods of a Kubernetes manifest as `crib run` does: of a file, or of a text with line breaks.

        All is checked and pulled before anything is made. `replace` takes the place of pods of the same name.
        `restart` has the daemon keep them up until they are removed, which only crib does. `note` is called
        with what has no effect. InvalidRequest has everything that is wrong, a line each.
        """
        listener = manifests.Listening(progress, note)
        plans = await asyncio.to_thread(manifests.read, manifest, self._dirs)
        run = manifests.keep if restart else manifests.run
        made = await run(self.connection, plans, self._dirs, listener, replace=replace)
        return [await self._pod(pod_id) for pod_id in made]

    @contextlib.asynccontextmanager
    async def forward(
        self, pod: PodLike, port: int, *, local_port: int = 0, address: str = "127.0.0.1"
    ) -> AsyncIterator[tuple[str, int]]:
        """Listen on this machine, while the block lasts, for connections that go on to a port of the pod.

        Gives the address and port to connect to; of `local_port` 0 it is a free one.
        """
        pod_id = await pod_id_of(self.connection, pod)
        async with forwarded(self.connection, pod_id, port, (address, local_port)) as where:
            yield where

    # containers

    async def containers(self, pod: PodLike | None = None) -> list[ContainerInfo]:
        """All containers, or those of a pod, the oldest first."""
        listed = await lookup.containers(
            self.connection, await pod_id_of(self.connection, pod) if pod is not None else ""
        )
        return await those_there(self._container(one.id) for one in listed)

    async def container(self, target: ContainerLike, name: str = "") -> ContainerInfo:
        """The container as it is now. Of a pod it is the one called `name`.

        Without a name it is the pod's only one, or the one of its annotation `lookup.DEFAULT_CONTAINER`.
        """
        return await self._container(await container_id_of(self.connection, target, name))

    async def create_container(
        self, pod: PodLike, container: ContainerSpec | pb.ContainerConfig, *, pull: PullPolicy = "missing"
    ) -> ContainerInfo:
        """Make one more container in a pod, and do not start it."""
        status = (await self.pod(pod)).raw
        config = config_of(status)
        wanted = container_config(container, config)
        await self._bring(wanted.image.image, pull)
        made = await pods.create_container(self.connection, pods.Pod(status.id, config), wanted)
        return await self._container(made)

    async def start_container(self, target: ContainerLike) -> None:
        """Start a container that was created."""
        await pods.start_container(self.connection, await container_id_of(self.connection, target))

    async def stop_container(self, target: ContainerLike, *, grace: int = 30) -> None:
        """Stop a container, with so many seconds before SIGKILL. Safe to repeat."""
        await pods.stop_container(self.connection, await container_id_of(self.connection, target), grace)

    async def remove_container(self, target: ContainerLike) -> None:
        """Remove a container, running or not."""
        request = pb.RemoveContainerRequest(container_id=await container_id_of(self.connection, target))
        await self.connection.call(self.connection.runtime.RemoveContainer, request)

    async def exec(
        self,
        target: ContainerLike,
        command: Sequence[str] | CommandSpec,
        *,
        container: str = "",
        input: bytes | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        """Run a command in a container to its end. It reads `input`, or nothing.

        Its output may be 16 MiB: Exhausted beyond that. TimedOut after `timeout` seconds.
        """
        container_id = await container_id_of(self.connection, target, container)
        return await execute(self.connection, container_id, command, input, timeout)

    async def logs(
        self,
        target: ContainerLike,
        *,
        container: str = "",
        follow: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
    ) -> AsyncIterator[LogLine]:
        """The lines of a container's log, or the last `tail`; with `follow` until it has ended.

        The file is read on this machine: NotFound, naming it, where it cannot be reached.
        """
        container_id = await container_id_of(self.connection, target, container)
        wanted = WantedLines(tail, nanoseconds(since) if since is not None else 0)
        async for line in logs.of_container(self.connection, container_id, wanted, go_on=follow):
            yield line

    async def wait(
        self, target: ContainerLike, *, container: str = "", timeout: float | None = None
    ) -> ContainerExit:
        """Wait until a container has ended. TimedOut after `timeout` seconds, NotFound if it is removed."""
        container_id = await container_id_of(self.connection, target, container)
        left = left_of(None if timeout is None else time.monotonic() + timeout)
        if left is not None and left <= 0:
            raise TimedOut(f"no time was left to wait for container {container_id[:12]}")
        return container_exit(await events.wait_exited(self.connection, container_id, left))

    async def copy_from(
        self, target: ContainerLike, path: str, destination: str, *, container: str = ""
    ) -> list[str]:
        """Copy a file or directory out of a container, by its own `tar`. Returns what could not be copied."""
        files = await self._files(target, container)
        return (await copying.download(files, path, destination)).lines

    async def copy_to(
        self, target: ContainerLike, source: str, path: str, *, container: str = ""
    ) -> list[str]:
        """Copy a file or directory into a container, by its own `tar`. Returns what could not be copied."""
        return (await copying.upload(await self._files(target, container), source, path)).lines

    # images

    async def images(self) -> list[ImageInfo]:
        """All images of the node, by name."""
        return [image_info(image) for image in await images.list_images(self.connection)]

    async def image(self, name: str) -> ImageInfo:
        """The image of that name, digest or id, or the beginning of an id. ImageNotFound."""
        return image_info(await images.resolve(self.connection, name))

    async def pull(
        self,
        image: str,
        *,
        progress: Callable[[PullReport], None] | None = None,
        auth: Login | None = None,
        platform: str = "",
    ) -> ImageInfo:
        """Bring an image to the node. `progress` is called as it goes on; only crib tells.

        ImageNotFound, ImageDenied, ImageRejected, RegistryUnavailable. Only crib knows a `platform`.
        """
        login = pb.AuthConfig(username=auth[0], password=auth[1]) if isinstance(auth, tuple) else auth
        image_id = ""
        async for item in images.pull_progress(self.connection, image, login, platform):
            if isinstance(item, Pulled):
                image_id = item.image_id
            elif progress is not None:
                progress(pull_report(item))
        return await self.image(image_id)

    async def import_images(self, path: str, names: Sequence[str] = ()) -> list[ImageInfo]:
        """Bring the images of an archive (absolute path, as the runtime sees it). NotOffered but by crib."""
        brought: list[str] = []
        async for step in images.import_progress(self.connection, path, names):
            brought += [image.image_id for image in step.images]
        return [await self.image(image_id) for image_id in brought]

    async def remove_image(self, name: str) -> None:
        """Remove an image under all its names. ImageNotFound if it is not there."""
        await images.remove(self.connection, (await self.image(name)).id)

    # behind the verbs

    async def _bring(self, image: str, policy: PullPolicy) -> None:
        here = policy != "always" and await images.find(self.connection, image) is not None
        if not here and policy == "never":
            raise ImageNotFound(f"image {image} is not on this node, and it is not to be pulled")
        if not here:
            await self.pull(image)

    async def _pod(self, pod_id: str) -> PodInfo:
        return pod_info(await pods.sandbox_status(self.connection, pod_id))

    async def _container(self, container_id: str) -> ContainerInfo:
        return container_info(await pods.container_status(self.connection, container_id))

    async def _files(self, target: ContainerLike, name: str) -> copying.Container:
        return copying.Container(
            self.connection, await container_id_of(self.connection, target, name), StreamOptions()
        )
