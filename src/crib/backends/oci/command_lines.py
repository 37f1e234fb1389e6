"""Command lines of the OCI runtime and of conmon, as values."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def files(self) -> tuple[str, str, str]:
        """Those that are there while the runtime runs, and no longer."""
        return self.process, self.log, self.pid


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

    def _global(self, *more: str) -> tuple[str, ...]:
        driver = ("--systemd-cgroup",) if self.systemd else ()
        return (self.program, *self.args, f"--root={self.root}", *driver, *more)

    def create(self, container: str, bundle: str, pid_file: str) -> tuple[str, ...]:
        """Create without a monitor: for a process without output."""
        return self._global("create", "--bundle", bundle, "--pid-file", pid_file, container)

    def start(self, container: str) -> tuple[str, ...]:
        """Start what was created."""
        return self._global("start", container)

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
        below = ("--cgroup", cgroup) if cgroup else ()
        terminal = ("--console-socket", files.console) if files.console else ()
        apart = ("--detach", "--pid-file", files.pid)
        more = (*apart, *terminal, *below, container)
        return self._global(f"--log={files.log}", "exec", "--process", files.process, *more)

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
        return (
            self.program,
            *("--sync", "--no-sync-log", "--log-level=error"),
            *("--cid", container.id),
            *("--cuuid", container.short_id),
            *("--name", container.name),
            *("--runtime", runtime_path),
            *(f"--runtime-arg={arg}" for arg in (*runtime.args, f"--root={runtime.root}")),
            *(("--systemd-cgroup",) if runtime.systemd else ()),
            *("--bundle", container.bundle),
            *("--container-pidfile", container.pid_file),
            *("--exit-dir", self.exit_dir),
            *("--socket-dir-path", self.socket_dir),
            *("--log-path", log),
            *(("--terminal",) if container.terminal else ()),
            *(("--stdin",) if container.stdin else ()),
            *(("--leave-stdin-open",) if container.stdin and not container.stdin_once else ()),
        )
