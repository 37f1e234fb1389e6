"""The client library: talk to a CRI runtime (crib, containerd, CRI-O) from Python.

    from crib.client import ContainerSpec, PodSpec, SyncClient

    with SyncClient("unix:///run/crib/crib.sock") as crib:
        web = crib.run_pod_container(PodSpec("web"), ContainerSpec("docker.io/library/nginx"))
        print(crib.exec(web, ["nginx", "-v"]).check().err)

`Client` (asyncio, in `face`) and `SyncClient` (in `sync`, by `blocking`) have the same methods. They take and
give dataclasses: `specs` is what people want, `views` what a runtime has. docs/client.md shows their use.

Below are functions over a `Connection`, which has the services with `call` and `stream`, in protobuf:

* `errors`: the tree that every call raises from. `deadlines`: one limit for many calls.
* `repeats`: which calls outlast a restart of the runtime.
* `pods`: run, stop, remove. `events`: kept, follow, subscribe, wait_exited. `logs`: read, follow.
* `images`: pull, watch, check, import, export, explain.
* `networks`: list, inspect, check, collect, remove.
* `volumes`: create, publish, inspect, resize, snapshot, export, prune, check, and what undoes them.
* `config`: the daemon's settings, and their reload.
* `node`: check, wipe, timelines, work, abandon, and the OCI spec of a container.
* `execution`: a command to its end. `streams`: exec, attach, forward. `copying`: files to and fro.
* `usage`, `metrics`: what pods and containers use. `lookup`, `targets`: objects by name or short id.

Times are in seconds unless a name says otherwise. Nothing here knows a terminal; `crib.cli` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crib.client.connection import DEFAULT_ENDPOINT, Connection, default_endpoint
from crib.client.errors import ClientError

if TYPE_CHECKING:
    from crib.client.deadlines import deadline
    from crib.client.face import Client
    from crib.client.specs import CommandSpec, ContainerSpec, MountSpec, PodSpec, PortSpec, ResourceSpec
    from crib.client.sync import SyncClient
    from crib.client.views import (
        CommandResult,
        Condition,
        ContainerExit,
        ContainerInfo,
        ImageInfo,
        PodContainer,
        PodInfo,
        PullReport,
        RuntimeEvent,
        RuntimeInfo,
    )
    from crib.wire.crilog import LogLine
    from crib.wire.portforward import Target

_SPECS = ("CommandSpec", "ContainerSpec", "MountSpec", "PodSpec", "PortSpec", "ResourceSpec")
_VIEWS = (
    "CommandResult", "Condition", "ContainerExit", "ContainerInfo", "ImageInfo", "PodContainer", "PodInfo",
    "PullReport", "RuntimeEvent", "RuntimeInfo",
)  # fmt: skip
_LATER = {
    **dict.fromkeys(_SPECS, "crib.client.specs"),
    **dict.fromkeys(_VIEWS, "crib.client.views"),
    "Client": "crib.client.face",
    "LogLine": "crib.wire.crilog",
    "SyncClient": "crib.client.sync",
    "Target": "crib.wire.portforward",
    "deadline": "crib.client.deadlines",
}
"""Imported when they are first used: the command line starts without them."""

__all__ = [
    "DEFAULT_ENDPOINT",
    "Client",
    "ClientError",
    "CommandResult",
    "CommandSpec",
    "Condition",
    "Connection",
    "ContainerExit",
    "ContainerInfo",
    "ContainerSpec",
    "ImageInfo",
    "LogLine",
    "MountSpec",
    "PodContainer",
    "PodInfo",
    "PodSpec",
    "PortSpec",
    "PullReport",
    "ResourceSpec",
    "RuntimeEvent",
    "RuntimeInfo",
    "SyncClient",
    "Target",
    "deadline",
    "default_endpoint",
]


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found
