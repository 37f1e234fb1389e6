"""The client library: talk to a CRI runtime (crib, containerd, CRI-O) from asyncio programs.

    from crib.client import Connection, pods
    from crib.stubs.runtime.v1.api_pb2 import VersionRequest

    async with Connection("unix:///run/crib/crib.sock") as crib:
        print(await crib.call(crib.runtime.Version, VersionRequest()))
        await pods.stop(crib, pod_id, grace=10)

To know: `Connection` (the services; `call` and `stream`), `errors` (the tree that every call raises from),
`pods` (run, stop, remove), `events` (subscribe, wait_exited), `images` (pull, watch, check, import, export,
explain), `networks` (list, inspect, check, collect, remove), `logs` (read, follow), `streams` (exec, attach,
forward), `copying` (files to and from containers), `lookup` (names and short ids to nouns). Times are in
seconds unless a name says otherwise. Nothing here knows a terminal: what people see is the work of
`crib.cli`.
"""

from __future__ import annotations

from crib.client.connection import DEFAULT_ENDPOINT, Connection, default_endpoint
from crib.client.errors import ClientError

__all__ = ["DEFAULT_ENDPOINT", "ClientError", "Connection", "default_endpoint"]
