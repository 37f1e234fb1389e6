"""cribd: wires all rooms, starts them in order, stops them in reverse.

Order of start: locks, settings' directories, database, facts, backends, node; then the socket opens with
every call but Version answered UNAVAILABLE; then recovery; then the gate opens and the service manager is
told. On SIGTERM or SIGINT the gate shuts, verbs under way get a grace, and the containers go on running.
"""

from __future__ import annotations

import gc
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # read by grpc when it is imported
gc.disable()  # what is imported stays: looking through it again and again takes 20 ms of a start
# ruff: noqa: E402

import argparse
import asyncio
import contextlib
import errno
import fcntl
import logging
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from crib import __version__
from crib.api.interceptors import request_id
from crib.api.server import Server
from crib.backends.host_facts import read_boot_id, read_host_facts
from crib.backends.images.id_maps import probe_id_maps
from crib.backends.images.probe import probe_mounting
from crib.backends.images.store import LayerStore
from crib.backends.network.networks import import_network, open_network
from crib.backends.oci.cgroup_names import CgroupNames
from crib.backends.oci.handlers import open_handlers
from crib.backends.oci.slices import start_slice
from crib.backends.records.database import Database, Holding
from crib.backends.records.rows import SqliteRecords
from crib.config import DEFAULT_PATH, ConfigError, load
from crib.engine.core import Ports
from crib.engine.lanes import TwoLanes
from crib.engine.node import Node
from crib.host import cgroups, processes, threads
from crib.host.directories import PRIVATE_UMASK, NotOurs, make_directory, shut_others_out
from crib.host.notify import ServiceManager
from crib.host.threads import FOREIGN, OURS, Job, Overdue
from crib.model.errors import Broken, CribError
from crib.model.paths import Paths
from crib.model.settings import Settings
from crib.observe import logs
from crib.streaming.server import StreamServer

gc.freeze()
gc.enable()
log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds that verbs under way get when the daemon stops, with callers or without."""
LOCK_BYTES = 32
LAST_GRACE = 1.0
"""Seconds of it that are always left for those whose callers have gone."""
LOOK_SECONDS = 2.0
"""For a look at a file of the administrator's while a client waits."""
LIST_SECONDS = 30.0
"""For listing the directory of archives that are imported at start."""
SWITCH_INTERVAL = 0.0005
"""Seconds that the loop keeps other threads waiting for the interpreter: gRPC's brings each call."""

WARM_AFTER = 1.0
"""Seconds from the opening of the gate to imports that the first stream would wait for."""
REAP_AGAIN = 1.0
"""Seconds until orphans are looked for again after that failed."""


