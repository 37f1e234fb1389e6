"""Image layers in the Engine: loaded when a container is made, from crib's own store, and taken away again.

What is loaded is an image of layers only, whose config says nothing: environment, user, volumes and all else
come from crib. So containers whose images have the same layers share it, and the Engine adds nothing of its
own (no anonymous volumes, no health checks). Its digest depends on the layers alone, and the Engine checks
each of them against its diff id. It has no name: nobody can push or run it by mistake.

It is found again by its label, whatever the Engine's store calls it.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from crib.backends.docker.api import EngineCall
from crib.backends.docker.environment import DockerEnvironment
from crib.backends.docker.nouns import LABEL_LAYERS
from crib.backends.environment import SharedLayers
from crib.backends.failures import trying
from crib.backends.images.layer_tars import LayerTar, RemadeTar, StoredTars, directory_entries
from crib.host.threads import OURS, Job
from crib.model.errors import Broken, CribError, NotFound, WrongState
from crib.model.ids import Digest, digest_hex
from crib.model.image import Layer
from crib.tasks.keeper import HANDS
from crib.wire.tar_member import Kind, Member
from crib.wire.tar_writer import END, member_header, padding

_log = logging.getLogger(__name__)

_PIECE_TIME = 60.0
"""Seconds for reading one piece of a layer."""


class EngineImages:
    """Of one handler."""

    def __init__(self, environment: DockerEnvironment, layers: SharedLayers) -> None:
        self._env = environment
        self._layers = layers
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._stored = StoredTars(environment.paths.layer_file, environment.paths.layer_directory)
        self._going: dict[str, asyncio.Task[None]] = {}
        """Images that no container of ours uses, by their ids, until they are removed."""

    async def ensure(self, layers: Sequence[Digest], known: Sequence[Layer]) -> str:
        """The Engine's id of the image with these layers (lowest first); loaded if it is not there.

        `known` has what is known of their files: others are read as they are mounted.
        """
        key = _key(layers)
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = await self._find(key) or await self._load(key, await self._tars(layers, known))
        self._keep(found)
        return found

    async def ensure_program(self, path: str, name: str) -> str:
        """The same of an image with nothing in it but this program of the host."""
        what = f"reading {path}"
        with trying(what):
            tar = await OURS.run(what, _program_tar, path, name)
        key = digest_hex(tar.diff_id)
        async with self._locks.setdefault(key, asyncio.Lock()):
            return await self._find(key) or await self._load(key, [tar])

    async def release(self, image: str) -> None:
        """A container that used it is gone. It goes too, now or after `image_time`, if no other does."""
        seconds = self._env.docker.image_time
        if seconds <= 0:
            await self._remove(image)
        elif image and image not in self._going:
            task = HANDS.part("removal of an unused image", self._remove_later(image, seconds))
            self._going[image] = task
            task.add_done_callback(lambda _done: self._going.pop(image, None))

    async def release_unused(self) -> None:
        """As if a container had gone of each: an earlier daemon may have left some."""
        for image in await self._all():
            await self.release(image)

    async def remove_all(self) -> None:
        """Those of ours that no container uses."""
        for image in await self._all():
            await self._remove(image)

    def close(self) -> None:
        """What is not removed yet is for the next daemon."""
        for task in tuple(self._going.values()):
            task.cancel()

    def _keep(self, image: str) -> None:
        if (task := self._going.get(image)) is not None:
            task.cancel()

    async def _remove_later(self, image: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._remove(image)

    async def _remove(self, image: str) -> None:
        """Without force: the Engine refuses it while a container uses it, of whomever."""
        try:
            await self._env.api.ask(EngineCall(f"removing image {image}", "DELETE", f"/images/{image}"))
        except (NotFound, WrongState):
            return
        except CribError as error:
            _log.warning("%s; it is tried again when the next container goes", error)

    async def _find(self, key: str) -> str:
        found = await self._listed(f"{LABEL_LAYERS}={key}")
        return found[0] if found else ""

    async def _all(self) -> list[str]:
        return await self._listed(LABEL_LAYERS)

    async def _listed(self, label: str) -> list[str]:
        query = {"filters": {"label": [label]}}
        found = await self._env.api.ask(EngineCall("looking for images", "GET", "/images/json", query))
        # Somebody may have named one: it is his then.
        return [str(one["Id"]) for one in found or () if not _names(one)]

    async def _tars(self, layers: Sequence[Digest], known: Sequence[Layer]) -> list[LayerTar]:
        """Of those layers that can be seen: one may hide all that is below it."""
        places = await self._layers.acquire(layers)
        visible = layers[len(layers) - len(places) :]
        what = f"looking at {len(visible)} layers"
        with trying(what):
            job = Job(what, limit=self._env.docker.load_timeout)
            files = {layer.diff_id: layer for layer in known}
            pairs = list(zip(visible, places, strict=True))
            return await OURS.run(job, lambda: [self._tar(*pair, files) for pair in pairs])

    def _tar(self, layer: Digest, place: str, files: Mapping[Digest, Layer]) -> LayerTar:
        if (known := files.get(layer)) is not None:
            return self._stored.tar_of(known)
        return RemadeTar(place, Layer(layer, layer, 0), directory_entries)

    async def _load(self, key: str, tars: Sequence[LayerTar]) -> str:
        what = f"loading {len(tars)} layers into the Engine"
        config = {
            "architecture": self._env.host.architecture,
            "os": "linux",
            "config": {"Labels": {LABEL_LAYERS: key}},
            "rootfs": {"type": "layers", "diff_ids": [tar.diff_id for tar in tars]},
        }
        limit = self._env.docker.load_timeout
        call = EngineCall(what, "POST", "/images/load", {"quiet": "1"}, limit=limit)
        said = await self._env.api.send(call, _in_threads(_json(config), tars))
        if not (found := await self._find(key)):
            words = bytes(said)[-500:].decode("utf-8", "replace").strip()
            raise Broken(f"{what}: it is not there afterwards; the Engine says: {words or 'nothing'}")
        return found


class _ProgramTar:
    """A layer with one program. See LayerTar."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.diff_id = Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")

    def pieces(self) -> Iterator[bytes]:
        yield self._data


