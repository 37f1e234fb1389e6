"""What crun, conmon and CNI plugins take alone for the work that a runtime asks of them: its floor.

Bench is a program outside the daemon, so it starts these programs itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from crib.bench.image import APPLETS
from crib.bench.target import MEMORY_LIMIT, WORKLOAD

NAME = "floor"
CGROUP = "crib-bench"
LIMIT = 30.0
"""Seconds for one program."""
_MOUNTS = (
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108  # in the container
    ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
)


class FloorError(Exception):
    """The programs do not work here; the message holds their words."""


@dataclass(slots=True)
class Floors:
    """crun and conmon on a bundle of the bench's own, below `directory`."""

    directory: str
    crun: str = "crun"
    conmon: str = "conmon"
    _count: int = 0
    _alive: set[str] = field(default_factory=set)

    def prepare(self) -> None:
        """Make the bundle. FloorError when a program is missing or this is not root."""
        if os.geteuid() != 0:
            raise FloorError("--floors needs root")
        for program in ("crun", "conmon", "busybox"):
            found = shutil.which(program)
            if found is None:
                raise FloorError(f"--floors needs {program}, which is not on PATH")
            if program != "busybox":
                setattr(self, program, found)
        rootfs = self._path("bundle", "rootfs")
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
            os.makedirs(os.path.join(rootfs, name))
        for name in ("run", "exits", "s"):
            os.makedirs(self._path(name))
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, os.path.join(rootfs, "bin", "busybox"))
        for applet in APPLETS:
            os.symlink("busybox", os.path.join(rootfs, "bin", applet))

    def live(self) -> dict[str, float]:
        """One container by crun alone, one by conmon and crun; milliseconds by step."""
        times: dict[str, float] = {}
        name = self._new_name()
        times["fork, exec and wait for true"] = self._timed(["/bin/true"])
        times["crun create"] = self._timed(self._crun("create", "--bundle", self._path("bundle"), name))
        times["crun start"] = self._timed(self._crun("start", name))
        times["crun exec true"] = self._timed(self._crun("exec", name, "true"))
        times["crun delete -f (running)"] = self._timed(self._crun("delete", "-f", name))
        self._alive.discard(name)
        name = self._new_name()
        times["conmon + crun create"] = self._conmon_create(name)
        self._delete(name)
        return times

    def clean(self) -> None:
        """Remove every container that is left, and the cgroups that crun leaves behind."""
        for name in list(self._alive):
            self._delete(name)
        for root, directories, _ in os.walk("/sys/fs/cgroup"):
            if CGROUP in directories:
                _remove_cgroup(os.path.join(root, CGROUP))
            if root.count("/") >= 4:
                directories.clear()

    def _new_name(self) -> str:
        self._count += 1
        name = f"{CGROUP}-{os.getpid()}-{self._count}"
        with open(self._path("bundle", "config.json"), "w", encoding="utf-8") as file:
            json.dump(_spec(name), file)
        self._alive.add(name)
        return name

    def _path(self, *names: str) -> str:
        return os.path.join(self.directory, "floors", *names)

    def _crun(self, *words: str) -> list[str]:
        return [self.crun, "--root", self._path("run"), *words]

    def _timed(self, command: list[str]) -> float:
        with open(self._path("errors"), "w+b") as errors:
            began = time.perf_counter()
            code = subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, timeout=LIMIT
            )
            took = (time.perf_counter() - began) * 1000
            if code != 0:
                errors.seek(0)
                words = errors.read(2000).decode(errors="replace").strip()
                raise FloorError(f"{' '.join(command)} exited with {code}: {words}")
        return took

    def _conmon_create(self, name: str) -> float:
        """From conmon's start until it reports the container's pid through its pipe."""
        ours, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        command = [self.conmon, "--cid", name, "--cuuid", name, "--name", name, "--runtime", self.crun]
        command += ["--runtime-arg", "--root", "--runtime-arg", self._path("run")]
        command += ["--bundle", self._path("bundle"), "--container-pidfile", self._path(f"{name}.pid")]
        command += ["--log-path", f"k8s-file:{self._path(f'{name}.log')}", "--exit-dir", self._path("exits")]
        command += ["--socket-dir-path", self._path("s"), "--conmon-pidfile", self._path(f"{name}.conmon")]
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs,),
            env={**os.environ, "_OCI_SYNCPIPE": str(theirs)},
            start_new_session=True,
        )
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            line = pipe.readline(4096)
        took = (time.perf_counter() - began) * 1000
        process.wait(LIMIT)
        reply = json.loads(line or b"{}")
        if reply.get("pid", -1) <= 0:
            raise FloorError(f"conmon did not create a container: {reply.get('message') or line!r}")
        return took

    def _delete(self, name: str) -> None:
        subprocess.call(
            self._crun("delete", "-f", name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
        )
        try:
            with open(self._path(f"{name}.conmon"), encoding="ascii") as file:
                pid = int(file.read())
            # conmon ends once its container is gone; one that lost its container would stay
            if _is_conmon_of(pid, name):
                os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            pass  # it has ended, or never began
        self._alive.discard(name)


def _is_conmon_of(pid: int, name: str) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return name.encode() in file.read(65536).split(b"\0")


def _remove_cgroup(path: str) -> None:
    for root, directories, _ in os.walk(path, topdown=False):
        for name in directories:
            _try_rmdir(os.path.join(root, name))
    _try_rmdir(path)


def _try_rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass  # a process is still ending in it; an empty cgroup costs nothing


def _spec(name: str) -> dict[str, object]:
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(WORKLOAD),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [
            {"destination": where, "type": kind, "source": source, "options": options}
            for where, kind, source, options in _MOUNTS
        ],
        "linux": {
            # a pod's network, ipc and uts namespaces exist before its containers are made
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
            "cgroupsPath": f"/{CGROUP}/{name}",
            "resources": {"memory": {"limit": MEMORY_LIMIT}, "cpu": {"shares": 102}},
        },
    }


