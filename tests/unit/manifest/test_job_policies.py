"""A Job's policies: what they make of ends, and what is wrong with them."""

from __future__ import annotations

import textwrap

import pytest

from crib.manifest.faults import ManifestError
from crib.manifest.job_policies import JobPolicy
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, JobPlan, Plans, Site

SITE = Site(Dirs("/pods"), memory=1 << 30)
INDEXED = "completionMode: Indexed\ncompletions: 6\n"


def read(more: str, policy: str = "Never") -> Plans:
    return read_plans(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: pi}\nspec:\n"
        + textwrap.indent(textwrap.dedent(more), "  ")
        + f"\n  template:\n    spec:\n      restartPolicy: {policy}\n"
        '      initContainers: [{name: first, image: "localhost/app:1"}]\n'
        '      containers: [{name: app, image: "localhost/app:1"}]\n',
        SITE,
    )


def job(more: str) -> JobPlan:
    (found,) = read(more).jobs
    return found


def failures(*rules: str) -> JobPolicy:
    return job(
        INDEXED + "backoffLimitPerIndex: 1\npodFailurePolicy: {rules: [" + ", ".join(rules) + "]}"
    ).policy


@pytest.mark.parametrize(
    ("rule", "ends", "lost", "action"),
    [
        ("onExitCodes: {operator: In, values: [3, 42]}", {"app": 42}, False, "FailJob"),
        ("onExitCodes: {operator: In, values: [3, 42]}", {"app": 4}, False, "Count"),
        ("onExitCodes: {operator: NotIn, values: [3]}", {"app": 4}, False, "FailJob"),
        ("onExitCodes: {operator: NotIn, values: [3]}", {"app": 0, "first": 3}, False, "Count"),
        ("onExitCodes: {operator: NotIn, values: [0]}", {"app": 0}, False, "Count"),
        ("onExitCodes: {containerName: app, operator: In, values: [3]}", {"first": 3}, False, "Count"),
        ("onExitCodes: {containerName: first, operator: In, values: [3]}", {"first": 3}, False, "FailJob"),
        ("onPodConditions: [{type: DisruptionTarget}]", {"app": 137}, True, "FailJob"),
        ("onPodConditions: [{type: DisruptionTarget}]", {"app": 137}, False, "Count"),
        ('onPodConditions: [{type: DisruptionTarget, status: "False"}]', {"app": 1}, False, "FailJob"),
        ("onPodConditions: [{type: Other}, {type: DisruptionTarget}]", {"app": 1}, True, "FailJob"),
        ("onPodConditions: [{type: Other}]", {"app": 1}, True, "Count"),
    ],
)
def test_a_rule_applies_to_its_codes_or_to_what_was_lost(
    rule: str, ends: dict[str, int], lost: bool, action: str
) -> None:
    assert failures(f"{{action: FailJob, {rule}}}").verdict(ends, disrupted=lost)[0] == action


def test_the_first_rule_that_applies_counts_and_says_why() -> None:
    policy = failures(
        "{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}",
        "{action: FailIndex, onExitCodes: {operator: In, values: [1]}}",
        "{action: FailJob, onExitCodes: {operator: NotIn, values: [2]}}",
    )
    assert policy.verdict({"app": 1}, disrupted=True) == (
        "Ignore",
        "its sandbox was lost, which is Ignore by rule 0",
    )
    assert policy.verdict({"app": 1}, disrupted=False)[0] == "FailIndex"
    assert policy.verdict({"first": 0, "app": 9}, disrupted=False) == (
        "FailJob",
        "container app exited with 9, which is FailJob by rule 2",
    )
    assert policy.verdict({"app": 2}, disrupted=False) == ("Count", "")


@pytest.mark.parametrize(
    ("rule", "enough", "not_enough"),
    [
        ('succeededIndexes: "0,2-3"', {0, 2, 3, 5}, {0, 2, 5, 4}),
        ('succeededIndexes: "0,2-3", succeededCount: 2', {0, 3}, {0, 1, 4, 5}),
        ("succeededCount: 2", {1, 5}, {4}),
    ],
)
def test_successes_are_enough_by_number_or_by_name(rule: str, enough: set[int], not_enough: set[int]) -> None:
    (found,) = job(INDEXED + f"successPolicy: {{rules: [{{{rule}}}]}}").policy.successes
    assert found.is_met(enough)
    assert not found.is_met(not_enough)


