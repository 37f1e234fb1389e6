"""How a shim's program is run to start one, and to clear up after one, and what it answers.

As containerd runs it (containerd, docs/runtime-v2.md, pkg/shim): in the bundle, with flags and variables.
What it reads has changed with 2.3: from then on a message of all parameters, before that the runtime's
options alone. A shim that is given the wrong one fails before it has made anything. What it says has changed
twice: from a plain address to JSON to a message.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from crib.backends.shim.nouns import Ended, Typed
from crib.backends.shim.task_client import NAMESPACE, any_message
from crib.model.errors import Broken
from crib.stubs.shim import bootstrap_pb2
from crib.stubs.shim.task_pb2 import DeleteResponse

MAX_SOCKET_PATH = 106
"""Bytes of a path that shims listen on (containerd, pkg/shim, socketPathLimit)."""
_USUAL_DIRECTORY = "/run/containerd/s"
_SOCKET_NAME = 64
"""Characters: a SHA-256 in hexadecimal."""
WRONG_PARAMETERS = ("deprecated API", "bootstrap parameters")
"""Words of a shim that wants the message of all parameters, and did not get it."""
NEWEST_VERSION = 3
UNIX = "unix://"


@dataclass(frozen=True, slots=True)
class ShimProgram:
    """A shim's program, and what it is told of us."""

    path: str
    address: str
    """As if it were our socket's path. Shims' sockets are named by it, so no other daemon's are met."""
    events: str
    """Socket that takes events."""
    sockets: str
    """Directory for sockets; only shims of containerd 2.3 and later ask."""
    publisher: str
    """A program that takes events of the oldest shims, and forgets them."""
    options: Typed | None = None
    arguments: tuple[str, ...] = ()
    """That it is always given, before a shim's own."""

    def start(self, instance: str) -> tuple[str, ...]:
        return self._command(instance, "start")

    def delete(self, instance: str, bundle: str) -> tuple[str, ...]:
        return self._command(instance, "-bundle", bundle, "delete")

    def _command(self, instance: str, *more: str) -> tuple[str, ...]:
        return (
            *(self.path, *self.arguments),
            *("-namespace", NAMESPACE),
            *("-address", self.address),
            *("-publish-binary", self.publisher),
            *("-id", instance),
            *more,
        )

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Only what is needed: a shim keeps it for days, and gives it to the runtime."""
        return {
            "PATH": own.get("PATH", os.defpath),
            "GOMAXPROCS": "2",
            "MAX_SHIM_VERSION": "2",
            "TTRPC_ADDRESS": self.events,
            "GRPC_ADDRESS": self.address,
            "NAMESPACE": NAMESPACE,
        }

    def usual_sockets(self, instance: str) -> tuple[str, ...]:
        """Where the shim of that instance listens, if it is named as containerd's library does it.

        For those whose answer nobody heard (containerd, pkg/shim, CreateSocketAddress).
        """
        name = hashlib.sha256(f"{self.address}/{NAMESPACE}/{instance}".encode()).hexdigest()
        return f"{_USUAL_DIRECTORY}/{name}", f"{self.sockets}/{name}"

    def input(self, instance: str, *, whole: bool) -> bytes:
        """What `start` reads: all parameters, or the runtime's options alone."""
        if not whole:
            return b"" if self.options is None else any_message(self.options).SerializeToString()
        parameters = bootstrap_pb2.BootstrapParams(
            instance_id=instance,
            namespace=NAMESPACE,
            containerd_ttrpc_address=self.events,
            containerd_grpc_address=self.address,
            containerd_binary=self.publisher,
        )
        if len(os.fsencode(self.sockets)) + 1 + _SOCKET_NAME <= MAX_SOCKET_PATH:
            parameters.socket_dir = self.sockets
        if self.options is not None:
            parameters.extensions.add().value.CopyFrom(any_message(self.options))
        return parameters.SerializeToString()


@dataclass(frozen=True, slots=True)
class ShimAddress:
    """Where a shim listens, and the version of the task API that it speaks there."""

    path: str
    version: int


def read_answer(said: bytes) -> ShimAddress:
    """What `start` has printed. Broken for what is not understood, or cannot be used safely."""
    try:
        version, address, protocol = _parse(said)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise Broken(f"its answer {said[:200]!r} is not understood: {error}") from error
    if protocol not in ("", "ttrpc"):
        raise Broken(f"it speaks {protocol!r}: only ttrpc is spoken here")
    if not 2 <= version <= NEWEST_VERSION:
        raise Broken(f"it speaks version {version} of the task API: 2 and 3 are spoken here")
    if not address.startswith(f"{UNIX}/"):
        # Whoever shares the host's network namespace reaches an abstract socket (CVE-2020-15257).
        raise Broken(f"it listens on {address!r}, which is no unix socket with a path")
    return ShimAddress(address.removeprefix(UNIX), version)


def _parse(said: bytes) -> tuple[int, str, str]:
    text = said.strip()
    if text.startswith(b"{"):
        answer = json.loads(text)
        return int(answer["version"]), str(answer["address"]), str(answer.get("protocol", ""))
    # A message begins with the number of one of its first fields, which no address does.
    if said[:1] < b" " and text:
        result = bootstrap_pb2.BootstrapResult.FromString(said)
        return result.version, result.address, result.protocol
    return 2, text.decode(), "ttrpc"


def read_deleted(said: bytes) -> Ended:
    """What `delete` has printed. Broken for what is not understood."""
    try:
        answer = DeleteResponse.FromString(said)
    except DecodeError as error:
        raise Broken(f"its answer {said[:200]!r} is not understood: {error}") from error
    return Ended(answer.exit_status, answer.exited_at.ToNanoseconds(), answer.pid)


def wants_all_parameters(words: str) -> bool:
    """Whether a failed `start` says that it was given the older input."""
    return any(word in words for word in WRONG_PARAMETERS)
