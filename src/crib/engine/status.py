"""How the node is: CRI Status, and what `crib info` adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from crib.engine.admission import Load
from crib.engine.core import Core
from crib.model.container import ContainerState
from crib.model.facts import HandlerFacts, HostFacts, LayerMounting, Readiness, Vitals
from crib.model.ids import HandlerName
from crib.model.sandbox import SandboxState

MOST_WARNINGS = 5
"""Of what is unusual, in the message of RuntimeReady; `crib check` has all."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One answer to Status."""

    runtime: Readiness
    network: Readiness
    handlers: Mapping[HandlerName, HandlerFacts]
    default_handler: HandlerName
    host: HostFacts
    mounting: LayerMounting
    counts: Mapping[str, int]
    verbs: Load
    vitals: Vitals


async def node_status(core: Core, images: int, network: Readiness) -> NodeStatus:
    """Ask the parts how they are; the network has been asked."""
    runtime = await core.handler("")[1].readiness()
    if faults := core.notices.faults:
        told = [f"{fault.subject}: {fault.text}" for fault in faults]
        runtime = Readiness(False, "NodeFault", "; ".join(filter(None, (runtime.message, *told))))
    elif runtime.ready and (warnings := core.notices.warnings):
        told = [f"{warning.subject}: {warning.text}" for warning in warnings[:MOST_WARNINGS]]
        runtime = replace(runtime, message="; ".join(told))
    return NodeStatus(
        runtime=runtime,
        network=network,
        handlers={name: handler.facts for name, handler in core.handlers.offered.items()},
        default_handler=HandlerName(core.settings.default_handler),
        host=core.facts,
        mounting=core.ports.images.mounting,
        counts={
            "sandboxes": len(core.sandboxes),
            "sandboxes_ready": sum(row.state is SandboxState.READY for row in core.sandboxes),
            "containers": len(core.containers),
            "containers_running": sum(row.state is ContainerState.RUNNING for row in core.containers),
            "images": images,
        },
        verbs=core.admission.load,
        vitals=core.ports.vitals(),
    )
