"""Plugins that are installed: executables `IDX-NAME` in a directory, which the daemon starts and keeps going.

Each gets its connection as descriptor 3 and its name in its environment, as the NRI project's own runtime
side has it (pkg/adaptation/plugin.go). What it writes is logged. It is killed when the daemon ends, however
that ends. A plugin that ends by itself, or is dropped, is started again after a pause. One that ends with
exit code 0 has nothing to do on this node, and is not started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crib.backends.failures import why
from crib.backends.images.worker_log import WorkerLog
from crib.backends.nri.lives import PluginName
from crib.host import processes
from crib.host.threads import FOREIGN, PROGRAMS, Job
from crib.tasks.groups import Beside
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
MOST_PAUSE = 30.0
"""Seconds until a plugin is started again; the pause doubles from the first to the most."""
GOOD_RUN = 60.0
"""Seconds of running after which the pause is the first one again."""
END_SECONDS = 2.0
"""That a plugin gets to end by itself, after SIGTERM."""
FILE_SECONDS = 5.0
"""For reading the directory, a configuration, or the beginning of a program."""
MAX_CONFIGURATION = 1 << 20
"""Bytes: it goes into one message of at most 4 MiB."""
LOG_LINES = 1000
"""Of one plugin that are logged in a minute; the others are counted."""
LOG_BYTES = 1 << 20
"""That a plugin may write in a fifth of a second before it has to wait. Some tell much of each event, and one
that waits here does not answer.
"""
MOST_PLUGINS = 64
PLUGIN_FD = 3
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WASM = b"\0asm"
# The connection comes as standard input and becomes PLUGIN_FD: subprocess hands descriptors on under their
# own numbers. The kernel kills the plugin when the thread ends that started it, which is our main one.
_START = f'exec setpriv --pdeathsig KILL -- "$0" {PLUGIN_FD}<&0 0</dev/null'


@dataclass(frozen=True, slots=True)
class Started:
    """An installed plugin that has been started."""

    name: PluginName
    configuration: str
    pid: int
    end: socket.socket
    """Our end of its connection; who is given it owns it."""


Live = Callable[[Started, Callable[[], None]], Awaitable[str]]
"""Serves a plugin until its connection has ended, and says why that is; empty where the plugin closed it. The
function that it is given is to be called when the plugin is ready."""


class InstalledPlugin:
    """One executable, over all of its lives."""

    def __init__(self, name: PluginName, path: str) -> None:
        self.name = name
        self.path = path
        self.pid = 0
        self.starts = 0
        self.since = time.time_ns()
        """When it was last started, or has ended."""
        self.problem = ""
        """Why it is not ready."""
        self.stays_away = False
        """It has ended with exit code 0."""
        self.tried = asyncio.Event()
        """It was ready once, or could not be."""

    def is_now(self, pid: int, problem: str) -> None:
        self.pid, self.problem, self.since = pid, problem, time.time_ns()


class InstalledPlugins:
    """Those of one directory."""

    def __init__(
        self, directory: str, configurations: str, live: Live, told: Callable[[str, str], None]
    ) -> None:
        """`told` gets what is wrong with a plugin by its name (or with the directory), and an empty text
        when that is over."""
        self._directory = directory
        self._configurations = configurations
        self._live = live
        self._told = told
        self._tasks: list[asyncio.Task[None]] = []
        self.plugins: list[InstalledPlugin] = []

    async def begin(self, seconds: float) -> None:
        """Start all of them. Returns when each is ready or has failed once, after so long at the latest."""
        job = Job(f"listing the NRI plugins in {self._directory}", self._directory, FILE_SECONDS)
        try:
            self.plugins = await FOREIGN.run(job, _found, self._directory)
        except OSError as error:
            self._told("plugin_dir", f"no NRI plugin was started: {why(error)}")
            return
        for one in self.plugins:
            _log.info("NRI plugin %s is installed", one.path)
            self._tasks.append(HANDS.serve(f"NRI plugin {one.name}", self._keep(one)))
        with contextlib.suppress(TimeoutError):  # it goes on by itself
            async with asyncio.timeout(seconds):
                for one in self.plugins:
                    await one.tried.wait()

    async def close(self) -> None:
        """End all of them."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep(self, one: InstalledPlugin) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            problem = await self._once(one)
            one.is_now(0, problem)
            one.tried.set()
            if not problem:
                one.stays_away = True
                _log.info("NRI plugin %s ended with exit code 0, and is not started again", one.name)
                return
            if time.monotonic() - began >= GOOD_RUN:
                pause = FIRST_PAUSE
            self._told(str(one.name), f"{problem}; it is started again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)

    async def _once(self, one: InstalledPlugin) -> str:
        """One life; why it ended, or empty where nothing is left to do."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                configuration = await self._configuration(one)
                child, log = _spawned(one, theirs)
        except OSError as error:
            ours.close()
            return f"it cannot be started: {why(error)}"
        one.starts += 1
        one.is_now(child.pid, "it is not registered yet")
        ours.setblocking(False)

        def ready() -> None:
            one.problem = ""
            one.tried.set()
            self._told(str(one.name), "")

        try:
            async with Beside() as beside:
                started = Started(one.name, configuration, child.pid, ours)
                life = beside.start(f"life of NRI plugin {one.name}", self._served(started, ready))
                end = beside.start(f"end of NRI plugin {one.name}", child.wait())
                await asyncio.wait((life, end), return_when=asyncio.FIRST_COMPLETED)
                if not end.done() and not life.result():  # it has closed its connection: it is ending
                    await asyncio.wait((end,), timeout=END_SECONDS)
                reason = life.result() if life.done() else ""
        finally:
            was = child.exit_code
            await _ended(child)
            log.close()
        if reason or was is None:
            return reason or "it closed its connection"
        if was == 0:
            return ""
        return f"it ended ({'exit code' if was > 0 else 'signal'} {abs(was)})"

    async def _served(self, started: Started, ready: Callable[[], None]) -> str:
        return await self._live(started, ready)

    async def _configuration(self, one: InstalledPlugin) -> str:
        """Its text; OSError."""
        if await PROGRAMS.run(
            Job(f"looking at the NRI plugin {one.path}", one.path, FILE_SECONDS), _is_wasm, one.path
        ):
            raise OSError(errno.ENOEXEC, "plugins in WebAssembly are not supported", one.path)
        if not self._configurations:
            return ""
        places = [f"{self._configurations}/{name}" for name in one.name.configurations]
        job = Job(f"reading the configuration {places[0]}", self._configurations, FILE_SECONDS)
        return await FOREIGN.run(job, _first_text, places)


def _spawned(one: InstalledPlugin, theirs: socket.socket) -> tuple[processes.Child, WorkerLog]:
    """OSError."""
    log = WorkerLog(
        lambda line: _log.info("NRI plugin %s: %s", one.name, line), lines=LOG_LINES, burst=LOG_BYTES
    )
    environment = {
        "PATH": _PATH,
        "NRI_PLUGIN_NAME": one.name.base,
        "NRI_PLUGIN_IDX": one.name.index,
        "NRI_PLUGIN_SOCKET": str(PLUGIN_FD),
    }
    options = processes.SpawnOptions(
        stdin=theirs.fileno(),
        stdout=log.worker_end,
        stderr=log.worker_end,
        env=environment,
        cwd="/",
        new_session=True,
        ends_group=True,
        owner=f"NRI plugin {one.name}",
    )
    try:
        child = processes.spawn(["sh", "-c", _START, one.path], options)
    except BaseException:
        log.start()
        log.close()
        raise
    log.start()
    return child, log


async def _ended(child: processes.Child) -> None:
    """Ask it and what it started to end, and kill it when it takes too long; what is left dies with it."""
    if child.exit_code is None:
        child.signal(signal.SIGTERM, group=True)
        with contextlib.suppress(TimeoutError):
            await child.wait(END_SECONDS)
            return
        child.kill()
        with contextlib.suppress(TimeoutError):
            await child.wait(END_SECONDS)


def _found(directory: str) -> list[InstalledPlugin]:
    """In their order; a file that is no plugin is logged. OSError."""
    found: list[InstalledPlugin] = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    for name in names:
        path = f"{directory}/{name}"
        try:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode) or not mode & 0o111:
                continue
            found.append(InstalledPlugin(PluginName.of_file(name), path))
        except (OSError, ValueError) as error:
            _log.error("%s is not started as an NRI plugin: %s", path, error)
    for one in found[MOST_PLUGINS:]:
        _log.error("%s is not started: there are more than %d NRI plugins", one.path, MOST_PLUGINS)
    return found[:MOST_PLUGINS]


def _is_wasm(path: str) -> bool:
    """OSError."""
    with open(path, "rb") as file:
        return file.read(len(_WASM)) == _WASM


def _first_text(paths: list[str]) -> str:
    """Of the first file that exists; OSError."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_CONFIGURATION + 1)
        except FileNotFoundError:
            continue
        if len(content) > MAX_CONFIGURATION:
            raise OSError(errno.EFBIG, f"it has more than {MAX_CONFIGURATION} bytes", path)
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise OSError(errno.EILSEQ, "it is not UTF-8", path) from None
    return ""