BYTES = 1 << 20
"""Maximum bytes of a configuration or a plugin's answer."""
_INTERFACE = "eth0"


@dataclass(slots=True)
class CniFloor:
    """A network's plugins, started as a runtime starts them: ADD in order, DEL in reverse.

    `conf` is a .conflist; capabilities are not granted, as a pod without ports has none to say.
    """

    conf: str
    bin_dirs: tuple[str, ...]
    _network: dict[str, Any] = field(default_factory=dict)
    _count: int = 0
    _namespace: str = ""

    def prepare(self) -> None:
        """Read the configuration. FloorError when it or a program cannot be used."""
        if os.geteuid() != 0:
            raise FloorError("--cni needs root")
        if shutil.which("ip") is None:
            raise FloorError("--cni needs ip (package iproute2)")
        try:
            with open(self.conf, "rb") as file:
                self._network = json.loads(file.read(BYTES))
            plugins = [plugin["type"] for plugin in self._network["plugins"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FloorError(f"{self.conf} is not a list of CNI plugins: {error!r}") from error
        for name in plugins:
            self._find(name)

    def live(self) -> dict[str, float]:
        """One attachment of an empty namespace; milliseconds by the call that pays for it."""
        self._count += 1
        name = self._namespace = f"crib-bench-{os.getpid()}-{self._count}"
        _command("ip", "netns", "add", name)
        try:
            added, result = self._run("ADD", name, None)
            deleted, _ = self._run("DEL", name, result)
        finally:
            self.clean()
        return {"RunPodSandbox": added, "StopPodSandbox": deleted}

    def clean(self) -> None:
        """Remove the namespace of a measurement that broke off; its addresses are given back first."""
        if self._namespace and os.path.exists(f"/run/netns/{self._namespace}"):
            try:
                self._run("DEL", self._namespace, None)
            except FloorError:
                pass  # given back already, or it cannot be: the namespace goes in either case
            _command("ip", "netns", "delete", self._namespace)
        self._namespace = ""

    def _run(
        self, command: str, name: str, result: dict[str, Any] | None
    ) -> tuple[float, dict[str, Any] | None]:
        plugins = self._network["plugins"]
        took = 0.0
        for plugin in plugins if command == "ADD" else reversed(plugins):
            began = time.perf_counter()
            answer = self._call(command, name, plugin, result)
            took += (time.perf_counter() - began) * 1000
            if command == "ADD":
                result = json.loads(answer)
        return took, result

    def _call(self, command: str, name: str, plugin: dict[str, Any], result: dict[str, Any] | None) -> bytes:
        document = {key: value for key, value in plugin.items() if key != "capabilities"}
        document |= {"cniVersion": self._network["cniVersion"], "name": self._network["name"]}
        if result is not None:
            document["prevResult"] = result
        done = subprocess.run(
            [self._find(plugin["type"])],
            input=json.dumps(document).encode(),
            capture_output=True,
            timeout=LIMIT,
            env={
                **os.environ,
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": name,
                "CNI_NETNS": f"/run/netns/{name}",
                "CNI_IFNAME": _INTERFACE,
                "CNI_PATH": ":".join(self.bin_dirs),
            },
            check=False,
        )
        if done.returncode != 0:
            words = (done.stdout or done.stderr)[-2000:].decode(errors="replace").strip()
            raise FloorError(f"{plugin['type']} {command} exited with {done.returncode}: {words}")
        return done.stdout

    def _find(self, name: str) -> str:
        for directory in self.bin_dirs:
            path = os.path.join(directory, os.path.basename(name))
            if os.access(path, os.X_OK):
                return path
        raise FloorError(f"no plugin {name} in {', '.join(self.bin_dirs)}")


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, timeout=LIMIT, check=False)
    if done.returncode != 0:
        raise FloorError(f"{' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
