"""What the daemon and the image worker say to each other, and the channel that carries it.

Each message is a 4-byte length (big endian) and a msgpack document; descriptors travel beside it (unix(7),
SCM_RIGHTS). Both ends bound what they take, because the worker reads hostile input and must not be
believed either.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from crib.backends.failures import why
from crib.model import errors
from crib.model.facts import LayerMounting
from crib.model.ids import digest_hex
from crib.model.image import FetchedImage, Platform
from crib.model.image_settings import TransferSettings
from crib.model.registry import RegistryHost

MAX_MESSAGE = 16 << 20
"""Bytes of one message: an image config (8 MiB at most) and some."""
MAX_QUEUED = 64 << 20
"""Bytes that may wait for a peer that does not read."""
MAX_FAILURE_TEXT = 4000
"""Characters of a failure's text."""
FAILURE_KINDS: dict[str, type[errors.CribError]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidRequest,
        errors.NotFound,
        errors.Exhausted,
        errors.Unavailable,
        errors.NotBuilt,
        errors.Broken,
    )
}
"""The errors that may come out of the worker, by name."""
BLOB_SUFFIX = ".blob"
_MAX_FDS = 16
_READ = 1 << 18
_LENGTH = struct.Struct(">I")


class LayerTerms(msgspec.Struct, frozen=True):
    """What the transfers of one request keep to, and how the layers that come of them will be mounted."""

    transfer: TransferSettings
    mounting: LayerMounting


class Pull(msgspec.Struct, frozen=True, tag=True):
    """Pull by `tag` or, when there is one, by `digest`, from the first host that has it."""

    id: int
    name: str
    """Registry and repository as the image's name says, for errors."""
    tag: str
    digest: str
    hosts: tuple[RegistryHost, ...]
    platform: Platform
    """In full: the node's own where the order named none."""
    have: tuple[str, ...]
    terms: LayerTerms
    signatures: bool = False
    """Whether to bring the image's signatures."""
    layers: bool = True
    """False: only look what would come."""


