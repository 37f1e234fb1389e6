"""What is behind a fault proxy: a real registry, or images in memory."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from tests.fault_proxy import MAX_WAIT, Answer, Seen, Upstream
from tests.images import BuiltImage, digest_of


class ProxyUpstream:
    """Asks a real registry."""

    def __init__(self, url: str) -> None:
        self._netloc = urlsplit(url).netloc

    def __call__(self, seen: Seen) -> Answer:
        connection = http.client.HTTPConnection(self._netloc, timeout=MAX_WAIT)
        headers = {k: v for k, v in seen.headers.items() if k not in ("host", "connection")}
        try:
            connection.request(seen.method, seen.path, seen.body or None, headers)
            response = connection.getresponse()
            body = response.read()
            kept = {
                k: v for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding")
            }
            length = kept.pop("Content-Length", None)
            claimed = int(length) if length is not None and seen.method == "HEAD" else None
            return Answer(response.status, body, kept, length=claimed)
        finally:
            connection.close()


class Shelf:
    """Images in memory behind a registry's paths; ranges are served."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        """By REPOSITORY/manifests/REFERENCE."""
        self.blobs: dict[str, bytes] = {}

    def add(self, repository: str, image: BuiltImage, tag: str = "1") -> str:
        """The manifest's digest."""
        data = image.manifest_blob
        self.blobs |= image.blobs
        return self.put(repository, data, image.manifest["mediaType"], tag)

    def put(self, repository: str, data: bytes, media_type: str, tag: str = "1") -> str:
        """A document as a manifest; its digest."""
        for reference in (tag, digest_of(data)):
            self.manifests[f"{repository}/manifests/{reference}"] = data, media_type
        return digest_of(data)

    def __call__(self, seen: Seen) -> Answer:
        path = urlsplit(seen.path).path.removeprefix("/v2/")
        if path == "":
            return Answer(200, b"{}", {"Content-Type": "application/json"})
        if found := self.manifests.get(path):
            data, media_type = found
            headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
            return Answer(200, data, headers)
        blob = self.blobs.get(path.rpartition("/")[2]) if "/blobs/" in path else None
        if blob is None:
            body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            return Answer(404, body, {"Content-Type": "application/json"})
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.range)
        if match is None:
            return Answer(200, blob, headers)
        first, last = int(match[1]), min(int(match[2] or len(blob) - 1), len(blob) - 1)
        if first > last:
            return Answer(416, b"", {"Content-Range": f"bytes */{len(blob)}"})
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(blob)}"}
        return Answer(206, blob[first : last + 1], headers)


def from_url(url: str) -> Upstream:
    """A real registry, spoken to over plain http."""
    return ProxyUpstream(url)


def from_images(images: Mapping[str, BuiltImage]) -> Shelf:
    """Images by repository, each under the tag `1`."""
    shelf = Shelf()
    for repository, image in images.items():
        shelf.add(repository, image)
    return shelf
