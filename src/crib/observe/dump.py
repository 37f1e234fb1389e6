"""What the daemon is at, as text: for a person who wants to know why it hangs, or is slow.

It is collected beside the loop, which may be blocked: everything is read as it is found, and may be a
moment old. Of stacks there are functions and lines, never the values of variables.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import operator
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from types import FrameType
from typing import Any

from crib.model.log_rule import DumpSection
from crib.observe.logs import FIGURES

_log = logging.getLogger(__name__)

LINES_LIMIT = 400
"""Lines of one section."""
LENGTH_LIMIT = 2000
"""Characters of a line."""
FRAMES = 20
"""Innermost calls of a stack that are shown."""
NAMES = 5
"""Of tasks with the same stack, how many are named."""
TYPES = 30
"""Types of objects that are told, those with the most memory."""
DESCRIPTOR_KINDS = 60


def section(name: str, lines: Iterable[str]) -> DumpSection:
    """Bounded; what goes wrong is told in it."""
    kept: list[str] = []
    left_out = 0
    try:
        for line in lines:
            if len(kept) < LINES_LIMIT:
                kept.append(line if len(line) <= LENGTH_LIMIT else f"{line[:LENGTH_LIMIT]} …")
            else:
                left_out += 1
    except Exception as error:  # a dump is for when things go wrong
        kept.append(f"cannot be told: {type(error).__name__}: {error}")
    return DumpSection(name, tuple(kept), left_out)


def tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Those with the same stack together, the most first; a stack begins with the outermost call."""
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for task in asyncio.all_tasks(loop):
        same[(*_task_stack(task.get_coro()), _awaited(task))].append(task.get_name())
    for stack, names in sorted(same.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"{len(names)}: {', '.join(sorted(names)[:NAMES])}{more}"
        yield from (f"    {line}" for line in stack if line)


def _task_stack(coroutine: Any) -> list[str]:
    calls: list[str] = []
    while coroutine is not None and len(calls) < FRAMES:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        frame = frame or getattr(coroutine, "ag_frame", None)
        if frame is None:
            break
        calls.append(_place(frame))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return calls


def _awaited(task: asyncio.Task[Any]) -> str:
    """What it waits for, in the end."""
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return "is about to go on"
    if isinstance(waiter, asyncio.Task):
        return f"waits for the task {waiter.get_name()}"
    return f"waits for a {type(waiter).__name__.strip('_')}"


def threads() -> Iterator[str]:
    """Those of Python with what the kernel says and their stacks, innermost call first; then the others."""
    frames = sys._current_frames()
    known: set[int] = set()
    for thread in threading.enumerate():
        known.add(thread.native_id or 0)
        yield f"{thread.name} ({thread.native_id}): {_kernel_state(thread.native_id)}"
        frame: FrameType | None = frames.get(thread.ident or 0)
        count = 0
        while frame is not None and count < FRAMES:
            yield f"    {_place(frame)}"
            frame, count = frame.f_back, count + 1
        del frame
    others = Counter(
        f"{_read(f'/proc/self/task/{tid}/comm')}: {_kernel_state(tid)}"
        for tid in map(int, os.listdir("/proc/self/task"))
        if tid not in known
    )
    yield from (f"{count} of no Python: {what}" for what, count in others.most_common())


def _kernel_state(tid: int | None) -> str:
    """See proc(5): the state, and the function of the kernel in which it waits."""
    state = _read(f"/proc/self/task/{tid}/stat").rpartition(")")[2].split()[:1]
    where = _read(f"/proc/self/task/{tid}/wchan")
    return " ".join([*state, where if where not in ("", "0") else ""]).strip()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16).strip()
    except OSError:
        return ""


def descriptors() -> Iterator[str]:
    """By kind, the most first; files by their directory."""
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # closed meanwhile
        kinds[_kind(os.fsencode(target).decode(errors="replace"))] += 1
    yield f"{sum(kinds.values())} open"
    yield from (f"{count:6} {kind}" for kind, count in kinds.most_common(DESCRIPTOR_KINDS))


def _kind(target: str) -> str:
    if not target.startswith("/"):
        return target.partition(":[")[0]  # socket, pipe, anon_inode:[eventpoll] as a whole
    parts = target.split("/")
    return "/".join(part if len(part) < 32 else "ID" for part in parts[:-1]) or "/"


def memory() -> Iterator[str]:
    """Of the process, and of objects that Python's collector knows: those that hold others."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(("VmHWM", "VmRSS", "RssAnon", "RssFile", "VmSwap", "Threads")):
            yield " ".join(line.split())
    for line in _read("/proc/self/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            yield " ".join(line.split())
    yield f"collections: {', '.join(str(one['collections']) for one in gc.get_stats())}"
    counts = Counter(list(map(type, _known_objects())))
    size = sum(map(sys.getsizeof, _known_objects(), repeat(0)))
    yield f"{counts.total()} objects that are not frozen, {size} bytes without what they refer to"
    for kind, count in counts.most_common(TYPES):
        yield f"{count:8} {kind.__module__}.{kind.__qualname__}"


def _known_objects() -> Iterator[object]:
    """What Python's collector knows; the list of it is made at the first step, and goes at the last.

    All steps have to be made by one call of C code, which may keep none. Python code gives way to other
    threads, and one of them may be making a tuple: with a reference to that from here it fails (SystemError).
    """
    return chain.from_iterable(map(operator.call, (gc.get_objects,)))


def locks_in_memory() -> Iterator[str]:
    """Locks of asyncio that are held, and nobody notes by whom; see the tasks that wait."""
    held = [one for one in gc.get_referrers(asyncio.Lock) if type(one) is asyncio.Lock and one.locked()]
    waiters = sum(len(getattr(one, "_waiters", None) or ()) for one in held)
    if held:
        yield f"{len(held)} others, of which it is not known who holds them; {waiters} tasks wait for these"


def log_lines() -> Iterator[str]:
    """The last lines of the log."""
    return iter(tuple(FIGURES.latest))


def _place(frame: FrameType) -> str:
    file = "/".join(frame.f_code.co_filename.split("/")[-2:])
    return f"{frame.f_code.co_name} ({file}:{frame.f_lineno})"


def as_text(sections: Iterable[DumpSection]) -> str:
    """For a file."""
    lines = [f"crib's daemon at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}, pid {os.getpid()}"]
    for one in sections:
        left = f", {one.left_out} lines left out" if one.left_out else ""
        lines += ["", f"== {one.name}{left}", *one.lines]
    return "\n".join(lines) + "\n"


Part = tuple[str, Callable[[], Iterable[str]]]
"""A section's name, and what makes its lines."""