def _program_tar(path: str, name: str) -> _ProgramTar:
    with open(path, "rb") as file:
        program = file.read()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(program), 0o555
        tar.addfile(member, io.BytesIO(program))
    return _ProgramTar(made.getvalue())


def _key(layers: Sequence[Digest]) -> str:
    return hashlib.sha256(",".join(layers).encode()).hexdigest()


def _names(image: Any) -> list[str]:
    names = [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
    return [name for name in names if not name.startswith("<none>")]


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _archive(config: bytes, tars: Sequence[LayerTar]) -> Iterator[bytes]:
    """As `docker save` writes it (version 1.2), in bounded pieces."""
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{digest_hex(tar.diff_id)}/layer.tar" for tar in tars]
    manifest = _json([{"Config": name, "RepoTags": None, "Layers": paths}])
    for path, data in (("manifest.json", manifest), (name, config)):
        yield _header(path, len(data)) + data + bytes(padding(len(data)))
    for path, tar in dict(zip(paths, tars, strict=True)).items():
        yield _header(path, tar.size)
        yield from tar.pieces()
        yield bytes(padding(tar.size))
    yield END


def _header(name: str, size: int) -> bytes:
    return member_header(Member(name.encode(), Kind.FILE, 0o644, 0, 0, 0, 0, size, 0, 0))


async def _in_threads(config: bytes, tars: Sequence[LayerTar]) -> AsyncIterator[bytes]:
    """The archive, each piece of it read in a thread: layers lie on a disk."""
    job = Job("reading layers for the Engine", "layers", _PIECE_TIME)
    pieces = await OURS.run(job, _archive, config, tars)
    while True:
        piece = await OURS.run(job, next, pieces, None)
        if piece is None:
            return
        if piece:
            yield piece
