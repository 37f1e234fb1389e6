"""What a pod may know of itself: its metadata, its addresses, its node, its containers' resources.

The fields are those of Kubernetes' downward API; environment and volumes have different ones.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.manifest import quantity, shapes
from crib.manifest.late import POD_IP, POD_IPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.manifest.fields import ManifestNode
    from crib.manifest.plan import Site
    from crib.manifest.resources import Amounts

_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_SOURCES = ("limits", "requests")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What fields are read from. `amounts` are its containers' by name."""

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    account: str
    on_host: bool
    site: Site
    amounts: Mapping[str, Amounts]
    own_amounts: Amounts
    """The pod-level ones."""


def env_field(node: ManifestNode, facts: PodFacts) -> str:
    """A variable's `fieldRef`; the pod's own addresses are marks that are filled in later."""
    node.check(shapes.FIELD_REF)
    hosts = facts.site.addresses
    own = (hosts[0] if hosts else "", ",".join(hosts)) if facts.on_host else (POD_IP, POD_IPS)
    values = {
        **_plain(facts),
        "spec.nodeName": facts.site.node,
        "spec.serviceAccountName": facts.account,
        "status.hostIP": hosts[0] if hosts else "",
        "status.hostIPs": ",".join(hosts),
        "status.podIP": own[0],
        "status.podIPs": own[1],
    }
    return _value(node, facts, values)


def volume_field(node: ManifestNode, facts: PodFacts) -> str:
    """A file's `fieldRef`: all labels or annotations may be asked for, addresses may not."""
    node.check(shapes.FIELD_REF)
    values = {
        **_plain(facts),
        "metadata.labels": _lines(facts.labels),
        "metadata.annotations": _lines(facts.annotations),
    }
    return _value(node, facts, values)


def _plain(facts: PodFacts) -> dict[str, str]:
    return {"metadata.name": facts.name, "metadata.namespace": facts.namespace, "metadata.uid": facts.uid}


def _value(node: ManifestNode, facts: PodFacts, values: Mapping[str, str]) -> str:
    path = node.need_text("fieldPath")
    if keyed := _KEYED.fullmatch(path):
        owner = facts.labels if keyed[1] == "labels" else facts.annotations
        return owner.get(keyed[2], "")
    if path and path not in values:
        known = ", ".join([*values, "metadata.labels['KEY']", "metadata.annotations['KEY']"])
        node.wrong("fieldPath", f"{path!r} is not one of {known}")
    return values.get(path, "")


def _lines(owner: Mapping[str, str]) -> str:
    """As a kubelet writes them: sorted, values in double quotes."""
    return "\n".join(f"{key}={json.dumps(owner[key], ensure_ascii=False)}" for key in sorted(owner))


def resource_field(node: ManifestNode, facts: PodFacts, own: str = "") -> str:
    """A `resourceFieldRef`, for a variable of the container `own` or for a file. Whole units, rounded up.

    Without a limit it is the pod's, or what the node has; without a request 0.
    """
    node.check(shapes.RESOURCE_REF)
    container = node.text("containerName") or own
    if not container:
        node.wrong("containerName", "is required in a volume")
    elif container not in facts.amounts:
        node.wrong("containerName", f"the pod has no container {container!r}")
    resource = node.need_text("resource")
    source, _, name = resource.partition(".")
    if resource and (source not in _SOURCES or name not in ("cpu", "memory")):
        node.wrong("resource", f"{resource!r} is not one of limits or requests of cpu or memory")
    amounts, pods = facts.amounts.get(container), facts.own_amounts
    milli = 0
    if amounts is not None and name == "cpu" and source == "limits":
        milli = amounts.cpu_limit or pods.cpu_limit or facts.site.cpus * 1000
    elif amounts is not None and name == "cpu":
        milli = amounts.cpu_request or 0
    elif amounts is not None and source == "limits":
        milli = 1000 * (amounts.memory_limit or pods.memory_limit or facts.site.memory)
    elif amounts is not None:
        milli = 1000 * (amounts.memory_request or 0)
    try:
        divisor = quantity.parse_quantity(node.raw("divisor")) if node.has("divisor") else 0
    except ValueError as error:
        node.wrong("divisor", str(error))
        divisor = 0
    return str(math.ceil(milli / ((divisor or 1) * 1000)))