class Daemon:
    """One cribd: owns the parts, and the order in which they live."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._paths = Paths(settings.data, settings.state)
        self._ends = contextlib.AsyncExitStack()
        self._manager = ServiceManager()
        self._stop_by = 0.0

    async def open_node(self) -> Node:
        """Everything behind the door, before recovery."""
        settings, paths = self._settings, self._paths
        self._make_directories()
        data_lock, state_lock = paths.locks
        holding = self._ends.enter_context(_locked(data_lock))
        self._ends.enter_context(_locked(state_lock))
        self._adopt_orphans()
        # Beside the probes, which mostly wait.
        imported = asyncio.ensure_future(
            OURS.run("importing the network", import_network, settings.network.mode)
        )
        database = Database(paths, read_boot_id(), holding)
        self._ends.callback(database.close)
        layout = cgroups.detect_layout()
        names = CgroupNames(settings.cgroup_root, settings.cgroup_driver == "systemd")
        if names.systemd:
            await start_slice(os.path.basename(names.own))
        else:
            cgroups.Cgroups(layout).create(names.own)
        self._ends.enter_context(_own_cgroup(names.own, layout))
        if settings.network.mode == "bridge":
            self._ends.enter_context(_own_bridge(settings.network.bridge))
        facts = read_host_facts(layout)
        # Each container costs two descriptors here. Its own limit is set by its spec, from `facts`.
        resource.setrlimit(resource.RLIMIT_NOFILE, (facts.open_files[1], facts.open_files[1]))
        mounting = await OURS.run(
            f"probing how layers can be mounted below {paths.layer_mounts}",
            probe_mounting,
            paths,
            settings.images,
        )
        facts = replace(facts, idmapped_mounts=await probe_id_maps(paths, mounting))
        store = LayerStore(paths, settings.images, mounting)
        handlers = await open_handlers(settings, paths, facts, store.mounts)
        await imported
        ports = Ports(
            handlers=handlers,
            networks=open_network(
                settings.network, paths, database.pods.connection, settings.handlers, database.pods.write
            ),
            images=store,
            records=SqliteRecords(database),
            clock=time.time_ns,
            request_id=request_id,
            threads=threads.waiting,
        )
        node = Node(settings, facts, ports)
        for name, service in database.services():
            node.keeper.serve(name, service)
        self._ends.push_async_callback(self._close, node)
        return node

    async def serve(self) -> None:
        """Until SIGTERM or SIGINT."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        async with self._ends:
            began = time.monotonic()
            node = await self.open_node()
            streams = StreamServer(node.streams, self._settings.streaming, _in_thread)
            await streams.start()
            self._ends.push_async_callback(streams.stop)
            server = Server(node, __version__, streams.url_for)
            await server.start()
            self._ends.push_async_callback(server.stop, GRACE)
            await node.start()
            server.gate.open()
            node.keeper.serve("archives at start", self._begin_upkeep(node))
            node.keeper.serve("imports", _warm(streams))
            self._manager.tell("READY=1")
            log.info("ready after %.0f ms", (time.monotonic() - began) * 1000)
            await stopping.wait()
            self._stop_by = time.monotonic() + GRACE
            self._manager.tell("STOPPING=1")
            log.info("stopping")

    async def _begin_upkeep(self, node: Node) -> None:
        directory = self._settings.images.import_dir
        archives: list[str] = []
        if directory:
            job = Job(f"listing images.import_dir {directory}", directory, LIST_SECONDS)
            try:
                archives = await FOREIGN.run(job, _archives, directory)
            except Overdue as error:
                log.error("images.import_dir: %s", error)
        node.images.upkeep.begin(archives)

    async def wipe(self) -> None:
        """Remove every pod, image mount, bridge and table of this node; the data directory stays."""
        async with self._ends:
            node = await self.open_node()
            await node.start()
            await node.settled()
            failures = await node.wipe()
            if failures:
                raise Broken("; ".join(failures))

    async def _close(self, node: Node) -> None:
        await node.close(max(LAST_GRACE, self._stop_by - time.monotonic()))

    def _make_directories(self) -> None:
        settings, paths = self._settings, self._paths
        os.makedirs(settings.data, mode=0o700, exist_ok=True)
        make_directory(settings.state, 0o751)
        # Others pass through STATE to the socket and to their pods' files, but not through DATA.
        for key, path, rights in (("data", settings.data, 0o066), ("state", settings.state, 0o026)):
            try:
                if shut_others_out(path, rights):
                    log.warning("%s: %s could be read by others, and no longer is", key, path)
            except NotOurs as error:
                raise Broken(f"{key}: {error}") from error
        for path in paths.directories:
            os.makedirs(path, mode=0o700, exist_ok=True)

    def _adopt_orphans(self) -> None:
        """Monitors and stray processes come to us when their parent ends, not to an init that reaps late."""
        processes.become_subreaper()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, _reap_orphans)
        _reap_orphans()


def _reap_orphans() -> None:
    """Those that have ended. That may take a descriptor, and no signal comes twice."""
    try:
        processes.reap_orphans()
    except OSError as error:
        log.warning("reaping orphans: %s; trying again in %.0f s", error, REAP_AGAIN)
        asyncio.get_running_loop().call_later(REAP_AGAIN, _reap_orphans)


