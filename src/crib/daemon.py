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

import asyncio
import contextlib
import faulthandler
import logging
import resource
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from crib import __version__, offline
from crib.api.server import Server, answer_problem
from crib.backends.cgroup_options import cgroup_layout
from crib.backends.environment import SharedLayers
from crib.backends.extensions import NO_EXTENSIONS, Extensions, load_extensions
from crib.backends.handlers import LaterHandlers, closed_handlers, open_handlers
from crib.backends.host_facts import read_boot_id, read_host_facts
from crib.backends.images.mounts import release_unused_roots
from crib.backends.images.probe import probe_id_maps, probe_mounting
from crib.backends.images.store import LayerStore, store_for_wipe
from crib.backends.keeping.kept_pods import SupervisedPods
from crib.backends.locks import locked, pods_cgroup
from crib.backends.network import networks
from crib.backends.nri.awaited import AwaitedPlugins
from crib.backends.records.database import Database, LockNotes
from crib.backends.records.journal import SqliteJournal
from crib.backends.records.rows import SqliteRecords
from crib.backends.volumes.kinds import VolumeOpening, open_volumes
from crib.config import DEFAULT_PATH, ConfigError
from crib.config.defaults import default_config
from crib.config.views import checked
from crib.engine.core import Ports
from crib.engine.node import Node
from crib.engine.timeline import program_ended
from crib.footprint import warm_and_small
from crib.host import libc, priority, processes, threads
from crib.host.directories import PRIVATE_UMASK, NotOurs, make_directory, shut_others_out
from crib.host.notify import ServiceManager
from crib.host.orphans import adopt_orphans
from crib.host.threads import FOREIGN, OURS, Job, Overdue
from crib.host.undying import undying
from crib.model.errors import Broken, CribError
from crib.model.facts import KILLED, HostFacts, ThreadWait, Vitals
from crib.model.finding import Finding, Wiped, WipeOrder
from crib.model.paths import Paths
from crib.observe import logs
from crib.observe.audit import Auditing
from crib.observe.insight import LoopInsight
from crib.observe.lag import LoopWatch
from crib.reloading import Followers, NewHandlers, Reloading
from crib.streaming.server import StreamServer
from crib.tasks.keeper import HANDS
from crib.tasks.lanes import TwoLanes
from crib.telemetry import Telemetry

gc.freeze()
gc.enable()
_log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds that verbs under way get when the daemon stops, with callers or without."""
HOST_GRACE = 15.0
"""Seconds that containers get when the host shuts down, before those of GRACE."""
COMMAND_GRACE = 8.0
"""Seconds of it for commands of ExecSync: the rest is for ending them, and for telling their callers."""
LAST_GRACE = 1.0
"""Seconds of it that are always left for those whose callers have gone."""
THREAD_GRACE = GRACE / 2
"""Seconds of it after which verbs go on without threads that hang, so that they end by themselves."""
LOOK_SECONDS = 2.0
"""For a look at a file of the administrator's while a client waits."""
LIST_SECONDS = 30.0
"""For listing the directory of archives that are imported at start."""
SWITCH_INTERVAL = 0.0005
"""Seconds that the loop keeps other threads waiting for the interpreter: gRPC's brings each call."""
PROOFS = 4
"""Self-tests in the time after which the service manager would end the daemon; one may fail."""


