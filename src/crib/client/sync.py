"""`SyncClient`: the methods of `Client`, for programs without asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from crib.client.blocking import BlockingFace, blocking, entering, iterating, run
from crib.client.connection import DEFAULT_TIMEOUT
from crib.client.face import PATIENCE, Client

if TYPE_CHECKING:
    from types import TracebackType


class SyncClient(BlockingFace):
    """A runtime at a unix socket: crib, containerd, CRI-O. Each method blocks until it is done.

        with SyncClient() as crib:  # CRIB_ENDPOINT, or /run/crib/crib.sock
            web = crib.run_pod_container(PodSpec("web"), ContainerSpec("docker.io/library/nginx"))
            print(crib.exec(web, ["nginx", "-v"]).err)
            crib.remove_pod_container(web)

    See `Client` for arguments, results and errors. Several threads may use it. Callbacks are called in a
    thread of its own, and must not call the client.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        patience: float = PATIENCE,
        pods_dir: str = "",
    ) -> None:
        super().__init__(run(_made(endpoint, timeout, patience, pods_dir)))

    def __enter__(self) -> Self:
        run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    close = blocking(Client.close)

    status = blocking(Client.status)
    stats = blocking(Client.stats)
    events = iterating(Client.events)

    pods = blocking(Client.pods)
    pod = blocking(Client.pod)
    run_pod = blocking(Client.run_pod)
    stop_pod = blocking(Client.stop_pod)
    remove_pod = blocking(Client.remove_pod)
    run_pod_container = blocking(Client.run_pod_container)
    stop_pod_container = blocking(Client.stop_pod_container)
    remove_pod_container = blocking(Client.remove_pod_container)
    run_manifest = blocking(Client.run_manifest)
    forward = entering(Client.forward)

    containers = blocking(Client.containers)
    container = blocking(Client.container)
    create_container = blocking(Client.create_container)
    start_container = blocking(Client.start_container)
    stop_container = blocking(Client.stop_container)
    remove_container = blocking(Client.remove_container)
    exec = blocking(Client.exec)
    logs = iterating(Client.logs)
    wait = blocking(Client.wait)
    copy_from = blocking(Client.copy_from)
    copy_to = blocking(Client.copy_to)

    images = blocking(Client.images)
    image = blocking(Client.image)
    pull = blocking(Client.pull)
    import_images = blocking(Client.import_images)
    remove_image = blocking(Client.remove_image)


async def _made(endpoint: str | None, timeout: float, patience: float, pods_dir: str) -> Client:
    """In the loop: a connection belongs to the one it is made in."""
    return Client(endpoint, timeout, patience, pods_dir)
