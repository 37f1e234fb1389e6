"""cribd as it is, started so that a test decides what happens at each of its steps.

    CONTROL [--host] --config FILE      its arguments; CONTROL: the test's unix socket

A point is a place that the daemon's work passes: the stages of its timeline (`stage …`), the calls of its
ports (`port …`), the functions of `crib.host` (`host …`) and the statements for SQLite (`sql …`). They are
wrapped from outside, once everything is imported: the production code has no hook for this, and what is new
in it is a point by itself. The test sends one line of JSON for each command and gets one for each answer;
see `Steering`. The other end is `tests.crash.steered`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import inspect
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from crib import daemon, engine
from crib.tasks import keeper
from tests.system.labs.nursery import import_all

HOLD_SECONDS = 60.0
"""That a step waits for the test at most: one that fails must not leave a daemon that hangs."""
WITHOUT_SYSTEM = re.compile(
    # They look at what they are given and at nothing else, or end what has succeeded: they do not fail so.
    r"netlink\.(align|(text_|u32_|u16_|u8_)?attribute|u(8|16|32)|parse_attributes|split_messages|nested)"
    r"|links\.(check_interface_name|mac_bytes|link_header|name_attribute|up_request)"
    r"|neighbours\.(\w+_entry|permanent_neighbour)|addresses\.new_address|routes\.(new_\w+|is_default)"
    r"|sysctls\.(sysctl_path|required_namespace|check_value)|nftables\.(\w+_elements|_element)"
    r"|(capture|adoption)\..*|undying\.(note|forget|undying)|processes\.Child\..*|streams\.(DescriptorWait\..*|\w+\.(release|end|close))"
    r"|streams\.\w+\.read|freezer\..*|(\w+\.)+close|cgroups\.Cgroups\.directories|pidfds\.awaits_program"
)
STEERED_KINDS = ("local", "tmpfs", "block")
"""Kinds of volumes that need nobody else."""
_SQL_ERRORS = {
    errno.ENOSPC: (sqlite3.SQLITE_FULL, "database or disk is full"),
    errno.EIO: (sqlite3.SQLITE_IOERR, "disk I/O error"),
    errno.EMFILE: (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
    errno.EROFS: (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
}


class Steering:
    """What the test has ordered, and what the daemon has passed.

    record             remember the points that are passed from now on
    recorded           answer with them, in order, and stop
    plan               the next time that `number` more passings of `point`, `when` (before, after), are due:
                       kill, kill with monitors, raise ERRNO, kill programs NAMES, hold
    done               answer whether the plan was carried out; it is forgotten
    go                 let go what is held
    figures            answer with the counts of what a daemon must not gather
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._lock = threading.Lock()
        self._recorded: list[str] | None = None
        self._plan: dict[str, Any] | None = None
        self._carried_out = False
        self._go = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        lines = self._socket.makefile("r")
        self._obey(lines.readline())  # what is in force from the start
        threading.Thread(target=self._listen, args=(lines,), name="steering", daemon=True).start()

    def _listen(self, lines: TextIO) -> None:
        for line in lines:
            self._obey(line)
        self._go.set()

    def _obey(self, line: str) -> None:
        command, _, rest = line.strip().partition(" ")
        self._say(getattr(self, command)(json.loads(rest)))

    def _say(self, message: object) -> None:
        with contextlib.suppress(OSError):  # the test has gone
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def record(self, _: object) -> bool:
        with self._lock:
            self._recorded = []
        return True

    def recorded(self, _: object) -> list[str]:
        with self._lock:
            found, self._recorded = self._recorded or [], None
        return found

    def plan(self, plan: dict[str, Any]) -> bool:
        with self._lock:
            self._plan, self._carried_out = plan, False
            self._go.clear()
        return True

    def done(self, _: object) -> bool:
        with self._lock:
            carried_out, self._plan, self._carried_out = self._carried_out, None, False
            return carried_out

    def go(self, _: object) -> bool:
        self._go.set()
        return True

    def figures(self, _: object) -> dict[str, int]:
        answer: dict[str, int] = {}
        counted = threading.Event()

        def count() -> None:
            gc.collect()
            answer["tasks"] = len(asyncio.all_tasks(self.loop))
            counted.set()

        assert self.loop is not None
        self.loop.call_soon_threadsafe(count)
        counted.wait(HOLD_SECONDS)
        return answer

    def passes(self, point: str, when: str) -> None:
        """Called where a point is passed; carries out what was ordered for it."""
        with self._lock:
            if self._recorded is not None and when == "before":
                self._recorded.append(point)
            plan = self._plan
            if plan is None or plan["point"] != point or plan["when"] != when:
                return
            plan["number"] -= 1
            if plan["number"] > 0:
                return
            self._plan, self._carried_out = None, True
        self._act(point, plan["do"], plan.get("with"))

    def _act(self, point: str, what: str, argument: Any) -> None:
        match what:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill with monitors":
                _kill_programs(["conmon"])
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill programs":
                _kill_programs(argument)
            case "raise":
                raise _error(point, argument)
            case "hold":
                self._say({"held": point})
                self._go.wait(HOLD_SECONDS)
            case other:
                raise AssertionError(other)