class Daemon:
    """One cribd: owns the parts, and the order in which they live."""

    def __init__(
        self, configuration: Reloading, watch: LoopWatch, extensions: Extensions = NO_EXTENSIONS
    ) -> None:
        """To be run on the loop of `watch`."""
        self._configuration = configuration
        self._extensions = extensions
        self._settings = settings = configuration.settings
        self._watch = watch
        self._paths = Paths(settings.data, settings.state)
        self._insight = LoopInsight(watch, self._paths.dumps)
        endpoint = f"unix://{settings.socket_path}"
        self._kept = SupervisedPods(self._paths.kept, endpoint, enabled=settings.kept_pods)
        self._ends = contextlib.AsyncExitStack()
        self._manager = ServiceManager()
        self._stop_by = 0.0
        self._later: LaterHandlers

    async def open_node(self, *, for_wipe: bool = False, to_run: bool = True) -> Node:
        """Everything behind the door, before recovery. For a wipe nothing is tried, no program asked.

        Broken where the default handler cannot be used, unless nothing is to run.
        """
        settings, paths, extensions = self._settings, self._paths, self._extensions
        self._make_directories()
        data_lock, state_lock = paths.locks
        holding = self._ends.enter_context(locked(data_lock))
        self._ends.enter_context(locked(state_lock))
        self._ends.callback(release_unused_roots, paths)
        adopt_orphans()
        # Beside the probes, which mostly wait.
        what = "importing the network"
        imported = HANDS.part(what, OURS.run(what, networks.import_network, settings.network))
        database = self._open_database(holding, for_wipe=for_wipe)
        layout = await cgroup_layout(settings, for_wipe=for_wipe)
        await self._ends.enter_async_context(pods_cgroup(settings, layout, made=not for_wipe))
        self._ends.enter_context(networks.owned_network(settings.network))
        facts = read_host_facts(layout)
        # Each container costs two descriptors here. Its own limit is set by its spec, from `facts`.
        resource.setrlimit(resource.RLIMIT_NOFILE, (facts.open_files[1], facts.open_files[1]))
        if for_wipe:
            store = store_for_wipe(paths, settings.images)
            handlers = closed_handlers(settings, paths, facts, store.mounts)
        else:
            mounting = await OURS.run(
                f"probing how layers can be mounted below {paths.layer_mounts}",
                probe_mounting,
                paths,
                settings.images.store,
            )
            facts = replace(facts, idmapped_mounts=await probe_id_maps(paths, mounting))
            store = (extensions.store or LayerStore)(paths, settings.images, mounting)
            self._later = LaterHandlers(paths, facts, store.mounts)
            handlers = await open_handlers(settings, paths, facts, store.mounts, to_run=to_run)
        await imported
        pods = database.pods
        ports = Ports(
            handlers=handlers,
            networks=networks.open_network(
                settings.network,
                networks.Host(paths, pods.connection, settings.handlers, pods.write),
            ),
            images=store,
            records=SqliteRecords(database),
            journal=SqliteJournal(pods, time.time_ns),
            clock=time.time_ns,
            insight=self._insight,
            configuration=self._configuration,
            kept=self._kept,
            volumes=open_volumes(self._volumes_on(store.mounts, facts)),
            vitals=self._vitals,
            hooks=extensions.hooks,
            plugins=AwaitedPlugins(settings.nri) if settings.nri.enable else None,
            verifiers=extensions.verifiers,
        )
        node = Node(settings, facts, ports)
        processes.told_of_end = program_ended
        for name, service in database.services():
            node.keeper.serve(name, service)
        self._ends.push_async_callback(self._close, node)
        return node

    async def serve(self) -> None:
        """Until SIGTERM or SIGINT."""
        if (me := asyncio.current_task()) is not None:
            me.set_name("daemon")  # as a dump calls it
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        self._configuration.listen(self._manager)
        async with self._ends:
            began = time.monotonic()
            self._watch.start()
            self._ends.callback(self._watch.stop)
            node = await self.open_node()
            streams = StreamServer(node.streams, self._settings.streaming, _in_thread)
            await streams.start()
            self._ends.push_async_callback(streams.stop)
            auditing = Auditing(self._settings)
            self._ends.push_async_callback(auditing.close)
            server = Server(node, __version__, streams.url_for, auditing.audit)
            auditing.told = server.audit_by
            telemetry = await self._ends.enter_async_context(Telemetry(self._settings, node, server, streams))
            await server.start()
            self._ends.push_async_callback(server.stop, GRACE)
            self._ends.enter_context(self._insight.ready(node))
            await node.start()
            await node.let_plugins_in()
            later = NewHandlers(node, self._later)
            followers = Followers(node, (telemetry, auditing, later), streams)
            await self._ends.enter_async_context(self._configuration.ready(followers))
            server.gate.open()
            await self._kept.begin(node.notices.follow("kept pods"), node.kept_pod_changed)
            self._ends.push_async_callback(self._kept.close)
            node.keeper.serve("archives at start", self._begin_upkeep(node))
            node.keeper.serve("memory", warm_and_small(streams, lambda: any(node.sandboxes.list())))
            if self._settings.nice:
                node.keeper.serve("priority", priority.Share(self._settings.nice).keep())
            self._manager.tell("READY=1")
            if self._manager.watchdog:
                node.keeper.serve("watchdog", self._prove_life(self._manager.watchdog / PROOFS))
            _log.info("ready after %.0f ms", (time.monotonic() - began) * 1000)
            await stopping.wait()
            self._manager.tell("STOPPING=1")
            _log.info("stopping")
            if await self._manager.shuts_down():
                await self._kept.close()  # else it would start them again
                await node.end_with_host(HOST_GRACE)
            self._stop_by = time.monotonic() + GRACE
            node.keeper.serve("end of commands", node.containers.exec_sync.end_after(COMMAND_GRACE))
            threads.end_within(THREAD_GRACE)

    async def check(self, *, repair: bool, quick: bool) -> AsyncIterator[Finding]:
        """What a check finds of a node on which no daemon runs. Nothing is changed, unless by a repair; but
        opening a damaged database saves what can be read of it.

        A repair is what a start does, and a second look, which mends what is left. What that no longer finds
        was mended. It needs the programs that a start needs; a mere look tells that they are missing.
        """
        async with self._ends:
            node = await self.open_node(to_run=repair)
            await node.load()
            before = [found async for found in node.check(repair=False, quick=quick)]
            after = before
            if repair:
                await node.start()
                await node.settled()
                after = [found async for found in node.check(repair=True, quick=quick)]
                left = {(found.area, found.subject) for found in after}
                for found in before:
                    if (found.area, found.subject) not in left:
                        yield replace(found, mended=not found.is_note)
            for found in after:
                yield found

    async def wipe(self, order: WipeOrder) -> AsyncIterator[Wiped]:
        """Remove from a node on which no daemon runs. What a start needs besides the roots may be missing."""
        async with self._ends:
            node = await self.open_node(for_wipe=True)
            await node.load()
            async for wiped in node.wipe.offline(order):
                yield wiped

    def _open_database(self, holding: LockNotes, *, for_wipe: bool) -> Database:
        """A wipe goes on without the records where they cannot be had: by what lies about, each by its id."""
        try:
            database = Database(self._paths, read_boot_id(), holding)
        except (Broken, OSError) as error:
            if not for_wipe:
                raise
            _log.error("the records cannot be opened, and stay as they are: %s", error)
            scratch = self._ends.enter_context(tempfile.TemporaryDirectory(dir=self._paths.state))
            database = Database(Paths(scratch, scratch))
        self._ends.callback(database.close)
        return database

    def _volumes_on(self, layers: SharedLayers, facts: HostFacts) -> VolumeOpening:
        configuration, min_free = self._configuration, self._settings.images.transfer.min_free
        return VolumeOpening(
            self._paths,
            lambda: configuration.settings.volumes,
            layers,
            min_free,
            label=facts.selinux_file if facts.selinux else "",
        )

    def _vitals(self) -> Vitals:
        waits = (
            ThreadWait(one.kind, one.what, one.owner, one.seconds, one.overdue) for one in threads.waiting()
        )
        killed = (ThreadWait(KILLED, one.what, one.owner, one.seconds, True) for one in undying())
        return Vitals(self._watch.lag, (*waits, *killed), processes.started())

    async def _prove_life(self, period: float) -> None:
        """As long as our own socket answers, the service manager is told so."""
        while True:
            if problem := await answer_problem(self._settings.socket_path, period):
                _log.error("self-test: Version at %s: %s", self._settings.socket_path, problem)
            else:
                self._manager.tell("WATCHDOG=1")
            await asyncio.sleep(period)

    async def _begin_upkeep(self, node: Node) -> None:
        directory = self._settings.images.upkeep.import_dir
        archives: list[str] = []
        if directory:
            job = Job(f"listing images.import_dir {directory}", directory, LIST_SECONDS)
            try:
                archives = await FOREIGN.run(job, _archives, directory)
            except Overdue as error:
                _log.error("images.import_dir: %s", error)
        node.images.upkeep.begin(archives)

    async def _close(self, node: Node) -> None:
        await node.close(max(LAST_GRACE, self._stop_by - time.monotonic()))
        await HANDS.close(LAST_GRACE)

    def _make_directories(self) -> None:
        settings, paths = self._settings, self._paths
        with _making("data", settings.data):
            os.makedirs(settings.data, mode=0o700, exist_ok=True)
        with _making("state", settings.state):
            make_directory(settings.state, 0o751)
        # Others pass through STATE to the socket and to their pods' files, but not through DATA.
        for key, path, rights in (("data", settings.data, 0o066), ("state", settings.state, 0o026)):
            try:
                if shut_others_out(path, rights):
                    _log.warning("%s: %s could be read by others, and no longer is", key, path)
            except NotOurs as error:
                raise Broken(f"{key}: {error}") from error
        for path in paths.directories:
            with _making("data" if path.startswith(f"{settings.data}/") else "state", path):
                os.makedirs(path, mode=0o700, exist_ok=True)


