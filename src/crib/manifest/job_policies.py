"""What a Job makes of ends: which failures count, which runs it gives up, and how many successes are enough.

Source: batch/v1 (podFailurePolicy, successPolicy, backoffLimitPerIndex, maxFailedIndexes,
podReplacementPolicy) and its validation in Kubernetes 1.36.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from crib.manifest import shapes
from crib.manifest.fields import MAX_NUMBER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from crib.manifest.fields import ManifestNode

MAX_RULES = 20
"""Of one policy, and conditions of one rule."""
MAX_CODES = 255
DISRUPTED = "DisruptionTarget"
"""The one condition that a pod has here: its sandbox was lost, as by a reboot."""
FailureAction: TypeAlias = Literal["FailJob", "FailIndex", "Ignore", "Count"]


@dataclass(frozen=True, slots=True)
class CodeRule:
    """Exit codes other than 0 that a rule is about, or not about; without a `container`, of any."""

    container: str
    within: bool
    codes: frozenset[int]

    def found(self, ends: Mapping[str, int]) -> str:
        """The container to which it applies; empty when there is none."""
        for name, code in ends.items():
            if code and self.container in ("", name) and (code in self.codes) == self.within:
                return name
        return ""


@dataclass(frozen=True, slots=True)
class FailureRule:
    """What a failed try means. `disrupted`: whether it is about pods that were lost, None: about codes."""

    action: FailureAction
    codes: CodeRule | None = None
    disrupted: bool | None = None

    def applies(self, ends: Mapping[str, int], *, disrupted: bool) -> str:
        """Why it applies; empty when it does not. `ends` are the containers' exit codes by their names."""
        if self.codes is not None:
            name = self.codes.found(ends)
            return f"container {name} exited with {ends[name]}" if name else ""
        return "its sandbox was lost" if self.disrupted is disrupted else ""


@dataclass(frozen=True, slots=True)
class SuccessRule:
    """Which runs have to succeed: `count` of the `runs` (of any, if there are none); all, without a count."""

    runs: frozenset[int] | None
    count: int | None

    def is_met(self, done: Collection[int]) -> bool:
        """Whether the runs that have succeeded are enough."""
        found = len(self.runs.intersection(done)) if self.runs is not None else len(done)
        wanted = self.count if self.count is not None else len(self.runs or ())
        return found >= wanted


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """How a Job takes ends. A run has failed after more than `limit_per_run` failures; None: never by itself.

    More than `max_failed` failed runs end the Job.
    """

    failures: tuple[FailureRule, ...] = ()
    successes: tuple[SuccessRule, ...] = ()
    limit_per_run: int | None = None
    max_failed: int | None = None

    def verdict(self, ends: Mapping[str, int], *, disrupted: bool) -> tuple[FailureAction, str]:
        """What a failed try means by the first rule that applies, and why."""
        for place, rule in enumerate(self.failures):
            if why := rule.applies(ends, disrupted=disrupted):
                return rule.action, f"{why}, which is {rule.action} by rule {place}"
        return "Count", ""


def read_policy(spec: ManifestNode, template: ManifestNode, completions: int | None) -> JobPolicy:
    """The policies of a Job's spec; `completions` is None unless it is Indexed."""
    limit = spec.number("backoffLimitPerIndex", 0, MAX_NUMBER)
    most = spec.number("maxFailedIndexes", 0, MAX_NUMBER)
    never = template.part("spec").text("restartPolicy") == "Never"
    if limit is not None and (completions is None or not never):
        spec.wrong("backoffLimitPerIndex", "needs completionMode: Indexed and restartPolicy: Never")
    if most is not None:
        if limit is None:
            spec.wrong("maxFailedIndexes", "needs backoffLimitPerIndex")
        elif completions is not None and most > completions:
            spec.wrong("maxFailedIndexes", f"{most} is more than the {completions} completions")
    policy = JobPolicy(
        tuple(_failures(spec, template, per_run=limit is not None, never=never)),
        tuple(_successes(spec, completions)),
        limit,
        most,
    )
    _check_replacement(spec, has_failures=bool(policy.failures))
    return policy


def _check_replacement(spec: ManifestNode, *, has_failures: bool) -> None:
    if not spec.has("podReplacementPolicy"):
        return
    wanted = spec.choice("podReplacementPolicy", ("Failed", "TerminatingOrFailed"), "Failed")
    if wanted == "Failed":
        return
    if has_failures:
        spec.wrong("podReplacementPolicy", "must be Failed with podFailurePolicy")
    else:
        spec.notes.add(
            spec.at("podReplacementPolicy"), "as Failed: the next try waits until the one before has ended"
        )