def _error(point: str, number: int) -> Exception:
    if not point.startswith("sql "):
        return OSError(number, os.strerror(number), point)
    code, text = _SQL_ERRORS[number]
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


def _kill_programs(names: list[str]) -> None:
    for pid in _below(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/comm").read_text().strip() in names:
                os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
            for child in children:
                yield child
                yield from _below(child)


def wrapped(steering: Steering, point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and the point passed before it and after it has succeeded."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*values: Any, **named: Any) -> Any:
            steering.passes(point, "before")
            result = await function(*values, **named)
            steering.passes(point, "after")
            return result

        return asynchronous

    @functools.wraps(function)
    def plain(*values: Any, **named: Any) -> Any:
        steering.passes(point, "before")
        result = function(*values, **named)
        steering.passes(point, "after")
        return result

    return plain


def wrap_methods(steering: Steering, point: str, kind: type, names: list[str]) -> None:
    """Methods of a class, its class and static methods among them."""
    for name in names:
        raw = inspect.getattr_static(kind, name, None)
        if isinstance(raw, classmethod | staticmethod):
            setattr(kind, name, type(raw)(wrapped(steering, f"{point}.{name}", raw.__func__)))
        elif inspect.isfunction(raw) and not hasattr(raw, "__wrapped__"):
            setattr(kind, name, wrapped(steering, f"{point}.{name}", raw))


def wrap_host(steering: Steering) -> None:
    """Each public function and method of `crib.host`, under whatever name it was imported."""
    import_all()
    modules = [module for name, module in sys.modules.items() if name.startswith("crib.") and module]
    for module in [module for module in modules if module.__name__.startswith("crib.host.")]:
        room = module.__name__.removeprefix("crib.host.")
        if room == "threads":
            continue  # where the work runs, not what it does
        for name, value in list(vars(module).items()):
            if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                continue
            point = f"{room}.{name}"
            if inspect.isclass(value) and not issubclass(value, BaseException):
                public = [key for key, one in vars(value).items() if _is_method(f"{point}.{key}", one)]
                wrap_methods(steering, f"host {point}", value, public)
            elif isinstance(value, types.FunctionType) and not WITHOUT_SYSTEM.fullmatch(point):
                replacement = wrapped(steering, f"host {point}", value)
                for other in modules:
                    for key in [key for key, one in vars(other).items() if one is value]:
                        setattr(other, key, replacement)


def _is_method(point: str, value: object) -> bool:
    is_public = not point.rpartition(".")[2].startswith("_")
    is_method = isinstance(value, classmethod | staticmethod | types.FunctionType)
    return is_public and is_method and not WITHOUT_SYSTEM.fullmatch(point)


def wrap_stages(steering: Steering) -> None:
    """The stages of the timeline, and those that only work under way shows; ended well is after."""
    clock = engine.timeline.StageClock
    enter, leave = clock.__enter__, clock.__exit__

    def name(self: Any) -> str:
        return f"stage {self.name}" + (f" {self.subject}" if self.name == "network" else "")

    def entered(self: Any) -> Any:
        found = enter(self)
        try:
            steering.passes(name(self), "before")
        except BaseException as error:
            leave(self, type(error), error, None)
            raise
        return found

    def left(self: Any, kind: object, error: BaseException | None, trace: object) -> None:
        leave(self, kind, error, trace)
        if error is None:
            steering.passes(name(self), "after")

    clock.__enter__, clock.__exit__ = entered, left  # type: ignore[method-assign]
    shown = keeper.at_stage

    @contextlib.contextmanager
    def at_stage(name: str, subject: str = "") -> Iterator[None]:
        with shown(name, subject):
            point = f"stage {re.sub('[0-9]+', 'N', name)}"
            steering.passes(point, "before")
            yield
            steering.passes(point, "after")

    for module in list(sys.modules.values()):
        if getattr(module, "at_stage", None) is shown and module is not engine.timeline:
            module.at_stage = at_stage  # type: ignore[attr-defined]


def wrap_ports(steering: Steering) -> None:
    """The methods of the ports, on the classes that stand for them here."""
    from crib.ports import (
        containers,
        handler,
        images,
        logs,
        networks,
        pods,
        records,
        statistics,
        streams,
        volumes,
    )

    of_handler = {
        "handler": handler.Handler,
        "pods": pods.PodRuntime,
        "containers": containers.ContainerRuntime,
        "streams": streams.ContainerStreams,
        "logs": logs.ContainerLogs,
        "statistics": statistics.Statistics,
    }
    of_node = {
        "networks": networks.PodNetworks,
        "images": images.Images,
        "records": records.Records,
    }
    real = vars(daemon)["Ports"]

    def made(**hands: Any) -> Any:
        first = next(iter(hands["handlers"].values()))
        found = {name: hands[name] for name in of_node}
        found |= {name: getattr(first, name, first) for name in of_handler}
        for name, port in {**of_handler, **of_node}.items():
            hand = found[name]
            public = [key for key, one in vars(port).items() if inspect.isfunction(one) and key[0] != "_"]
            wrap_methods(steering, f"port {name}", type(hand), public)
        of_volumes = (
            ("volumes", volumes.VolumeKind, [hands["volumes"].kinds[name] for name in STEERED_KINDS]),
            ("archives", volumes.VolumeArchives, [hands["volumes"].archives]),
        )
        for name, port, kinds in of_volumes:
            public = [key for key, one in vars(port).items() if inspect.isfunction(one) and key[0] != "_"]
            for kind in kinds:
                wrap_methods(steering, f"port {name}", type(kind), public)
        steering.loop = asyncio.get_running_loop()
        return real(**hands)

    vars(daemon)["Ports"] = made


def wrap_sqlite(steering: Steering) -> None:
    """The statements, by their first words: `sql REPLACE INTO sandboxes`."""

    class Steered(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            words = re.findall(r"[A-Za-z_]+", statement)
            point = f"sql {' '.join(words[:3])}"
            steering.passes(point, "before")
            cursor = super().execute(statement, *values)
            steering.passes(point, "after")
            return cursor

    connect = sqlite3.connect
    sqlite3.connect = functools.partial(connect, factory=Steered)  # type: ignore[assignment]


def main() -> None:
    steering = Steering(sys.argv.pop(1))
    if sys.argv[1] == "--host":
        sys.argv.pop(1)
        wrap_host(steering)
    wrap_stages(steering)
    wrap_sqlite(steering)
    wrap_ports(steering)
    daemon.main()