async def _in_thread(what: str, work: Callable[[], None]) -> None:
    """For rooms that do not know the host."""
    await FOREIGN.run(Job(what, what, LOOK_SECONDS), work)


@contextlib.contextmanager
def _making(key: str, path: str) -> Iterator[None]:
    """Names the setting when a directory cannot be made."""
    try:
        yield
    except OSError as error:
        raise Broken(f"{key}: directory {path} cannot be made: {error.strerror}") from error


def _archives(directory: str) -> list[str]:
    """What is to be imported at start, in lexical order; a directory that cannot be read is logged."""
    try:
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if not name.startswith(".")]
    except OSError as error:
        _log.error("images.import_dir: %s", error)
        return []


def main() -> None:
    """The program `cribd`."""
    options = offline.options(f"cribd {__version__}", DEFAULT_PATH)
    if options.default_config:
        print(default_config(), end="")
        return
    try:
        configuration = Reloading(options.config)
        extensions = NO_EXTENSIONS
        if options.wipe is None:
            extensions = load_extensions(configuration.settings)
        if options.check_config:
            print("\n".join(checked(configuration.configuration)))
            return
        os.umask(PRIVATE_UMASK)
        libc.use_one_heap()
        faulthandler.enable()  # what each thread did goes to the log when a watchdog ends the daemon
        logs.set_up(configuration.settings.log)
        watch = LoopWatch()
        daemon = Daemon(configuration, watch, extensions)
        sys.setswitchinterval(SWITCH_INTERVAL)
        with asyncio.Runner(loop_factory=lambda: TwoLanes(watch.selector())) as runner:
            if options.check:
                found = daemon.check(repair=options.repair, quick=options.quick)
                sys.exit(runner.run(offline.tell_findings(found)))
            elif options.wipe is not None:
                runner.run(offline.tell_wiped(daemon.wipe(offline.wipe_order(options))))
            else:
                runner.run(daemon.serve())
    except (ConfigError, CribError, OSError) as error:
        for line in str(error).splitlines():
            print(f"cribd: {line}", file=sys.stderr)
        sys.exit(2 if options.check else 1)


if __name__ == "__main__":
    main()
