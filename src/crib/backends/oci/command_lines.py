"""Command lines of the OCI runtime and of conmon, as values."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

SHELL = "/bin/sh"
_RESTORING = ("--tcp-established", "--file-locks")
"""What may be in a checkpoint. A connection is restored only where the pod has the same address."""


@dataclass(frozen=True, slots=True)
class ExecFiles:
    """Paths of one exec.

    `process` is what to run, `log` where the runtime's own words go, `pid` where it writes the command's pid;
    `console` is the socket on which it sends the command's terminal, if that has one.
    """

    process: str
    log: str
    pid: str
    console: str = ""
    inner: str = ""
    """Where the command's pid on the pod's own kernel is written; empty for a process of this host."""

    @property
    def files(self) -> tuple[str, str, str]:
        """Those that are there while the runtime runs, and no longer."""
        return self.process, self.log, self.pid


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """Paths of one checkpoint: CRIU's images, what it says of itself, and the runtime's own words."""

    images: str
    work: str
    log: str


@dataclass(frozen=True, slots=True)
class RuntimeProgram:
    """An OCI runtime's command line.

    Crun and runc take the same one. `root` is where it keeps its own state.
    """

    program: str
    root: str
    args: tuple[str, ...] = ()
    systemd: bool = False
    """Containers are scopes that systemd makes."""
    stand_in: str = ""
    """The script that stands in for containers which are no processes of this host (`stand_in.sh`), or empty.
    """

    def monitored(self, path: str, container: Monitored) -> tuple[str, ...]:
        """What a monitor calls, with the program at `path`, and the arguments that come before its own."""
        called = (path, *self.args, f"--root={self.root}")
        return (SHELL, self.stand_in, container.bundle, container.id, *called) if self.stand_in else called

    def _global(self, *more: str) -> tuple[str, ...]:
        driver = ("--systemd-cgroup",) if self.systemd else ()
        return (self.program, *self.args, f"--root={self.root}", *driver, *more)

    def create(self, container: str, bundle: str, pid_file: str) -> tuple[str, ...]:
        """Create without a monitor: for a process without output."""
        return self._global("create", "--bundle", bundle, "--pid-file", pid_file, container)

    def start(self, container: str) -> tuple[str, ...]:
        """Start what was created."""
        return self._global("start", container)

    def start_monitored(self, container: str, bundle: str) -> tuple[str, ...]:
        """The same for what a monitor has created."""
        if self.stand_in:
            return (SHELL, self.stand_in, bundle, container, "start")
        return self.start(container)

    def kill(self, container: str, signum: int, *, everyone: bool = False) -> tuple[str, ...]:
        """Send a signal to its first process, or to all."""
        return self._global("kill", *(("--all",) if everyone else ()), container, str(signum))

    def kill_inner(self, container: str, pid: int, signum: int) -> tuple[str, ...]:
        """Send a signal to a process by its pid on the pod's own kernel (runsc)."""
        return self._global("kill", "--pid", str(pid), container, str(signum))

    def processes(self, container: str) -> tuple[str, ...]:
        """Print a table of its processes, as ps does."""
        return self._global("ps", container)

    def usage(self, container: str) -> tuple[str, ...]:
        """Print what it uses as JSON."""
        return self._global("events", "--stats", container)

    def forward(self, container: str, port: int, path: str) -> tuple[str, ...]:
        """Connect the socket at `path` to a port of its loopback (runsc since 2023)."""
        return self._global("port-forward", "--stream", path, container, str(port))

    def state_of(self, container: str) -> list[str]:
        """What it keeps of a container in its root: a directory, or the files of runsc. Blocks."""
        place = f"{self.root}/{container}"
        if self.stand_in:
            return glob.glob(f"{glob.escape(place)}_sandbox:*")
        return [place] if os.path.isdir(place) else []

    def known(self) -> list[str]:
        """The names that it keeps something of. Blocks."""
        try:
            return [name.partition("_sandbox:")[0] for name in os.listdir(self.root)]
        except FileNotFoundError:
            return []

    def state(self, container: str) -> tuple[str, ...]:
        """Print the state (OCI runtime spec, State) as JSON."""
        return self._global("state", container)

    def delete(self, container: str) -> tuple[str, ...]:
        """Kill and remove; fine when there is none."""
        return self._global("delete", "--force", container)

    def exec(self, container: str, files: ExecFiles, cgroup: str = "") -> tuple[str, ...]:
        """Start the command of a process.json, which comes to us, and end.

        Detached: a runtime that stayed would hold the command's pipes beside it, and (crun) wait for what the
        command leaves in the background, where that has no other parent, or (runc) copy the output itself.
        """
        below = ("--cgroup", cgroup) if cgroup and not files.inner else ()
        inner = ("--internal-pid-file", files.inner) if files.inner else ()
        terminal = ("--console-socket", files.console) if files.console else ()
        apart = ("--detach", "--pid-file", files.pid)
        more = (*apart, *inner, *terminal, *below, container)
        return self._global(f"--log={files.log}", "exec", "--process", files.process, *more)

    def checkpoint(self, container: str, files: CheckpointFiles) -> tuple[str, ...]:
        """Write a container down and let it be as it was: frozen, if it was."""
        places = ("--image-path", files.images, "--work-path", files.work)
        return self._global(
            f"--log={files.log}", "checkpoint", *places, "--leave-running", *_RESTORING, container
        )

    def features(self) -> tuple[str, ...]:
        """Print what it can do (OCI runtime spec, features.md)."""
        return self._global("features")


@dataclass(frozen=True, slots=True)
class Monitored:
    """What conmon needs to know of a container. Without `log_path` nothing is kept."""

    id: str
    name: str
    bundle: str
    pid_file: str
    command: str
    """What it runs, for messages."""
    short_id: str
    """Name of the link in the socket directory: short, for the 107 bytes of a socket's path."""
    log_path: str = ""
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    restore: str = ""
    """Directory of CRIU's images that it is restored from; empty: it is created."""


@dataclass(frozen=True, slots=True)
class MonitorProgram:
    """conmon's command line."""

    program: str
    exit_dir: str
    socket_dir: str

    def create(self, runtime: RuntimeProgram, runtime_path: str, container: Monitored) -> tuple[str, ...]:
        """Create a container and stay as its monitor.

        `--sync`: one process fewer, and it is our child. No fsync of logs: it would hold up every exit and
        rotation.
        """
        log = f"k8s-file:{container.log_path}" if container.log_path else "none"
        called, *before = runtime.monitored(runtime_path, container)
        return (
            self.program,
            *("--sync", "--no-sync-log", "--log-level=error"),
            *("--cid", container.id),
            *("--cuuid", container.short_id),
            *("--name", container.name),
            *("--runtime", called),
            *(f"--runtime-arg={arg}" for arg in before),
            *(("--systemd-cgroup",) if runtime.systemd else ()),
            *("--bundle", container.bundle),
            *("--container-pidfile", container.pid_file),
            *("--exit-dir", self.exit_dir),
            *("--socket-dir-path", self.socket_dir),
            *("--log-path", log),
            *(("--terminal",) if container.terminal else ()),
            *(("--stdin",) if container.stdin else ()),
            *(("--leave-stdin-open",) if container.stdin and not container.stdin_once else ()),
            *(("--restore", container.restore) if container.restore else ()),
            *((f"--runtime-opt={option}" for option in _RESTORING) if container.restore else ()),
        )
