"""The program: how a shim client starts a pod's shim, and clears up after one (containerd,
docs/runtime-v2.md).

`start` makes the socket and forks: the child serves, and then the parent prints the address and ends. A
container of a pod whose shim is there gets that one's address.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crib.vm.shim.launch import EarlyVm

NAME = "crib-vm-shim"
SOCKETS = "/run/containerd/s"
"""Directory for sockets where the caller names none (containerd, pkg/shim, CreateSocketAddress)."""
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
"""Annotation of a container's config.json: whose shim it has."""
NEWEST_VERSION = 3
_MOST_INPUT = 1 << 20
_MOST_SPEC = 16 << 20
_BACKLOG = 64
_UMASK = 0o022
_FLAGS_WITHOUT_VALUE = frozenset(("debug", "v", "info"))


class Misused(Exception):
    """The command line is not understood."""


@dataclass(frozen=True, slots=True)
class Called:
    """The command line."""

    namespace: str = ""
    address: str = ""
    publish_binary: str = ""
    id: str = ""
    bundle: str = ""
    debug: bool = False
    v: bool = False
    command: str = ""


def read_arguments(words: Sequence[str]) -> Called:
    """Flags as Go takes them, then a command. Misused."""
    found: dict[str, str | bool] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        key = name.replace("-", "_")
        if name in _FLAGS_WITHOUT_VALUE:
            found[key] = value != "false"
        elif key in Called.__slots__ and key != "command":
            if not equals and not rest:
                raise Misused(f"-{name} needs a value")
            found[key] = value if equals else rest.pop(0)
        else:
            raise Misused(f"-{name} is not known")
    found.pop("info", None)
    if len(rest) > 1:
        raise Misused(f"{rest[1]!r} after {rest[0]!r} is not understood")
    called = Called(**found, command=rest[0] if rest else "")  # type: ignore[arg-type]  # by the loop above
    if called.v:
        return called
    if called.command not in ("start", "delete"):
        raise Misused(f"{called.command!r} is no command: there are start and delete")
    if not called.id or "/" in called.id:
        raise Misused(f"-id must be that of a pod or container, not {called.id!r}")
    return called


def main() -> int:
    """Exit code."""
    try:
        called = read_arguments(sys.argv[1:])
    except Misused as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    if called.v:
        return _print_version()
    os.umask(_UMASK)
    bundle = called.bundle or os.getcwd()
    if called.command == "delete":
        return _delete(called, bundle)
    given = sys.stdin.buffer.read(_MOST_INPUT)
    return _start(called, bundle, given)


def _delete(called: Called, bundle: str) -> int:
    from crib.vm.shim.clearing import clear_up, deleted

    path = socket_path(called, os.environ)
    try:
        # A container's bundle names its pod's network too, which is not the container's to undo.
        if owner_of(bundle, called.id) == called.id and not _answers(path):
            clear_up(bundle, path)
    except (OSError, ValueError) as error:
        print(f"{NAME}: delete of {called.id}: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(deleted())
    return 0


def socket_path(called: Called, environment: Mapping[str, str], owner: str = "") -> str:
    """Where the shim of a pod listens, by its id: as containerd's library names sockets."""
    name = f"{called.address or environment.get('GRPC_ADDRESS', '')}/{called.namespace}/{owner or called.id}"
    return f"{SOCKETS}/{hashlib.sha256(name.encode()).hexdigest()}"


def owner_of(bundle: str, instance: str) -> str:
    """The id of the pod whose shim this bundle's is. ValueError, OSError."""
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            spec = json.loads(file.read(_MOST_SPEC))
    except FileNotFoundError:
        return instance
    return str((spec.get("annotations") or {}).get(SANDBOX_ID, "")) or instance


def _start(called: Called, bundle: str, given: bytes) -> int:
    try:
        path = socket_path(called, os.environ, owner_of(bundle, called.id))
        if _answers(path):
            _print_address(path)
            return 0
        listening = _listen(path)
    except (OSError, ValueError) as error:
        print(f"{NAME}: start of {called.id}: {error}", file=sys.stderr)
        return 1
    reading, ready = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(ready)
        listening.close()
        # Who is told the address waits a short time for an answer; imports take long on a busy host.
        if not os.read(reading, 1):
            print(f"{NAME}: start of {called.id}: the shim has died; its log may say why", file=sys.stderr)
            return 1
        _print_address(path)
        return 0
    os.close(reading)
    _leave(bundle)
    early = _begin_early(bundle, given)
    # Only now: what serves a pod takes longer to be imported than a VM to be started.
    from crib.vm.shim.serve import Serving, serve

    events = os.environ.get("TTRPC_ADDRESS", "")
    serving = Serving(called.id, bundle, path, called.namespace, events, given, called.debug, ready)
    serve(listening, serving, early)
    return 0


def _begin_early(bundle: str, given: bytes) -> EarlyVm:
    """The VM boots already, where its recipe is understood; else CreateSandbox says what is wrong."""
    from crib.vm.shim.cgroup import join_cgroup
    from crib.vm.shim.launch import EarlyVm, read_recipe
    from crib.vm.shim.stages import Stages, process_began

    early = EarlyVm(bundle, stages := Stages())
    stages.begin("shim", process_began())
    try:
        recipe = read_recipe(given, bundle)
        if recipe.plan.cgroup:
            join_cgroup(recipe.plan.cgroup)
        stages.end("shim")
        early.begin(recipe)
    except (OSError, ValueError):
        stages.end("shim")
    return early


def _print_address(path: str) -> None:
    try:
        version = min(NEWEST_VERSION, int(os.environ.get("MAX_SHIM_VERSION", "2")))
    except ValueError:
        version = 2
    print(json.dumps({"version": version, "address": f"unix://{path}", "protocol": "ttrpc"}), end="")
    sys.stdout.flush()


def _answers(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(path)
        except OSError:
            return False
        return True


def _listen(path: str) -> socket.socket:
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o711, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(before)
    listening.listen(_BACKLOG)
    return listening


def _leave(bundle: str) -> None:
    """The child leaves its parent's session and streams; what it says goes to the bundle's log."""
    os.setsid()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        # Both ends of the fifo: whoever reads it may come and go.
        log = os.open(f"{bundle}/log", os.O_RDWR | os.O_NONBLOCK | os.O_APPEND)
    except OSError:
        log = os.dup(null)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for fd in (null, log):
        if fd > 2:
            os.close(fd)


def _print_version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("crib")
    except PackageNotFoundError:
        found = "unknown"
    print(f"{NAME}:\n  Version:  {found}")
    return 0
