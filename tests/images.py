"""Makes container images for tests and demonstrations: small, from busybox, in every form that they come in.

    image = busybox_image()
    write_layout(path, [image])           # an OCI layout directory
    write_oci_archive(path, [image])      # a tar of one
    write_saved_archive(path, [image])    # what `docker save` wrote for years (legacy paths)
    push(url, image, "demo/busybox", "1")  # to a registry, over its HTTP API

Nothing of crib is used here, so that a mistake of crib's own cannot hide itself.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import shutil
import struct
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

APPLETS = (
    *(
        "sh",
        "ash",
        "cat",
        "chmod",
        "chown",
        "cp",
        "date",
        "dd",
        "df",
        "echo",
        "env",
        "false",
        "grep",
        "head",
        "hostname",
    ),
    *(
        "httpd",
        "id",
        "ip",
        "kill",
        "ln",
        "ls",
        "mkdir",
        "mount",
        "mv",
        "nc",
        "nslookup",
        "pgrep",
        "ping",
        "ps",
        "pwd",
    ),
    *(
        "readlink",
        "rm",
        "sed",
        "sleep",
        "sort",
        "stat",
        "stty",
        "sync",
        "tail",
        "tee",
        "test",
        "touch",
        "tr",
        "true",
    ),
    *("tty", "uname", "vi", "wc", "wget", "whoami", "xargs", "yes"),
)
GZIP, ZSTD, PLAIN = "gzip", "zstd", ""
_MTIME = 1_700_000_000


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`sha256:` and the hex digest."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def rest_digest_of(content: bytes, data_end: int) -> str:
    """Of a layer's file: what is not data, in windows of 1 MiB; those that are all zeros do not count."""
    digest = hashlib.sha256()
    places = [0, data_end, *range((data_end | 0xFFFFF) + 1, len(content), 1 << 20)]
    for start, end in zip(places, [4096, *places[2:], len(content)], strict=True):
        if any(content[start:end]):
            digest.update(struct.pack(">QQ", start, end - start) + content[start:end])
    return f"sha256:{digest.hexdigest()}"


@dataclass(frozen=True)
class Entry:
    """One member of a layer; `kind` is a tarfile type, `link` the target of a link, `pax` its own records."""

    name: str
    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    uid: int = 0
    gid: int = 0
    pax: Mapping[str, str] = field(default_factory=dict)


def directory(name: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, mode=mode, kind=tarfile.DIRTYPE)


