"""An image store of its own for tests: roots below a temporary directory, and nothing mounted afterwards."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crib.backends.images.probe import probe_mounting
from crib.backends.images.store import LayerStore
from crib.host.mounts import mounts_below
from crib.model.image import Progress
from crib.model.image_settings import ImageSettings
from crib.model.paths import Paths
from tests.fakes.settings import image_settings
from tests.images import BuiltImage, digest_of


@dataclass
class ImageLab:
    """A store, its paths, and the progress that was told."""

    paths: Paths
    settings: ImageSettings
    store: LayerStore
    told: list[Progress] = field(default_factory=list)

    def staged(self) -> list[str]:
        """What lies in the staging directory."""
        return sorted(os.listdir(self.paths.staging)) if os.path.isdir(self.paths.staging) else []

    def layers(self) -> list[str]:
        """What lies in the layers directory."""
        return sorted(os.listdir(self.paths.layers))


@contextlib.asynccontextmanager
async def image_lab(root: Path, **settings: object) -> AsyncIterator[ImageLab]:
    """A store below `root`; the keys of [images] that are given replace the defaults."""
    paths = Paths(str(root / "data"), str(root / "state"))
    chosen = image_settings(**settings)
    store = LayerStore(paths, chosen, probe_mounting(paths, chosen.store))
    try:
        yield ImageLab(paths, chosen, store)
    finally:
        await store.close()
        await store.dismantle()
        assert mounts_below(str(root)) == []


Answer = Callable[[http.server.BaseHTTPRequestHandler], bool]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer: Answer

    def do_GET(self) -> None:
        if not type(self).answer(self):
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter."""


@contextlib.contextmanager
def fake_registry(answer: Answer) -> Iterator[str]:
    """A registry that misbehaves: `answer` handles a GET or returns False for a 404. Its host:port."""
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(handler: http.server.BaseHTTPRequestHandler, image: BuiltImage) -> bool:
    """Answer as a sane registry that has this image under every tag."""
    name = handler.path.rpartition("/")[2]
    if "/manifests/" in handler.path and name in (digest_of(image.manifest_blob, image.algorithm), "1"):
        reply(handler, image.manifest_blob, image.manifest["mediaType"])
        return True
    if "/blobs/" in handler.path and name in image.blobs:
        reply(handler, image.blobs[name], "application/octet-stream")
        return True
    return False


def reply(
    handler: http.server.BaseHTTPRequestHandler, body: bytes, media_type: str, status: int = 200
) -> None:
    """One whole answer."""
    handler.send_response(status)
    handler.send_header("Content-Type", media_type)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
