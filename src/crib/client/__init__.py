"""The client library: talk to a CRI runtime (crib, containerd, CRI-O) from asyncio programs.

    from crib.client import Connection, pods
    from crib.stubs.runtime.v1.api_pb2 import VersionRequest

    async with Connection("unix:///run/crib/crib.sock") as crib:
        print(await crib.call(crib.runtime.Version, VersionRequest()))
        await pods.stop(crib, pod_id, grace=10)

`Connection` has the services, with `call` and `stream`. The rest, by module:

* `errors`: the tree that every call raises from.
* `pods`: run, stop, remove. `events`: kept, follow, subscribe, wait_exited. `logs`: read, follow.
* `images`: pull, watch, check, import, export, explain.
* `networks`: list, inspect, check, collect, remove.
* `config`: the daemon's settings, and their reload.
* `node`: check, wipe, timelines, work, abandon, and the OCI spec of a container.
* `streams`: exec, attach, forward. `copying`: files to and from containers.
* `usage`, `metrics`: what pods and containers use. `lookup`: objects by name or short id.

Times are in seconds unless a name says otherwise. Nothing here knows a terminal; `crib.cli` does.
"""

from __future__ import annotations

from crib.client.connection import DEFAULT_ENDPOINT, Connection, default_endpoint
from crib.client.errors import ClientError

__all__ = ["DEFAULT_ENDPOINT", "ClientError", "Connection", "default_endpoint"]