def layer_tar(entries: Sequence[Entry]) -> bytes:
    """The tar of a layer; the same entries give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
            info.uid, info.gid, info.mtime, info.size = entry.uid, entry.gid, _MTIME, len(entry.data)
            info.pax_headers = dict(entry.pax)
            tar.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


def busybox_tar() -> bytes:
    """A root file system: this machine's static busybox, its applets, /etc/passwd, the usual directories."""
    program = shutil.which("busybox")
    if program is None:
        raise FileNotFoundError("busybox is missing: install the package busybox-static")
    passwd = (
        b"root:x:0:0:root:/root:/bin/sh\n"
        b"nobody:x:65534:65534:nobody:/:/bin/false\n"
        b"user:x:1000:1000::/home:/bin/sh\n"
    )
    entries = [
        directory(name) for name in ("bin", "etc", "dev", "proc", "sys", "run", "root", "home", "var", "usr")
    ]
    entries.append(directory("tmp", 0o1777))
    entries.append(Entry("bin/busybox", Path(program).read_bytes(), 0o755))
    entries += [Entry(f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox", mode=0o777) for name in APPLETS]
    entries.append(Entry("etc/passwd", passwd))
    entries.append(Entry("etc/group", b"root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n"))
    return layer_tar(entries)


@dataclass(frozen=True)
class BuiltLayer:
    """A layer's tar and how it is packed."""

    tar: bytes
    compression: str = GZIP
    algorithm: str = "sha256"

    @cached_property
    def diff_id(self) -> str:
        return digest_of(self.tar, self.algorithm)

    @cached_property
    def blob(self) -> bytes:
        # Once: a registry that packs for each answer seems to stall.
        return compress(self.tar, self.compression)

    @property
    def media_type(self) -> str:
        return "application/vnd.oci.image.layer.v1.tar" + (f"+{self.compression}" if self.compression else "")


def compress(data: bytes, compression: str) -> bytes:
    """The bytes as gzip, zstd or as they are; always the same for the same input."""
    if compression == GZIP:
        return gzip.compress(data, 6, mtime=0)
    if compression == ZSTD:
        from backports import zstd

        packed: bytes = zstd.compress(data)
        return packed
    return data


@dataclass(frozen=True)
class BuiltImage:
    """An image to be written or pushed; `config` is the `config` part of its config document."""

    layers: tuple[BuiltLayer, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    architecture: str = "amd64"
    algorithm: str = "sha256"
    """Of the digests in its manifest."""

    @property
    def config_blob(self) -> bytes:
        document = {
            "architecture": self.architecture,
            "os": "linux",
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            "history": [],
        }
        return json.dumps(document, sort_keys=True).encode()

    @property
    def id(self) -> str:
        return digest_of(self.config_blob)

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._descriptor(self.config_blob, "application/vnd.oci.image.config.v1+json"),
            "layers": [self._descriptor(layer.blob, layer.media_type) for layer in self.layers],
        }

    def _descriptor(self, data: bytes, media_type: str) -> dict[str, Any]:
        return descriptor(data, media_type, self.algorithm)

    @property
    def manifest_blob(self) -> bytes:
        return json.dumps(self.manifest).encode()

    @property
    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest."""
        blobs = (self.config_blob, *(layer.blob for layer in self.layers))
        return {digest_of(blob, self.algorithm): blob for blob in blobs}


def machine_architecture() -> str:
    """This machine's, as OCI names it."""
    import platform

    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def busybox_image(
    *layers: Sequence[Entry],
    compression: str = GZIP,
    name: str = "docker.io/library/busybox:test",
    **config: Any,
) -> BuiltImage:
    """busybox, with further layers on top of it; `config` gives fields such as Cmd or Env."""
    built = (
        BuiltLayer(busybox_tar(), compression),
        *(BuiltLayer(layer_tar(one), compression) for one in layers),
    )
    settings = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **config}
    return BuiltImage(built, settings, (name,), machine_architecture())


def descriptor(data: bytes, media_type: str, algorithm: str = "sha256") -> dict[str, Any]:
    """What a manifest says of a blob."""
    return {"mediaType": media_type, "digest": digest_of(data, algorithm), "size": len(data)}


def layout_files(images: Sequence[BuiltImage]) -> dict[str, bytes]:
    """The files of an OCI layout by name."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    entries = []
    for image in images:
        entry = descriptor(image.manifest_blob, image.manifest["mediaType"], image.algorithm)
        for digest, blob in {**image.blobs, entry["digest"]: image.manifest_blob}.items():
            files[f"blobs/{digest.replace(':', '/')}"] = blob
        entry["platform"] = {"os": "linux", "architecture": image.architecture}
        entries += [{**entry, "annotations": {"io.containerd.image.name": name}} for name in image.names] or [
            entry
        ]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return files


def saved_files(images: Sequence[BuiltImage]) -> dict[str, bytes]:
    """The files of a `docker save` archive as it was before Docker 25."""
    files: dict[str, bytes] = {}
    entries = []
    for image in images:
        paths = [f"{layer.diff_id.removeprefix('sha256:')}/layer.tar" for layer in image.layers]
        files |= dict(zip(paths, (layer.tar for layer in image.layers), strict=True))
        config = f"{image.id.removeprefix('sha256:')}.json"
        files[config] = image.config_blob
        entries.append({"Config": config, "RepoTags": list(image.names), "Layers": paths})
    files["manifest.json"] = json.dumps(entries).encode()
    return files


def docker_layout_files(images: Sequence[BuiltImage]) -> dict[str, bytes]:
    """What Docker 25 and later save: an OCI layout with a manifest.json that points into its blobs."""
    unnamed = [BuiltImage(image.layers, image.config, (), image.architecture) for image in images]
    files = layout_files(unnamed)
    entries = [
        {
            "Config": f"blobs/sha256/{image.id.removeprefix('sha256:')}",
            "RepoTags": list(image.names),
            "Layers": [
                f"blobs/sha256/{digest_of(layer.blob).removeprefix('sha256:')}" for layer in image.layers
            ],
        }
        for image in images
    ]
    return {**files, "manifest.json": json.dumps(entries).encode()}


def write_files(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files below a directory."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files as one tar."""
    path.write_bytes(layer_tar([Entry(name, data) for name, data in files.items()]))
    return path


def write_layout(path: Path, images: Sequence[BuiltImage]) -> Path:
    """An OCI layout directory."""
    return write_files(path, layout_files(images))


def write_oci_archive(path: Path, images: Sequence[BuiltImage]) -> Path:
    """A tar of an OCI layout."""
    return write_tar(path, layout_files(images))


def write_saved_archive(path: Path, images: Sequence[BuiltImage]) -> Path:
    """A `docker save` archive of the old kind."""
    return write_tar(path, saved_files(images))


def push(url: str, image: BuiltImage, repository: str, tag: str) -> str:
    """Push to the registry at `url` (plain http); the manifest's digest (OCI distribution spec, Push)."""
    for digest, blob in image.blobs.items():
        push_blob(url, repository, digest, blob)
    push_manifest(url, repository, tag, image.manifest_blob, image.manifest["mediaType"])
    return digest_of(image.manifest_blob)


def push_blob(url: str, repository: str, digest: str, blob: bytes) -> None:
    """One blob in one piece."""
    response = _call(url, "POST", f"/v2/{repository}/blobs/uploads/")
    place = urlsplit(response["location"])
    query = f"{place.query}&digest={digest}" if place.query else f"digest={digest}"
    _call(url, "PUT", f"{place.path}?{query}", blob, "application/octet-stream")


def push_manifest(url: str, repository: str, reference: str, manifest: bytes, media_type: str) -> None:
    """One manifest or index, under a tag or a digest."""
    _call(url, "PUT", f"/v2/{repository}/manifests/{reference}", manifest, media_type)


def _call(url: str, method: str, path: str, body: bytes = b"", media_type: str = "") -> dict[str, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": media_type} if media_type else {})
        response = connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise OSError(f"{method} {path} at {url}: status {response.status}: {text[:300]!r}")
        return {key.lower(): value for key, value in response.getheaders()}
    finally:
        connection.close()
