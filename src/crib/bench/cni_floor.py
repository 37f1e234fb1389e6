"""What the plugins of a CNI network take alone: the floor of RunPodSandbox and StopPodSandbox over it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from crib.bench.floors import LIMIT, FloorError

BYTES = 1 << 20
"""Of a configuration or a plugin's answer at most."""
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