async def _in_thread(what: str, work: Callable[[], None]) -> None:
    """For rooms that do not know the host."""
    await FOREIGN.run(Job(what, what, LOOK_SECONDS), work)


async def _warm(streams: StreamServer) -> None:
    await asyncio.sleep(WARM_AFTER)
    await OURS.run("importing the protocols of streams", streams.warm)


def _archives(directory: str) -> list[str]:
    """What is to be imported at start, in lexical order; a directory that cannot be read is logged."""
    try:
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if not name.startswith(".")]
    except OSError as error:
        log.error("images.import_dir: %s", error)
        return []


@contextlib.contextmanager
def _own_cgroup(root: str, layout: cgroups.CgroupLayout) -> Iterator[None]:
    """Hold the pods' parent cgroup: whatever is in it and not in our records is swept away."""
    made = filter(os.path.isdir, cgroups.Cgroups(layout).directories(root))
    fd = os.open(next(made, root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _try_lock(fd):
            raise Broken(f"another cribd has its pods in cgroup {root}: give this one its own cgroup_root")
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _own_bridge(name: str) -> Iterator[None]:
    """Hold the bridge: pods on it that are not in our records are swept away, and their addresses are ours.

    By a file that only root can open: a socket's name could be taken by any pod of the host's network.
    """
    namespace = os.stat("/proc/self/ns/net").st_ino  # a bridge's name is of its network namespace
    path = f"/run/crib-bridge-{name}-{namespace}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try_lock(fd) or os.fstat(fd).st_nlink == 0:  # held, or let go and removed just now
            text = f"another cribd has its pods on bridge {name}: give this one its own bridge and subnet"
            raise Broken(f"network.bridge: {text}")
        try:
            yield
        finally:
            os.unlink(path)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[Holding]:
    """Hold a lock file; Broken when another cribd does (grpc would let two servers bind one socket).

    Its content, the pid and a word that is never the same, tells whether somebody else held it meanwhile. On
    a disk that takes nothing it stays as it is.
    """
    fd = _open_lock(path)
    try:
        before = _held_by(fd)
        if not _try_lock(fd):
            raise Broken(f"another cribd (pid {before.partition(' ')[0]}) holds {path}")
        with contextlib.suppress(OSError):
            # Over the old one, and not after a truncation: a full disk has no room for what was just freed.
            os.pwrite(fd, f"{os.getpid()} {secrets.token_hex(8)}\n".ljust(LOCK_BYTES).encode(), 0)
        yield Holding(before, _held_by(fd))
    finally:
        os.close(fd)


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for flock(2)


def _held_by(fd: int) -> str:
    return os.pread(fd, LOCK_BYTES, 0).decode(errors="replace").strip()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> None:
    """The program `cribd`."""
    parser = argparse.ArgumentParser("cribd", description="Kubernetes container runtime (CRI) daemon.")
    parser.add_argument(
        "--config", default=DEFAULT_PATH, help=f"TOML file (default {DEFAULT_PATH}; it may be missing)"
    )
    parser.add_argument("--check-config", action="store_true", help="read the configuration, then end")
    parser.add_argument(
        "--wipe",
        action="store_true",
        help="with no cribd running: remove all pods, mounts, the bridge and its rules, then end",
    )
    parser.add_argument("--version", action="version", version=f"cribd {__version__}")
    options = parser.parse_args()
    try:
        settings = load(options.config, required=options.config != DEFAULT_PATH)
        if options.check_config:
            return
        os.umask(PRIVATE_UMASK)
        logs.set_up(settings.log, request_id)
        daemon = Daemon(settings)
        sys.setswitchinterval(SWITCH_INTERVAL)
        with asyncio.Runner(loop_factory=TwoLanes) as runner:
            runner.run(daemon.wipe() if options.wipe else daemon.serve())
    except (ConfigError, CribError, OSError) as error:
        sys.exit(f"cribd: {error}")


if __name__ == "__main__":
    main()