def _failures(
    spec: ManifestNode, template: ManifestNode, *, per_run: bool, never: bool
) -> Iterator[FailureRule]:
    policy = spec.child("podFailurePolicy")
    if policy is None:
        return
    policy.check(shapes.FAILURE_POLICY)
    if not never:
        spec.wrong("podFailurePolicy", "needs restartPolicy: Never")
    pod = template.part("spec")
    names = [one.text("name") for group in ("initContainers", "containers") for one in pod.children(group)]
    for rule in _rules(policy):
        rule.check(shapes.FAILURE_RULE)
        action = cast("FailureAction", rule.choice("action", get_args(FailureAction), "Count"))
        if action == "FailIndex" and not per_run:
            rule.wrong("action", "FailIndex needs backoffLimitPerIndex")
        if rule.has("onExitCodes") == rule.has("onPodConditions"):
            rule.wrong("", "needs either onExitCodes or onPodConditions")
        elif (codes := rule.child("onExitCodes")) is not None:
            yield FailureRule(action, _codes(codes, names))
        else:
            yield from _conditions(rule, action)


def _rules(policy: ManifestNode) -> list[ManifestNode]:
    rules = policy.children("rules")
    if not rules or len(rules) > MAX_RULES:
        policy.wrong("rules", f"needs 1 to {MAX_RULES} rules")
    return rules[:MAX_RULES]


def _codes(node: ManifestNode, names: list[str]) -> CodeRule:
    node.check(shapes.EXIT_CODES)
    within = node.choice("operator", ("In", "NotIn"), "In") == "In"
    codes = node.numbers("values")
    container = node.text("containerName")
    if container and container not in names:
        node.wrong("containerName", f"the pod has no container {container!r}")
    if not codes or len(codes) > MAX_CODES or sorted(set(codes)) != codes:
        node.wrong("values", f"needs 1 to {MAX_CODES} exit codes, each once and in their order")
    if within and 0 in codes:
        node.wrong("values", "0 is no failure, so it cannot be one with In")
    return CodeRule(container, within, frozenset(codes))


def _conditions(rule: ManifestNode, action: FailureAction) -> Iterator[FailureRule]:
    """A rule for each: one of them is enough."""
    conditions = rule.children("onPodConditions")
    if not conditions or len(conditions) > MAX_RULES:
        rule.wrong("onPodConditions", f"needs 1 to {MAX_RULES} conditions")
    for condition in conditions:
        condition.check(shapes.POD_CONDITION)
        kind = condition.need_text("type")
        status = condition.choice("status", ("True", "False", "Unknown"), "True")
        if kind == DISRUPTED and status != "Unknown":
            yield FailureRule(action, disrupted=status == "True")
        elif kind:
            rule.notes.add(condition.place, f"never applies: {DISRUPTED} is the only condition here")


def _successes(spec: ManifestNode, completions: int | None) -> Iterator[SuccessRule]:
    policy = spec.child("successPolicy")
    if policy is None:
        return
    policy.check(shapes.SUCCESS_POLICY)
    if completions is None:
        spec.wrong("successPolicy", "needs completionMode: Indexed")
        return
    for rule in _rules(policy):
        rule.check(shapes.SUCCESS_RULE)
        count = rule.number("succeededCount", 1, completions)
        runs = _runs(rule, completions) if rule.has("succeededIndexes") else None
        if not (rule.has("succeededIndexes") or rule.has("succeededCount")):
            rule.wrong("", "needs succeededIndexes or succeededCount")
        elif runs is not None and count is not None and count > len(runs):
            rule.wrong("succeededCount", f"{count} is more than the {len(runs)} of succeededIndexes")
        else:
            yield SuccessRule(runs, count)


def _runs(rule: ManifestNode, completions: int) -> frozenset[int] | None:
    """`0,2-5`: numbers and ranges in their order."""
    text = rule.text("succeededIndexes")
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (
            first.isdecimal() and first.isascii() and (not dash or (last.isdecimal() and last.isascii()))
        ):
            rule.wrong("succeededIndexes", f"{text!r} is not of the form 0,2-5")
            return None
        begin, end = int(first[:10]), int(last[:10]) if dash else int(first[:10])
        if not (found[-1] if found else -1) < begin <= end < completions:
            rule.wrong(
                "succeededIndexes", f"{part} is not within 0 to {completions - 1}, or not after those before"
            )
            return None
        found += range(begin, end + 1)
    return frozenset(found)
