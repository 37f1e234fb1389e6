"""YAML text to documents to plans: several documents, and a v1 List, become several pods."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from crib.manifest import shapes
from crib.manifest.fields import ManifestError, ManifestNode, Notes
from crib.manifest.pod import pod_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from crib.manifest.plan import PodPlan, Site

MAX_TEXT = 1 << 20
"""Bytes of a manifest; an API server takes about as much."""
MAX_PODS = 100


class _StrictLoader(yaml.SafeLoader):
    """Safe types only, and no key twice in one object: YAML's own rule, which PyYAML does not check."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ManifestError("", f"line {line}: the name {key.value!r} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _new_uid() -> str:
    return str(uuid.uuid4())


def read_plans(text: str, site: Site, new_uid: Callable[[], str] = _new_uid) -> list[PodPlan]:
    """The pods of a manifest, in order. Raises ManifestError for the first thing that is wrong."""
    if len(text) > MAX_TEXT:
        raise ManifestError("", f"the manifest is larger than {MAX_TEXT} bytes")
    plans: list[PodPlan] = []
    for node in _pods(text):
        plan = pod_plan(node, site, new_uid)
        plan = replace(plan, document=_alone(node, plan.uid))
        if any(plan.label == other.label for other in plans):
            raise ManifestError(node.at("metadata.name"), f"pod {plan.label} is there twice")
        if any(plan.uid == other.uid for other in plans):
            raise ManifestError(node.at("metadata.uid"), f"uid {plan.uid} is there twice")
        plans.append(plan)
        if len(plans) > MAX_PODS:
            raise ManifestError("", f"the manifest has more than {MAX_PODS} pods")
    if not plans:
        raise ManifestError("", "the manifest holds no pod")
    return plans


def _pods(text: str) -> Iterator[ManifestNode]:
    documents = [document for document in _documents(text) if document is not None]
    for number, document in enumerate(documents, 1):
        node = ManifestNode(document, f"document {number}" if len(documents) > 1 else "", Notes())
        kind = node.need_text("kind")
        version = node.need_text("apiVersion")
        if version != "v1":
            raise ManifestError(node.at("apiVersion"), f"{version!r} is not v1")
        if kind == "List":
            node.check(shapes.LIST)
            for item in node.children("items"):
                _check_pod_kind(item)
                yield ManifestNode(node_value(item), item.path, Notes())
        else:
            _check_pod_kind(node)
            yield node


def node_value(node: ManifestNode) -> dict[str, object]:
    """The object behind a node: a pod of a list gets notes of its own."""
    return {name: node.raw(name) for name in node.names()}


def _alone(node: ManifestNode, uid: str) -> str:
    metadata = node.child("metadata")
    own = {**(node_value(metadata) if metadata else {}), "uid": uid}
    return yaml.safe_dump({**node_value(node), "metadata": own}, sort_keys=False, allow_unicode=True)


def _check_pod_kind(node: ManifestNode) -> None:
    kind = node.need_text("kind")
    if kind != "Pod" or node.need_text("apiVersion") != "v1":
        raise ManifestError(node.at("kind"), f"{kind!r} is not supported: crib runs pods (kind: Pod, v1)")


def _documents(text: str) -> list[object]:
    try:
        return list(yaml.load_all(text, Loader=_StrictLoader))
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ManifestError("", f"{where}not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError("", f"not YAML: {error}".replace("\n", " ")) from None
    except RecursionError:
        raise ManifestError("", "not a manifest: it is nested too deeply") from None
