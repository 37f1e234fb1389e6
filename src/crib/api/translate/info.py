"""The `info` of verbose answers: JSON for people who look for a fault, and who may use the socket.

As with the peers everything is under the key `info`, and a container's pid is found there as `pid`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from crib.engine.status import NodeStatus
from crib.model.container import ContainerRecord
from crib.model.events import Stage
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.sandbox import SandboxRecord


def of_sandbox(record: SandboxRecord, stages: Sequence[Stage]) -> dict[str, str]:
    return _info(
        {
            "pid": record.infra.pid if record.infra else 0,
            "runtimeHandler": record.handler,
            "record": dataclasses.asdict(record),
            "timeline": [dataclasses.asdict(stage) for stage in stages],
        }
    )


def of_container(record: ContainerRecord) -> dict[str, str]:
    return _info(
        {
            "sandboxID": record.sandbox_id,
            "pid": record.process.pid if record.process else 0,
            "monitorPid": record.monitor.pid if record.monitor else 0,
            "record": dataclasses.asdict(record),
        }
    )


def of_image(record: ImageRecord, documents: ImageDocuments) -> dict[str, str]:
    """As containerd does: the chain id, and the image's own config as `imageSpec`."""
    return _info(
        {
            "chainID": record.chain_id,
            "imageSpec": _json(documents.config),
            "manifest": _json(documents.manifest),
            "record": dataclasses.asdict(record),
        }
    )


def _json(document: bytes) -> Any:
    """The document, which was read as JSON when it came; None when the image has none."""
    return json.loads(document) if document else None


def of_node(status: NodeStatus, settings: object) -> dict[str, str]:
    return _info(
        {
            "host": dataclasses.asdict(status.host),
            "handlers": {name: dataclasses.asdict(facts) for name, facts in status.handlers.items()},
            "defaultHandler": status.default_handler,
            "layerMounts": dataclasses.asdict(status.mounting),
            "counts": dict(status.counts),
            "config": dataclasses.asdict(settings) if dataclasses.is_dataclass(settings) else {},  # type: ignore[arg-type]  # a value, not a class
        }
    )


def _info(content: dict[str, Any]) -> dict[str, str]:
    return {"info": json.dumps(content, default=_text, ensure_ascii=False)}


def _text(value: object) -> str:
    """Environment variables are bytes that need not be text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
