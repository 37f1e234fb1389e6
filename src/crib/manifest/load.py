"""The texts of manifests to the plans of their pods."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from crib.manifest.documents import MAX_DOCUMENTS, ManifestText, documents
from crib.manifest.faults import Book, Faults, ManifestError, Notes
from crib.manifest.jobs import own_book, uid_of
from crib.manifest.kinds import MAX_PODS, PodSource, is_data, is_workload, job_reading, pod_sources
from crib.manifest.objects import Objects
from crib.manifest.plan import Plans
from crib.manifest.pod import pod_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crib.manifest.fields import ManifestNode
    from crib.manifest.jobs import JobReading
    from crib.manifest.plan import JobPlan, JobTurn, PodPlan, Site


def random_uid() -> str:
    """A uid as an API server gives out."""
    return str(uuid.uuid4())


def read_plans(
    texts: str | Sequence[ManifestText], site: Site, new_uid: Callable[[], str] = random_uid
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
        self._objects = Objects(hide_secrets=site.hide_secrets)
        self._pods: list[PodPlan] = []
        self._jobs: list[JobPlan] = []
        self._may_run = False  # whether anything was there that could come to a pod

    def read(self, texts: Sequence[ManifestText]) -> Plans:
        nodes = [
            (node, text.is_data)
            for rank, text in enumerate(texts)
            for node in documents(text, rank, self._book)
        ]
        if len(nodes) > MAX_DOCUMENTS:
            raise ManifestError("", f"there are more than {MAX_DOCUMENTS} documents")
        runs = [node for node, only_data in nodes if not self._is_data(node) and not only_data]
        for node in runs:
            with self._book.faults.gather():
                self._add(node)
        self._book.faults.check()
        if not self._pods and not self._may_run:
            raise ManifestError("", "the manifest holds no pod")
        return Plans(tuple(self._pods), self._book.notes.all(), tuple(self._jobs))

    def _is_data(self, node: ManifestNode) -> bool:
        if not is_data(node):
            return False
        self._objects.add(node)
        return True

    def _add(self, node: ManifestNode) -> None:
        self._may_run = self._may_run or is_workload(node)
        if (job := job_reading(node)) is not None:
            self._add_job(job, node)
            return
        same: list[PodPlan] = []
        for source in pod_sources(node):
            for claim in source.claims:
                self._objects.add_missing(claim)
            own = source.node.beside(self._book.for_pod())
            plan = pod_plan(replace(source, node=own), self._site, self._objects, self._new_uid)
            self._check_names(plan, own.part("metadata") if not source.name else node.part("metadata"))
            _check_ports(plan, same, node, "replicas")
            self._add_pod(plan, same, node)

    def _add_pod(self, plan: PodPlan, same: list[PodPlan], node: ManifestNode) -> None:
        if len(self._pods) == MAX_PODS:
            raise ManifestError(node.place, f"the manifest has more than {MAX_PODS} pods")
        same.append(plan)
        self._pods.append(plan)

    def _add_job(self, reading: JobReading, node: ManifestNode) -> None:
        """The Job, and the pods that it begins with: none, if it is suspended."""

        def pod_of(turn: JobTurn, uid: str, book: Book) -> PodPlan:
            template = reading.pod(turn, uid).beside(book)
            source = PodSource(template, reading.pod_name(turn), reading.namespace)
            return replace(pod_plan(source, self._site, self._objects, lambda: uid_of(uid, turn)), job=uid)

        def later(turn: JobTurn, uid: str) -> PodPlan:
            book = own_book()
            plan = pod_of(turn, uid, book)
            book.faults.check()
            return plan

        job = reading.plan(self._new_uid, later)
        same: list[PodPlan] = []
        for turn in replace(job, suspended=False).first():
            plan = pod_of(turn, job.uid, self._book.for_pod())
            self._check_names(plan, node.part("metadata"))
            _check_ports(plan, same, node, "parallelism")
            if job.suspended:
                same.append(plan)
            else:
                self._add_pod(plan, same, node)
        if same:
            self._jobs.append(replace(job, document=reading.text(job.uid, same[0])))

    def _check_names(self, plan: PodPlan, metadata: ManifestNode) -> None:
        if any(plan.label == other.label for other in self._pods):
            metadata.wrong("name", f"pod {plan.label} is there twice")
        if any(plan.uid == other.uid for other in self._pods):
            metadata.wrong("uid", f"uid {plan.uid} is there twice")


def _check_ports(plan: PodPlan, others: Sequence[PodPlan], node: ManifestNode, field: str) -> None:
    """Pods of one workload would ask for the same ports of the node."""
    wanted = [port.host_port for port in plan.sandbox.port_mappings if port.host_port]
    if others and wanted:
        words = f"more than one pod cannot have the node's port {wanted[0]} (hostPort)"
        node.part("spec").wrong(field, words)
