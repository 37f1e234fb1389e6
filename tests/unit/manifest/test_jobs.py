"""Jobs: their pods, their numbers, and what of them needs somebody who looks after them."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest

from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, JobPlan, JobTurn, Plans, Site

SITE = Site(Dirs("/pods"), memory=1 << 30)


def text(more: str = "", policy: str = "Never", uid: str = "", pod: str = "") -> str:
    return (
        f"apiVersion: batch/v1\nkind: Job\nmetadata: {{name: pi{uid and f', uid: {uid}'}}}\nspec:\n"
        + textwrap.indent(textwrap.dedent(more), "  ")
        + "\n  template:\n    spec:\n"
        f"      restartPolicy: {policy}\n{textwrap.indent(pod, '      ')}\n"
        '      containers: [{name: app, image: "localhost/app:1"}]\n'
    )


def read(manifest: str) -> Plans:
    return read_plans(manifest, SITE)


def job(manifest: str) -> JobPlan:
    (found,) = read(manifest).jobs
    return found


def test_a_job_says_how_many_runs_it_has_and_begins_with_as_many_as_may_run_at_a_time() -> None:
    numbers = ["completions: 5", "parallelism: 2", "backoffLimit: 3"]
    times = ["activeDeadlineSeconds: 60", "ttlSecondsAfterFinished: 0"]
    found = read(text("\n".join(numbers + times)))
    (plan,) = found.jobs
    assert (plan.completions, plan.parallelism, plan.backoff_limit) == (5, 2, 3)
    assert (plan.deadline, plan.ttl) == (60, 0)
    assert [pod.name for pod in found.pods] == ["pi-0", "pi-1"]
    assert {pod.job for pod in found.pods} == {plan.uid}
    assert found.alone() == []
    assert plan.unkept == (
        "spec.completions: only 2 of 5 are run",
        "spec.backoffLimit: no effect",
        "spec.activeDeadlineSeconds: no effect",
        "spec.ttlSecondsAfterFinished: no effect",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", (1, 1, ["pi"])),
        ("completions: 1\nparallelism: 4", (1, 4, ["pi"])),
        ("parallelism: 2", (None, 2, ["pi-0", "pi-1"])),
        ("completions: 3", (3, 1, ["pi-0"])),
        ("completions: 1\ncompletionMode: Indexed", (1, 1, ["pi-0"])),
    ],
)
def test_what_a_job_does_not_say_is_as_in_kubernetes(
    more: str, expected: tuple[int | None, int, list[str]]
) -> None:
    found = read(text(more))
    (plan,) = found.jobs
    assert (plan.completions, plan.parallelism, [pod.name for pod in found.pods]) == expected
    assert (plan.backoff_limit, plan.deadline, plan.ttl) == (6, None, None)


def test_each_try_is_a_pod_of_its_own_whose_uid_is_always_the_same() -> None:
    plan, again = (job(text("completions: 3", uid="u1")) for _ in range(2))
    turns = [JobTurn(0), JobTurn(0, 1), JobTurn(2)]
    pods = [plan.pod_of(turn) for turn in turns]
    assert [pod.name for pod in pods] == ["pi-0", "pi-0-try2", "pi-2"]
    assert len({pod.uid for pod in pods}) == 3
    assert [pod.uid for pod in pods] == [again.pod_of(turn).uid for turn in turns]
    assert pods[1].sandbox.labels["batch.kubernetes.io/job-name"] == "pi"
    assert pods[1].sandbox.labels["batch.kubernetes.io/controller-uid"] == "u1"
    assert job(text("completions: 3", uid="u2")).pod_of(turns[0]).uid != pods[0].uid


def test_pods_of_an_indexed_job_know_their_number_and_keep_their_host_name() -> None:
    plan = job(text("completions: 2\ncompletionMode: Indexed"))
    pod = plan.pod_of(JobTurn(1, 1))
    assert pod.name == "pi-1-try2"
    assert pod.sandbox.hostname == "pi-1"
    index = "batch.kubernetes.io/job-completion-index"
    assert (pod.sandbox.labels[index], pod.sandbox.annotations[index]) == ("1", "1")
    assert [(env.key, env.value) for env in pod.containers[0].config.envs] == [("JOB_COMPLETION_INDEX", b"1")]
    own = job(text("completions: 2\ncompletionMode: Indexed", pod="hostname: mine"))
    assert own.pod_of(JobTurn(1)).sandbox.hostname == "mine"


def test_what_is_kept_of_a_job_comes_to_the_same_job_with_what_its_pods_need() -> None:
    data = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {A: b}\n"
    manifest = text("completions: 4\nparallelism: 2\nbackoffLimit: 1", uid="u1").replace(
        'image: "localhost/app:1"', 'image: "localhost/app:1", envFrom: [{configMapRef: {name: c}}]'
    )
    plan = job(manifest + data)
    again = job(plan.document)
    assert replace(again, document="") == replace(plan, document="")
    assert again.pod_of(JobTurn(3)) == plan.pod_of(JobTurn(3))


def test_a_cron_job_is_its_job_once() -> None:
    cron = text("backoffLimit: 2").replace("kind: Job", "kind: CronJob")
    spec = cron.index("spec:")
    inner = textwrap.indent(cron[spec:], "    ")
    found = read(f'{cron[:spec]}spec:\n  schedule: "0 3 * * *"\n  jobTemplate:\n{inner}')
    assert [(plan.name, plan.backoff_limit) for plan in found.jobs] == [("pi", 2)]


def test_a_suspended_job_begins_with_no_pod_and_is_whole_for_who_starts_it() -> None:
    suspended = read(text("suspend: true\ncompletions: 2\nparallelism: 2"))
    assert suspended.pods == ()
    (plan,) = suspended.jobs
    assert (plan.suspended, plan.first()) == (True, [])
    assert plan.pod_of(JobTurn(1)).name == "pi-1"
    (note,) = suspended.notes
    assert note == "Job default/pi is suspended: crib run --restart keeps it, and then crib start begins it"
    assert job(plan.document).uid == plan.uid
    none = read(text("parallelism: 0"))
    assert (none.jobs, none.pods) == ((), ())
    assert "Job default/pi comes to no pod" in none.notes


def test_fields_that_need_a_keeper_are_told_where_there_is_none() -> None:
    plan = job(
        text(
            "completions: 2\nparallelism: 2\ncompletionMode: Indexed\nbackoffLimitPerIndex: 1\n"
            "maxFailedIndexes: 1\nsuccessPolicy: {rules: [{succeededCount: 1}]}\n"
            "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}"
        )
    )
    assert {line.partition(":")[0].removeprefix("spec.") for line in plan.unkept} == {
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "successPolicy",
        "podFailurePolicy",
    }


PORT = "name: app, ports: [{containerPort: 80, hostPort: 80}],"


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        (
            text(policy="Always"),
            "spec.template.spec.restartPolicy: 'Always' must be Never or OnFailure for the pods of a Job",
        ),
        (
            text("completionMode: Indexed\nparallelism: 2"),
            "spec.completions: is required with completionMode: Indexed",
        ),
        (text("completions: 0"), "spec.completions: 0 is not between 1 and 1000"),
        (
            text("parallelism: 2").replace("name: app,", PORT),
            "spec.parallelism: more than one pod cannot have the node's port 80 (hostPort)",
        ),
        (
            text().replace("name: pi", f"name: {'.'.join(['a' * 40] * 2)}"),
            "metadata.name: is longer than 63 characters, as many as a label of its pods takes",
        ),
    ],
)
def test_what_a_job_cannot_be_is_told_with_its_place(manifest: str, fault: str) -> None:
    with pytest.raises(ManifestError) as wrong:
        read(manifest)
    assert [f"{one.place.path}: {one.message}" for one in wrong.value.faults] == [fault]


def test_a_long_name_is_cut_for_its_pods() -> None:
    plan = job(text("completions: 12").replace("name: pi", f"name: {'a' * 63}"))
    assert plan.pod_of(JobTurn(11, 1)).name == "a" * 55 + "-11-try2"
