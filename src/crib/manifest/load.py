"""The texts of manifests to the plans of their pods."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import yaml

from crib.manifest.documents import MAX_DOCUMENTS, ManifestText, documents
from crib.manifest.faults import Book, Faults, ManifestError, Notes
from crib.manifest.plan import Plans
from crib.manifest.pod import pod_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crib.manifest.fields import ManifestNode
    from crib.manifest.plan import PodPlan, Site

MAX_PODS = 100


def _new_uid() -> str:
    return str(uuid.uuid4())


def read_plans(
    texts: str | Sequence[ManifestText], site: Site, new_uid: Callable[[], str] = _new_uid
) -> Plans:
    """The pods of these files (or of a text that is no file), in order.

    Raises ManifestError with everything that is wrong in them.

    `new_uid` is asked for the uid of each pod that has none, in the order of the pods.
    """
    return _Reading(site, new_uid).read([ManifestText("", texts)] if isinstance(texts, str) else texts)


class _Reading:
    """One call of `read_plans`."""

    def __init__(self, site: Site, new_uid: Callable[[], str]) -> None:
        self._site = site
        self._new_uid = new_uid
        self._book = Book(Faults(), Notes())
        self._pods: list[PodPlan] = []

    def read(self, texts: Sequence[ManifestText]) -> Plans:
        nodes = [node for rank, text in enumerate(texts) for node in documents(text, rank, self._book)]
        if len(nodes) > MAX_DOCUMENTS:
            raise ManifestError("", f"there are more than {MAX_DOCUMENTS} documents")
        for node in nodes:
            with self._book.faults.gather():
                self._add(node)
        self._book.faults.check()
        if not self._pods:
            raise ManifestError("", "the manifest holds no pod")
        return Plans(tuple(self._pods), self._book.notes.all())

    def _add(self, node: ManifestNode) -> None:
        kind, version = node.text("kind"), node.text("apiVersion")
        if version not in ("", "v1"):
            node.wrong("apiVersion", f"{version!r} is not v1")
            return
        if kind != "Pod":
            node.wrong("kind", f"{kind!r} is not supported: crib runs pods (kind: Pod, v1)")
            return
        if len(self._pods) == MAX_PODS:
            raise ManifestError("", f"the manifest has more than {MAX_PODS} pods")
        own = node.beside(self._book.for_pod())
        plan = pod_plan(own, self._site, self._new_uid)
        if any(plan.label == other.label for other in self._pods):
            own.part("metadata").wrong("name", f"pod {plan.label} is there twice")
        if any(plan.uid == other.uid for other in self._pods):
            own.part("metadata").wrong("uid", f"uid {plan.uid} is there twice")
        self._pods.append(replace(plan, document=_alone(own, plan.uid)))


def _alone(node: ManifestNode, uid: str) -> str:
    metadata = {**node.part("metadata").value(), "uid": uid}
    return yaml.safe_dump({**node.value(), "metadata": metadata}, sort_keys=False, allow_unicode=True)
