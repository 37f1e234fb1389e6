"""The `info` of verbose answers: JSON for people who look for a fault, and who may use the socket.

As with the peers everything is under the key `info`. What containerd shows there has its place and shape, as
programs read it: `pid`, `sandboxID`, `config`, `runtimeSpec`, `netNamespaceClosed`. `privileged` is CRI-O's.
A pod's `resources` are those in force, which no field of the CRI has.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from crib.api.translate import configs
from crib.engine.status import NodeStatus
from crib.model.container import ContainerRecord, ContainerState
from crib.model.events import Stage
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.keys import as_table
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.model.settings import Settings


def of_sandbox(record: SandboxRecord, spec: bytes, stages: Sequence[Stage]) -> dict[str, str]:
    """`spec` is that of the pod's own process, or of the namespaces that a process of it would join."""
    runtime_spec = _json(spec)
    is_ready = record.state is SandboxState.READY
    infra = record.infra if is_ready else None
    own_network = not record.config.host_network
    return _info(
        {
            "pid": infra.pid if infra else 0,
            "processStatus": "running" if infra else "" if is_ready else "deleted",
            "netNamespaceClosed": own_network and not _has_network(runtime_spec),
            "runtimeHandler": record.handler,
            "config": configs.plain(configs.of_sandbox(record)),
            "resources": configs.plain(configs.pod_resources(record)),
            "runtimeSpec": runtime_spec,
            "cniResult": _interfaces(record) if own_network else None,
            "record": dataclasses.asdict(record),
            "timeline": [dataclasses.asdict(stage) for stage in stages],
        }
    )


def of_container(record: ContainerRecord, spec: bytes) -> dict[str, str]:
    """`spec` is the config.json that it was made with."""
    runs = record.state in (ContainerState.CREATED, ContainerState.RUNNING)
    return _info(
        {
            "sandboxID": record.sandbox_id,
            "pid": record.process.pid if record.process and runs else 0,
            "removing": False,  # or it would not be shown
            "privileged": record.config.security.privileged,
            "config": configs.plain(configs.of_container(record)),
            "runtimeSpec": _json(spec),
            "monitorPid": record.monitor.pid if record.monitor else 0,
            "record": dataclasses.asdict(record),
        }
    )


def of_image(record: ImageRecord, documents: ImageDocuments) -> dict[str, str]:
    """The same as from containerd: the chain id, and the image's own config as `imageSpec`."""
    return _info(
        {
            "chainID": record.chain_id,
            "imageSpec": _json(documents.config),
            "manifest": _json(documents.manifest),
            "record": dataclasses.asdict(record),
        }
    )


def _has_network(spec: Any) -> bool:
    namespaces = spec["linux"]["namespaces"] if spec else ()
    return any(namespace["type"] == "network" for namespace in namespaces)


def _interfaces(record: SandboxRecord) -> dict[str, Any]:
    """What readers of a CNI result look for; the built-in bridge has it too."""
    attached = record.network
    addresses = [{"IP": address} for address in attached.addresses] if attached else []
    return {"Interfaces": {attached.interface: {"IPConfigs": addresses}} if attached else {}}


def _json(document: bytes) -> Any:
    """The document, which was read as JSON when it came, or which we wrote; None when there is none."""
    return json.loads(document) if document else None


def of_node(status: NodeStatus, settings: Settings) -> dict[str, str]:
    return _info(
        {
            "host": dataclasses.asdict(status.host),
            "handlers": {
                name: {**dataclasses.asdict(facts), "can": facts.abilities}
                for name, facts in status.handlers.items()
            },
            "defaultHandler": status.default_handler,
            "layerMounts": dataclasses.asdict(status.mounting),
            "counts": dict(status.counts),
            "verbs": dataclasses.asdict(status.verbs),
            "config": as_table(settings),
        }
    )


def _info(content: dict[str, Any]) -> dict[str, str]:
    return {"info": json.dumps(content, default=_text, ensure_ascii=False)}


def _text(value: object) -> str:
    """Environment variables are bytes that need not be text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
