"""Jobs: so many runs of one pod, some of them at a time, and how many may fail. Plain values.

Source: batch/v1 (JobSpec) and its validation in Kubernetes 1.36. A run that failed is followed by another
try: a pod of its own, as a Job's controller makes it, with a name that says which one it is.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import yaml

from crib.manifest.behaviour import MAX_SECONDS
from crib.manifest.faults import Book, Faults, Notes
from crib.manifest.fields import MAX_NUMBER, check_label, check_subdomain, is_uid
from crib.manifest.job_policies import read_policy
from crib.manifest.plan import JobPlan, JobTurn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crib.manifest.fields import ManifestNode
    from crib.manifest.plan import PodPlan

MAX_RUNS = 1000
"""`completions`: each of them leaves a pod until the Job is removed."""
MAX_AT_ONCE = 100
"""`parallelism`."""
BACKOFF_LIMIT = 6
"""Tries that may fail when the manifest does not say; with a limit for each run, any number."""
MAX_NAME = 63
"""Characters of a Job's name, which is the value of a label, and of its pods' names."""
_WITH_A_KEEPER = (
    "backoffLimit",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "podFailurePolicy",
    "successPolicy",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
)
"""Fields that have no effect while nobody looks after the Job."""
JOB_NAME = "batch.kubernetes.io/job-name"
"""Labels of a Job's pods, as its controller sets them."""
JOB_UID = "batch.kubernetes.io/controller-uid"
JOB_INDEX = "batch.kubernetes.io/job-completion-index"


class JobReading:
    """A Job's document, field by field. Faults are written down as the fields are read."""

    def __init__(self, node: ManifestNode, spec: ManifestNode, template: ManifestNode) -> None:
        """`spec` is the Job's own, also of a CronJob; `template` is its pod's."""
        self._spec = spec
        self._template = template
        metadata = node.part("metadata")
        self._metadata = metadata
        self.name = check_subdomain(metadata, "name")
        self.namespace = check_label(metadata, "namespace", "default")
        self.indexed = spec.choice("completionMode", ("NonIndexed", "Indexed"), "NonIndexed") == "Indexed"
        parallel = spec.number("parallelism", 0, MAX_AT_ONCE)
        self.parallelism = 1 if parallel is None else parallel
        self.completions = spec.number("completions", 1, MAX_RUNS)
        if self.completions is None and parallel is None:
            self.completions = 1
        if self.indexed and self.completions is None:
            spec.wrong("completions", "is required with completionMode: Indexed")
        self.suspended = bool(spec.flag("suspend"))
        self._check_restarts()
        self._policy = read_policy(spec, template, self.completions if self.indexed else None)
        if len(self.name) > MAX_NAME:
            metadata.wrong(
                "name", f"is longer than {MAX_NAME} characters, as many as a label of its pods takes"
            )

    def _check_restarts(self) -> None:
        spec = self._template.part("spec")
        policy = spec.text("restartPolicy", "Always")
        if policy not in ("Never", "OnFailure"):
            spec.wrong("restartPolicy", f"{policy!r} must be Never or OnFailure for the pods of a Job")

    def pod_name(self, turn: JobTurn) -> str:
        """NAME of a Job of one run, else NAME-RUN; NAME-tryNUMBER of what comes after a failure.

        A long name is cut, as a Job's controller does.
        """
        is_only = (self.completions or self.parallelism) == 1 and not self.indexed
        suffix = "" if is_only else f"-{turn.run}"
        if turn.attempt:
            suffix += f"-try{turn.attempt + 1}"
        return self.name[: MAX_NAME - len(suffix)].rstrip("-.") + suffix

    def pod(self, turn: JobTurn, uid: str) -> ManifestNode:
        """The template of a turn, with what a Job's controller adds."""
        metadata, spec = self._template.part("metadata"), self._template.part("spec")
        labels = {**metadata.mapping("labels"), JOB_NAME: self.name, JOB_UID: uid}
        if not self.indexed:
            return self._template.with_parts(metadata=metadata.with_fields(labels=labels), spec=spec)
        index = str(turn.run)
        metadata = metadata.with_fields(
            labels={**labels, JOB_INDEX: index},
            annotations={**metadata.mapping("annotations"), JOB_INDEX: index},
        )
        if not spec.has("hostname"):
            spec = spec.with_fields(hostname=self.pod_name(JobTurn(turn.run)).replace(".", "-"))
        return self._template.with_parts(metadata=metadata, spec=_indexed(spec, index))

    def plan(self, new_uid: Callable[[], str], pod_of: Callable[[JobTurn, str], PodPlan]) -> JobPlan:
        """The Job. `pod_of` makes the pod of a turn; it is given the Job's uid."""
        uid = self._metadata.text("uid") or new_uid()
        if not is_uid(uid):
            self._metadata.wrong("uid", f"{uid!r} must be at most 64 letters, digits and '-'")
        limit = self._spec.number("backoffLimit", 0, MAX_NUMBER)
        if limit is None:
            limit = BACKOFF_LIMIT if self._policy.limit_per_run is None else MAX_NUMBER
        return JobPlan(
            name=self.name,
            namespace=self.namespace,
            uid=uid,
            completions=self.completions,
            parallelism=self.parallelism,
            pod_of=lambda turn: pod_of(turn, uid),
            backoff_limit=limit,
            deadline=self._spec.number("activeDeadlineSeconds", 0, MAX_SECONDS),
            ttl=self._spec.number("ttlSecondsAfterFinished", 0, MAX_SECONDS),
            policy=self._policy,
            suspended=self.suspended,
            unkept=tuple(self._unkept()),
        )

    def _unkept(self) -> Iterator[str]:
        if self.completions is not None and self.completions > self.parallelism:
            path = self._spec.at("completions").path
            yield f"{path}: only {self.parallelism} of {self.completions} are run"
        for name in _WITH_A_KEEPER:
            if self._spec.has(name):
                yield f"{self._spec.at(name).path}: no effect"

    def text(self, uid: str, first: PodPlan) -> str:
        """The Job by itself, with its uid, and the objects that its pods need."""
        metadata = {"name": self.name, "namespace": self.namespace, "uid": uid}
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": self._spec.value()}
        _pod, *objects = yaml.safe_load_all(first.document)
        return yaml.dump_all(
            [document, *objects], Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True
        )


def uid_of(job: str, turn: JobTurn) -> str:
    """Of a turn's pod: the same one whoever asks, so that a turn that was cut off is found again."""
    space = uuid.uuid5(uuid.NAMESPACE_OID, job)
    return str(uuid.uuid5(space, f"{turn.run}/{turn.attempt}"))


def own_book() -> Book:
    """For a pod that is planned after its file was read, when faults cannot be told with the others."""
    return Book(Faults(), Notes())


def _indexed(spec: ManifestNode, index: str) -> ManifestNode:
    """Every container's JOB_COMPLETION_INDEX."""
    variable = {"name": "JOB_COMPLETION_INDEX", "value": index}
    for name in ("initContainers", "containers"):
        changed = []
        for container in spec.children(name):
            own = container.raw("env")
            changed.append({**container.value(), "env": [*(own if isinstance(own, list) else ()), variable]})
        if changed:
            spec = spec.with_fields(**{name: changed})
    return spec