def test_limits_of_single_runs_lift_that_of_all() -> None:
    plan = job(INDEXED + "backoffLimitPerIndex: 0\nmaxFailedIndexes: 2")
    assert (plan.policy.limit_per_run, plan.policy.max_failed) == (0, 2)
    assert plan.backoff_limit == 2**31 - 1
    assert job(INDEXED + "backoffLimitPerIndex: 0\nbackoffLimit: 4").backoff_limit == 4


def test_a_replacement_waits_for_the_end_of_what_it_replaces() -> None:
    assert read("podReplacementPolicy: Failed").notes == ()
    (note,) = read("podReplacementPolicy: TerminatingOrFailed").notes
    assert note.endswith("as Failed: the next try waits until the one before has ended")


RULE = "podFailurePolicy: {rules: [{action: FailJob, %s}]}"
ENOUGH = INDEXED + "successPolicy: {rules: [{%s}]}"
LOST = "onPodConditions: [{type: DisruptionTarget}]"
LIMIT, MOST = "spec.backoffLimitPerIndex", "spec.maxFailedIndexes"
FIRST = "spec.podFailurePolicy.rules[0]"
CODES = f"{FIRST}.onExitCodes"
SUCCESS = "spec.successPolicy.rules[0]"


@pytest.mark.parametrize(
    ("more", "path", "message"),
    [
        ("backoffLimitPerIndex: 1", LIMIT, "needs completionMode: Indexed and restartPolicy: Never"),
        ("maxFailedIndexes: 1", MOST, "needs backoffLimitPerIndex"),
        (
            INDEXED + "backoffLimitPerIndex: 1\nmaxFailedIndexes: 7",
            MOST,
            "7 is more than the 6 completions",
        ),
        (
            RULE % "onExitCodes: {operator: In, values: [0, 1]}",
            f"{CODES}.values",
            "0 is no failure, so it cannot be one with In",
        ),
        (
            RULE % "onExitCodes: {operator: In, values: [2, 1]}",
            f"{CODES}.values",
            "needs 1 to 255 exit codes, each once and in their order",
        ),
        (
            RULE % "onExitCodes: {operator: In, values: [1], containerName: x}",
            f"{CODES}.containerName",
            "the pod has no container 'x'",
        ),
        (
            RULE % "onExitCodes: {operator: Is, values: [1]}",
            f"{CODES}.operator",
            "'Is' is not one of In, NotIn",
        ),
        (RULE % "", FIRST, "needs either onExitCodes or onPodConditions"),
        (
            (RULE % LOST).replace("FailJob", "Stop"),
            f"{FIRST}.action",
            "'Stop' is not one of FailJob, FailIndex, Ignore, Count",
        ),
        (
            (RULE % LOST).replace("FailJob", "FailIndex"),
            f"{FIRST}.action",
            "FailIndex needs backoffLimitPerIndex",
        ),
        ("podFailurePolicy: {}", "spec.podFailurePolicy.rules", "needs 1 to 20 rules"),
        (
            "successPolicy: {rules: [{succeededCount: 1}]}",
            "spec.successPolicy",
            "needs completionMode: Indexed",
        ),
        (ENOUGH % "", SUCCESS, "needs succeededIndexes or succeededCount"),
        (
            ENOUGH % 'succeededIndexes: "3,1"',
            f"{SUCCESS}.succeededIndexes",
            "1 is not within 0 to 5, or not after those before",
        ),
        (
            ENOUGH % 'succeededIndexes: "1-6"',
            f"{SUCCESS}.succeededIndexes",
            "1-6 is not within 0 to 5, or not after those before",
        ),
        (
            ENOUGH % 'succeededIndexes: "1-,2"',
            f"{SUCCESS}.succeededIndexes",
            "'1-,2' is not of the form 0,2-5",
        ),
        (
            ENOUGH % 'succeededIndexes: "1", succeededCount: 2',
            f"{SUCCESS}.succeededCount",
            "2 is more than the 1 of succeededIndexes",
        ),
        (
            RULE % LOST + "\npodReplacementPolicy: TerminatingOrFailed",
            "spec.podReplacementPolicy",
            "must be Failed with podFailurePolicy",
        ),
    ],
)
def test_what_a_policy_cannot_be_is_told_with_its_place(more: str, path: str, message: str) -> None:
    with pytest.raises(ManifestError) as wrong:
        read(more)
    assert [(one.place.path, one.message) for one in wrong.value.faults] == [(path, message)]


def test_a_policy_of_failures_needs_pods_that_are_never_started_again() -> None:
    with pytest.raises(ManifestError, match="podFailurePolicy: needs restartPolicy: Never"):
        read(RULE % LOST, policy="OnFailure")