class Import(msgspec.Struct, frozen=True, tag=True):
    """Import an archive: its descriptor comes beside it, or `directory` is true and files are asked for."""

    id: int
    directory: bool
    platform: Platform
    have: tuple[str, ...]
    terms: LayerTerms


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop a request; it answers with Failed or Done all the same."""

    id: int


class File(msgspec.Struct, frozen=True, tag=True):
    """The answer to NeedFile: the descriptor comes beside it, or `error` says why not."""

    id: int
    name: str
    error: str = ""


class Step(msgspec.Struct, frozen=True, tag=True):
    """How far one layer of a request is (model.image.Progress)."""

    id: int
    stage: str
    layer: str = ""
    done: int = 0
    total: int = 0
    host: str = ""


class NeedFile(msgspec.Struct, frozen=True, tag=True):
    """The worker may not read root's files, so the daemon opens those of a layout directory for it."""

    id: int
    name: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """All layers that were not in `have` lie in the staging directory under `staged_name`, synced."""

    id: int
    images: tuple[FetchedImage, ...]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request came to nothing; `kind` is the name of a class in model.errors. `spent`: the worker
    used up its memory, and is to be replaced."""

    id: int
    kind: str
    message: str
    reason: str = ""
    spent: bool = False


def raised(message: Failed, subject: str) -> errors.CribError:
    """The error that a failed request becomes; `subject` says what was tried."""
    kind = FAILURE_KINDS.get(message.kind, errors.Broken)
    return kind(f"{subject}: {message.message}"[: 2 * MAX_FAILURE_TEXT], reason=message.reason[:100])


class Taken(msgspec.Struct, frozen=True, tag=True):
    """The daemon has taken over what request `id` left; not `adopted`: it could not, or nobody wanted it.

    Until this comes the worker counts on what it left, for other requests that want the same layers.
    """

    id: int
    adopted: bool


ToWorker = Pull | Import | Cancel | File | Taken
ToDaemon = Step | NeedFile | Done | Failed


def worker_decoder() -> msgspec.msgpack.Decoder[tuple[ToWorker, bool]]:
    """For what the worker gets; the flag says that a descriptor comes beside the message."""
    return msgspec.msgpack.Decoder(tuple[ToWorker, bool])


def daemon_decoder() -> msgspec.msgpack.Decoder[tuple[ToDaemon, bool]]:
    """For what the daemon gets."""
    return msgspec.msgpack.Decoder(tuple[ToDaemon, bool])


def staged_name(diff_id: str) -> str:
    """Name of a finished layer in the staging directory."""
    return f"{digest_hex(diff_id)}.erofs"


def blob_name(digest: str) -> str:
    """Name of a blob in the staging directory while it comes."""
    return f"{digest_hex(digest)}{BLOB_SUFFIX}"


class ChannelError(Exception):
    """The peer sent what no peer of ours would send, or does not read."""


_Incoming = TypeVar("_Incoming")


class WorkerChannel(Generic[_Incoming]):
    """One end of the socket pair, served by the running loop.

    `on_message` gets each message and its descriptor (or None), which it then owns. `on_closed` is called
    once, with the reason, when the peer closes or misbehaves; not after `close`.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: msgspec.msgpack.Decoder[tuple[_Incoming, bool]],
        on_message: Callable[[_Incoming, int | None], None],
        on_closed: Callable[[str], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._on_message = on_message
        self._on_closed = on_closed
        self._received = bytearray()
        self._fds: deque[int] = deque()
        self._outgoing: deque[tuple[memoryview, int | None]] = deque()
        self._queued = 0
        self._open = True
        self._loop.add_reader(sock, self._read)

    def send(self, message: ToWorker | ToDaemon, fd: int | None = None) -> None:
        """Queue a message; `fd` is closed here once it was sent. Nothing happens on a closed channel."""
        body = self._encoder.encode((message, fd is not None))
        if not self._open or len(body) > MAX_MESSAGE:
            if fd is not None:
                os.close(fd)
            if self._open:
                raise ChannelError(f"message of {len(body)} bytes, at most {MAX_MESSAGE} can be sent")
            return
        self._outgoing.append((memoryview(_LENGTH.pack(len(body)) + body), fd))
        self._queued += len(body)
        if self._queued > MAX_QUEUED:
            self._fail("it does not read its messages")
            return
        if len(self._outgoing) == 1:
            self._write()

    def close(self) -> None:
        """Close this end and all descriptors that nobody took; safe to repeat."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for fd in (*self._fds, *(fd for _, fd in self._outgoing if fd is not None)):
            os.close(fd)
        self._fds.clear()
        self._outgoing.clear()

    def _fail(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_closed(reason)

    def _write(self) -> None:
        try:
            while self._outgoing:
                data, fd = self._outgoing[0]
                sent = self._send_some(data, fd)
                if fd is not None:
                    os.close(fd)
                self._queued -= sent
                if sent == len(data):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = (data[sent:], None)
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._write)
            return
        except OSError as error:
            self._fail(f"write failed: {why(error)}")
            return
        self._loop.remove_writer(self._socket)

    def _send_some(self, data: memoryview, fd: int | None) -> int:
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        return self._socket.sendmsg([data], ancillary)

    def _read(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, _READ, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except MemoryError:
            # Descriptors may have come and be lost: nothing that follows would be understood.
            self._fail("read failed: out of memory")
            return
        except OSError as error:
            self._fail(f"read failed: {why(error)}")
            return
        self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC or len(self._fds) > _MAX_FDS:
            self._fail("it sent too many descriptors")
        elif not data:
            self._fail("it closed the connection")
        else:
            self._received += data
            self._dispatch()

    def _dispatch(self) -> None:
        while self._open and len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > MAX_MESSAGE:
                self._fail(f"it announced a message of {length} bytes, at most {MAX_MESSAGE} are taken")
                return
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            body = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            try:
                message, has_fd = self._decoder.decode(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self._fail(f"it sent a malformed message: {error}")
                return
            if has_fd and not self._fds:
                self._fail("it announced a descriptor that did not come")
                return
            self._on_message(message, self._fds.popleft() if has_fd else None)
