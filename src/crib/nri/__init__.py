"""Node plugins in Python: watch and adjust the pods and containers of a runtime that speaks NRI.

    from crib import nri

    class Greeting(nri.NodePlugin):
        async def create_container(self, pod, container, changes):
            changes.adjust.add_env("GREETING", f"hello {pod.name}")

    if __name__ == "__main__":
        nri.run(Greeting())

A plugin is subscribed to the events whose methods it defines. It works with every runtime that speaks NRI's
v1alpha1: crib, containerd and CRI-O. docs/nri-plugins.md shows how to write, run and install one.

* `plugin`: `NodePlugin`, the methods that a plugin defines, and `NriRuntime`, what it may ask.
* `changes`: what a plugin answers with. `resources`: limits, in an adjustment and in an update.
* `identity`: a plugin's name and index, and where they come from.
* `running`: `run` and `serve`, the program's side. `session` is one connection, `calls` what comes on it.

Pods and containers are NRI's own messages, `messages` has all of them. Times are in seconds.
"""

from crib.nri.changes import (
    Adjustment,
    ContainerChanges,
    ContainerUpdates,
    NewContainerChanges,
    ResourceUpdate,
)
from crib.nri.identity import DEFAULT_SOCKET, NriError, PluginIdentity
from crib.nri.plugin import AdjustmentRejected, NodePlugin, NriRuntime
from crib.nri.running import PluginOptions, run, serve
from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.stubs.nri.v1alpha1.api_pb2 import Container, Event, LinuxResources, PodSandbox

__all__ = [
    "DEFAULT_SOCKET",
    "Adjustment",
    "AdjustmentRejected",
    "Container",
    "ContainerChanges",
    "ContainerUpdates",
    "Event",
    "LinuxResources",
    "NewContainerChanges",
    "NodePlugin",
    "NriError",
    "NriRuntime",
    "PluginIdentity",
    "PluginOptions",
    "PodSandbox",
    "ResourceUpdate",
    "messages",
    "run",
    "serve",
]
