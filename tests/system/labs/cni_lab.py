"""CNI networks for tests: directories of their own, the reference plugins, and recording ones."""

from __future__ import annotations

import json
import secrets
import stat
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from crib.backends.network.cni.network import CniNetwork
from crib.host import links
from crib.host.netlink import Netlink
from crib.model.settings import NetworkSettings
from tests.system.labs.pod_namespaces import PodNamespace, PodNamespaces

PLUGIN_DIR = "/usr/lib/cni"

# Answers VERSION, and ADD with its file ANSWER or an address; fails a command for which a file FAIL.<command>
# is there, and waits for ever where HANG.<command> is.
RECORDER = """#!/bin/sh
here=$(dirname "$0"); me=$(basename "$0")
input=$(cat)
printf '{"plugin":"%s","command":"%s","netns":"%s","args":"%s","id":"%s","interface":"%s","input":%s}\\n' \\
  "$me" "$CNI_COMMAND" "$CNI_NETNS" "$CNI_ARGS" "$CNI_CONTAINERID" "$CNI_IFNAME" "$input" >>"$here/../calls"
if [ -f "$here/../$me.FAIL.$CNI_COMMAND" ]; then cat "$here/../$me.FAIL.$CNI_COMMAND"; exit 1; fi
if [ -f "$here/../$me.HANG.$CNI_COMMAND" ]; then sleep 1000 & echo $! >"$here/../child"; wait; fi
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}';;
ADD) if [ -f "$here/../$me.ANSWER" ]; then cat "$here/../$me.ANSWER"; exit; fi
  echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'"$CNI_IFNAME"'","sandbox":"x"}],'\\
'"ips":[{"address":"10.9.8.7/24","interface":0}],"seen":"'"$me"'"}';;
esac
"""


class CniLab:
    """Directories for the CNI networks of a node, and namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bridge = f"cct{secrets.token_hex(4)}"
        self.subnet = IPv4Network(f"10.{20 + secrets.randbelow(200)}.{secrets.randbelow(256)}.0/24")
        for name in ("net.d", "bin", "ipam", "namespaces"):
            (directory / name).mkdir()
        self.namespaces = PodNamespaces(str(directory / "namespaces"))

    def network(self, *own: Path, **settings: Any) -> CniNetwork:
        """The network as a daemon that has just started makes it; `own`: directories of handlers."""
        chosen = NetworkSettings(
            cni_conf_dir=str(self.conf_dir),
            cni_bin_dirs=(str(self.directory / "bin"), PLUGIN_DIR),
            **{"plugin_timeout": 20.0, "ready_timeout": 0.0} | settings,
        )
        return CniNetwork(chosen, str(self.directory / "kept"), tuple(map(str, own)))

    @property
    def conf_dir(self) -> Path:
        return self.directory / "net.d"

    def own_directory(self, *plugins: dict[str, Any]) -> Path:
        """A handler's directory, with a network of these plugins."""
        directory = self.directory / "own.d"
        directory.mkdir()
        conf = {"cniVersion": "1.1.0", "name": "own-net", "plugins": plugins}
        (directory / "10-own.conflist").write_text(json.dumps(conf), encoding="utf-8")
        return directory

    def configure(
        self, *plugins: dict[str, Any], version: str = "1.0.0", name: str = "test-net", **more: Any
    ) -> Path:
        """A network of the node, in a file of its name."""
        conf = {"cniVersion": version, "name": name, "plugins": plugins, **more}
        path = self.conf_dir / f"10-{name}.conflist"
        path.write_text(json.dumps(conf), encoding="utf-8")
        return path

    def bridge_plugin(self, *capabilities: str, **ipam: Any) -> dict[str, Any]:
        """The reference plugin with host-local, and the loopback of its addresses in this directory."""
        section = {
            "type": "host-local",
            "dataDir": str(self.directory / "ipam"),
            "ranges": [[{"subnet": str(self.subnet)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        } | ipam
        return {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipam": section,
            "capabilities": dict.fromkeys(capabilities, True),
        }

    def recorder(self, name: str, *capabilities: str) -> dict[str, Any]:
        """A plugin that records its calls."""
        return self.script(name, RECORDER) | {
            "own": "key",
            "capabilities": dict.fromkeys(capabilities, True),
        }

    def script(self, name: str, text: str) -> dict[str, Any]:
        """A plugin of this text."""
        path = self.directory / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {"type": name}

    def answer(self, name: str, result: dict[str, Any]) -> None:
        """What a recorder's ADD gives from now on."""
        (self.directory / f"{name}.ANSWER").write_text(json.dumps(result), encoding="utf-8")

    def fail(self, name: str, command: str, code: int = 7, message: str = "no hard feelings") -> Path:
        """Have a recorder fail a command until the file is removed."""
        path = self.directory / f"{name}.FAIL.{command}"
        error = {"cniVersion": "1.0.0", "code": code, "msg": message, "details": "really"}
        path.write_text(json.dumps(error), encoding="utf-8")
        return path

    def calls(self, *commands: str) -> list[dict[str, Any]]:
        """What recorders were called with, in order."""
        path = self.directory / "calls"
        if not path.exists():
            return []
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # one may just be written
        found = [json.loads(line) for line in whole.splitlines()]
        return [call for call in found if call["command"] in commands]

    def held_addresses(self) -> list[str]:
        """What host-local has on file."""
        names = [path.name for path in (self.directory / "ipam").glob("*/*")]
        return sorted(name for name in names if name[0].isdigit())

    def kept_file(self, namespace: PodNamespace) -> Path:
        return self.directory / "kept" / f"{namespace.id}.json"

    def remove(self) -> None:
        self.namespaces.unpin_all()
        with Netlink() as netlink:
            links.delete_link(netlink, self.bridge)


def in_pod(namespace: PodNamespace, work: Callable[[Netlink], object]) -> None:
    """Do something to the interfaces of a pod's namespace."""

    def run() -> None:
        with Netlink() as netlink:
            work(netlink)

    namespace.inside(run)
