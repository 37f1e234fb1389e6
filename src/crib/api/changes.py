"""Calls that change something: what each is about, and what an auditor is told of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from google.protobuf.message import Message

from crib.model.caller import AuditEntry, CallObject, Peer
from crib.rpc.call import GrpcCall
from crib.tasks.calls import CallUnderWay

TEXT_LIMIT = 256
"""Characters of each thing that a request says about its object: it may say anything."""
ERROR_LIMIT = 1000
"""Characters of an error that an auditor is told."""
MIN_SECRET = 4
"""Characters from which on a value that may be secret is taken out of an error."""


def _always(_: Any) -> bool:
    return True


CHANGES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        (
            *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "UpdatePodSandboxResources"),
            *("CreateContainer", "StartContainer", "StopContainer", "RemoveContainer"),
            *("UpdateContainerResources", "ReopenContainerLog"),
            *("CheckpointContainer", "CheckpointPod", "RestorePod"),
            *("ExecSync", "Exec", "ExecAs", "ExecDetached", "Attach", "PortForward", "Forward"),
            *("PullImage", "RemoveImage", "ImportImage", "ExportImages"),
            *("UpdateRuntimeConfig", "CollectNetworkGarbage", "RemoveNetwork", "Abandon", "SetLogLevel"),
            *("KeepPod", "WantKeptPod", "ForgetKeptPod"),
            *("CreateVolume", "RemoveVolume", "PublishVolumes", "UnpublishVolumes", "ResizeVolume"),
            *("SnapshotVolume", "RemoveVolumeSnapshot", "ExportVolume", "ImportVolume"),
            "ReloadConfig",
        ),
        _always,
    ),
    "PullImageProgress": lambda message: bool(message.start),
    "CheckImages": lambda message: bool(message.repair),
    "CheckNetworks": lambda message: bool(message.repair),
    "CheckNode": lambda message: bool(message.repair),
    "CheckVolumes": lambda message: bool(message.repair),
    "PruneVolumes": lambda message: not message.dry_run,
    "Wipe": lambda message: not message.dry_run,
}
"""By method: whether a request of it changes something. What runs in a container counts as a change."""


class Auditor(Protocol):
    """Who is told of changes."""

    async def peers(self) -> tuple[Peer, ...]:
        """Everybody who is connected at some moment between this call and its answer; none if not known."""
        ...

    def put(self, entry: AuditEntry) -> None: ...


class Changes:
    """Looks after calls that change something."""

    def __init__(self, describe: Callable[[str], CallObject], auditor: Auditor | None) -> None:
        """`describe`: what is on record under an id, or a beginning of it."""
        self._describe = describe
        self.auditor = auditor
        """Who is told now."""

    async def begin(self, call: CallUnderWay, message: Message, context: GrpcCall) -> bool:
        """To be awaited before the verb: nothing changes before it is known who was there to ask for it.

        True when the caller has had the head of the answer. A caller that left at once may be none of the
        peers: so they count only after the head went out. A caller that is gone is known by then, and this
        task cancelled.
        """
        if not CHANGES[call.verb](message):
            return False
        call.object = self._object(message)
        if self.auditor is None:
            return False
        peers = await self.auditor.peers()
        await context.send_head()
        call.peers = peers
        return True

    def end(self, call: CallUnderWay, message: Message | None, answer: object = None) -> None:
        """It was answered. `message`: the request; None where it could not be read."""
        if self.auditor is None or not (message is None or CHANGES[call.verb](message)):
            return
        made = _said(answer)
        if made.container or made.sandbox:
            call.object = replace(call.object, **made.known())
        error = call.error
        if message is not None and error:
            for secret in sorted(set(_secrets(message)), key=len, reverse=True):
                error = error.replace(secret, "…")
        lasted = time.monotonic_ns() - call.began
        entry = AuditEntry(
            verb=call.verb,
            caller=call.caller,
            trace=call.trace,
            object=call.object,
            at=time.time_ns() - lasted,
            duration=lasted,
            code=call.code,
            error=error[:ERROR_LIMIT],
        )
        self.auditor.put(entry)

    def _object(self, message: Message) -> CallObject:
        """As the request says it, and the records where it names something that is on record."""
        said = _said(message)
        known = self._describe(said.container or said.sandbox)
        return CallObject(
            known.pod or said.pod,
            known.sandbox or said.sandbox,
            known.container or said.container,
            known.name or said.name,
            said.image,
            said.path,
        )


def _said(message: Any) -> CallObject:
    """Requests name the same thing by the same field's name."""
    has = _fields(message)
    config: Any = message.config if "config" in has else None
    of_container = "image" in _fields(config)
    pod: Any = message.sandbox_config if "sandbox_config" in has else config
    metadata: Any = pod.metadata if "metadata" in _fields(pod) else None
    is_pod = "namespace" in _fields(metadata) and metadata.name
    image = config.image if of_container else message.image if "image" in has else ""
    container = message.container_id if "container_id" in has else ""
    if not container and "id" in has:
        container = message.id
    return CallObject(
        pod=f"{metadata.namespace}/{metadata.name}"[:TEXT_LIMIT] if is_pod else "",
        sandbox=message.pod_sandbox_id[:TEXT_LIMIT] if "pod_sandbox_id" in has else "",
        container=container[:TEXT_LIMIT],
        name=config.metadata.name[:TEXT_LIMIT] if of_container else "",
        image=getattr(image, "image", image)[:TEXT_LIMIT],
        path=message.path[:TEXT_LIMIT] if "path" in has else "",
    )


def _fields(message: Any) -> frozenset[str]:
    """To ask a message for a field that it does not have takes ten times as long as to look here."""
    kind: Any = type(message)
    return _fields_of(kind)


@functools.cache
def _fields_of(kind: Any) -> frozenset[str]:
    descriptor = getattr(kind, "DESCRIPTOR", None)
    return frozenset() if descriptor is None else frozenset(descriptor.fields_by_name)


def _secrets(message: Message) -> Iterator[str]:
    """Values of the request that may be secret: variables, annotations, credentials."""
    for field, value in message.ListFields():
        if field.name == "annotations":
            yield from _long(value.values())
        elif field.name == "envs":
            yield from _long(one.value for one in value)
        elif field.name in ("auth", "credentials"):
            yield from _long(text for _, text in value.ListFields())
        elif isinstance(value, Message):
            yield from _secrets(value)


def _long(values: Iterable[object]) -> Iterator[str]:
    texts = (value.decode(errors="replace") if isinstance(value, bytes) else value for value in values)
    return (text for text in texts if isinstance(text, str) and len(text) >= MIN_SECRET)
