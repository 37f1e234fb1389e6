"""Jobs that are kept up: their runs in waves, tries after failures, limits, and what outlives a kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import Client, lookup
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, crib, running_cribd, until
from tests.system.labs.keeping import KeepingCribd, keeping_story, run, supervisor_of, the_pod

pytestmark = [pytest.mark.root, pytest.mark.system]

WORKS = "echo begin >> /out/log; sleep 0.2; echo end >> /out/log"
WAITS = 'echo "$HOSTNAME" >> /out/log; until [ -e /out/go ]; do sleep 0.1; done'


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(kind=KeepingCribd) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with keeping_story(cribd) as connection:
        yield connection


def job(directory: Path, script: str, policy: str = "Never", **spec: object) -> str:
    """A Job whose pods run a script, with a directory of the host on /out."""
    (directory / "out").mkdir()
    container = {
        "name": "app",
        "image": "busybox:test",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
    }
    pod = {
        "restartPolicy": policy,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "out", "hostPath": {"path": str(directory / "out")}}],
    }
    document = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "pi"},
        "spec": {**spec, "template": {"spec": pod}},
    }
    path = directory / "job.yaml"
    path.write_text(json.dumps(document))
    return str(path)


def lines(directory: Path) -> list[str]:
    log = directory / "out/log"
    return log.read_text().splitlines() if log.exists() else []


async def phase(cri: Cri, wanted: str) -> str:
    """Wait until the Job is in this phase; what is told of it then."""
    told = ""

    async def there() -> bool:
        nonlocal told
        found = await the_pod(cri)
        told = found.message
        return found.phase == wanted

    await until(there)
    return told


async def test_runs_come_in_waves_until_all_have_succeeded(cribd: Cribd, cri: Cri, tmp_path: Path) -> None:
    path = job(
        tmp_path, WORKS + "; echo $JOB_COMPLETION_INDEX >> /out/index", completions=5, parallelism=2,
        completionMode="Indexed",
    )  # fmt: skip
    assert "job default/pi is kept up (" in run(cribd, tmp_path, "run", "--restart", path)
    assert await phase(cri, "Succeeded") == "5 of 5 succeeded"
    running = most = 0
    for line in lines(tmp_path):
        running += 1 if line == "begin" else -1
        most = max(most, running)
    assert (most, len(lines(tmp_path))) == (2, 10)
    assert sorted((tmp_path / "out/index").read_text().split()) == ["0", "1", "2", "3", "4"]
    pods = sorted(pod.metadata.name for pod in await lookup.pods(cri.connection))
    assert pods == ["pi-0", "pi-1", "pi-2", "pi-3", "pi-4"]
    assert "default/pi" in run(cribd, tmp_path, "kept")
    refused = crib(cribd, tmp_path / "pods", "run", "--restart", path)
    assert "pod default/pi is kept up; remove it with crib down" in refused.stderr
    assert run(cribd, tmp_path, "down", path) == "removed default/pi\n"
    assert not await lookup.pods(cri.connection)
    assert not any((tmp_path / "pods").iterdir())


async def test_what_failed_is_tried_again_in_a_pod_of_its_own_until_there_were_too_many(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = job(tmp_path, "echo x >> /out/log; [ $(wc -l < /out/log) -gt 2 ]", backoffLimit=2)
    run(cribd, tmp_path, "run", "--restart", path)
    assert await phase(cri, "Succeeded") == "1 of 1 succeeded, 2 failed"
    pods = sorted(pod.metadata.name for pod in await lookup.pods(cri.connection))
    assert pods == ["pi", "pi-try2", "pi-try3"]
    (tmp_path / "out/log").unlink()
    assert run(cribd, tmp_path, "restart", "pi") == "restarted default/pi\n"
    await until(lambda: len(lines(tmp_path)) == 3)
    assert await phase(cri, "Succeeded") == "1 of 1 succeeded, 2 failed"
    (tmp_path / "job.yaml").write_text(
        (tmp_path / "job.yaml").read_text().replace('"backoffLimit": 2', '"backoffLimit": 1')
    )
    (tmp_path / "out/log").unlink()
    crib(cribd, tmp_path / "pods", "run", "--restart", "--replace", path)  # it may be over before it is seen
    assert await phase(cri, "Failed") == "BackoffLimitExceeded: tries that failed: 2"
    run(cribd, tmp_path, "down", "pi")
    assert not await lookup.pods(cri.connection)


async def test_no_run_that_succeeded_is_done_again_after_a_kill_even_if_its_pod_is_gone(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    script = f'[ "$JOB_COMPLETION_INDEX" = 0 ] && {{ echo done >> /out/log; exit 0; }}; {WAITS}'
    path = job(tmp_path, script, completions=3, parallelism=2, completionMode="Indexed")
    run(cribd, tmp_path, "run", "--restart", path)
    await until(lambda: sorted(lines(tmp_path)) == ["done", "pi-1", "pi-2"])
    run(cribd, tmp_path, "rm", "pi-0")
    first = supervisor_of(cribd)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor_of(cribd) not in (None, first))
    (tmp_path / "out/go").touch()
    assert await phase(cri, "Succeeded") == "3 of 3 succeeded"
    assert sorted(lines(tmp_path)) == ["done", "pi-1", "pi-2"]
    run(cribd, tmp_path, "down", "pi")


async def test_a_job_ends_at_its_deadline_or_when_it_is_stopped_and_may_be_started_anew(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = job(tmp_path, WAITS, parallelism=2, activeDeadlineSeconds=3600)
    run(cribd, tmp_path, "run", "--restart", path)
    await until(lambda: sorted(lines(tmp_path)) == ["pi-0", "pi-1"])
    assert run(cribd, tmp_path, "stop", "pi-0") == "stopped default/pi\n"
    assert all(pod.state == pb.SANDBOX_NOTREADY for pod in await lookup.pods(cri.connection))
    assert run(cribd, tmp_path, "start", "pi") == "started default/pi\n"
    await until(lambda: len(lines(tmp_path)) == 4)
    (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text().replace("3600", "1"))
    crib(cribd, tmp_path / "pods", "run", "--restart", "--replace", path)  # it may be over before it is seen
    assert await phase(cri, "Failed") == "DeadlineExceeded: it was active for 1 s"
    assert all(pod.state == pb.SANDBOX_NOTREADY for pod in await lookup.pods(cri.connection))
    run(cribd, tmp_path, "down", "pi")


def on_codes(action: str, *codes: int) -> dict[str, object]:
    return {"action": action, "onExitCodes": {"operator": "In", "values": codes}}


async def test_a_policy_ignores_a_lost_pod_gives_up_a_run_and_ends_the_job_for_an_exit_code(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        on_codes("FailIndex", 5),
        on_codes("FailJob", 42),
    ]
    script = f'[ "$JOB_COMPLETION_INDEX" = 1 ] && exit 5; {WAITS}; exit 42'
    path = job(
        tmp_path, script, completions=2, parallelism=2, completionMode="Indexed",
        backoffLimitPerIndex=0, podFailurePolicy={"rules": rules},
    )  # fmt: skip
    run(cribd, tmp_path, "run", "--restart", path)
    await until(lambda: lines(tmp_path) == ["pi-0"])
    (first,) = [pod for pod in await lookup.pods(cri.connection) if pod.metadata.name == "pi-0"]
    await cri.stop_pod(first.id)  # by somebody else: it is lost
    await until(lambda: lines(tmp_path) == ["pi-0", "pi-0"])
    found = await the_pod(cri)
    assert (found.phase, found.message) == ("Running", "0 of 2 succeeded, 1 failed, 1 ignored")
    (tmp_path / "out/go").touch()
    assert await phase(cri, "Failed") == (
        "PodFailurePolicy: pod pi-0-try2: container app exited with 42, which is FailJob by rule 2"
    )
    pods = sorted(pod.metadata.name for pod in await lookup.pods(cri.connection))
    assert pods == ["pi-0", "pi-0-try2", "pi-1"], "no second try of what was given up"
    run(cribd, tmp_path, "down", "pi")


async def test_a_job_goes_on_without_the_runs_that_have_failed_and_fails_in_the_end(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    script = 'echo "$HOSTNAME" >> /out/log; [ "$JOB_COMPLETION_INDEX" != 1 ]'
    path = job(tmp_path, script, completions=3, completionMode="Indexed", backoffLimitPerIndex=1)
    run(cribd, tmp_path, "run", "--restart", path)
    assert await phase(cri, "Failed") == "FailedIndexes: 1"
    assert sorted(lines(tmp_path)) == ["pi-0", "pi-1", "pi-1", "pi-2"]
    run(cribd, tmp_path, "down", "pi")


async def test_a_job_is_done_when_its_leader_has_succeeded_and_the_rest_is_stopped(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = job(
        tmp_path, f'[ "$JOB_COMPLETION_INDEX" = 0 ] && exit 0; {WAITS}', completions=3, parallelism=3,
        completionMode="Indexed", successPolicy={"rules": [{"succeededIndexes": "0"}]},
    )  # fmt: skip
    run(cribd, tmp_path, "run", "--restart", path)
    assert await phase(cri, "Succeeded") == "1 of 3 succeeded"
    assert all(pod.state == pb.SANDBOX_NOTREADY for pod in await lookup.pods(cri.connection))
    run(cribd, tmp_path, "down", "pi")


async def test_a_suspended_job_waits_until_it_is_started_also_after_a_kill(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = job(tmp_path, "echo x >> /out/log", suspend=True, ttlSecondsAfterFinished=0)
    assert "job default/pi is kept up (suspended, " in run(cribd, tmp_path, "run", "--restart", path)
    first = supervisor_of(cribd)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor_of(cribd) not in (None, first))
    await phase(cri, "Suspended")
    assert not await lookup.pods(cri.connection)
    assert run(cribd, tmp_path, "start", "pi") == "started default/pi\n"
    await until(lambda: lines(tmp_path) == ["x"])
    await until(lambda: supervisor_of(cribd) is None)


async def test_a_job_is_removed_some_time_after_its_end_if_it_says_so(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = job(tmp_path, "echo x >> /out/log", ttlSecondsAfterFinished=0)
    async with Client(str(cribd.socket), pods_dir=str(tmp_path / "pods")) as client:
        await client.run_manifest(path, restart=True)
    await until(lambda: supervisor_of(cribd) is None)
    assert lines(tmp_path) == ["x"]
    assert not await lookup.pods(cri.connection)
    assert not any((tmp_path / "pods").iterdir())


def test_in_the_foreground_a_job_shows_the_logs_of_all_its_runs(cribd: Cribd, tmp_path: Path) -> None:
    path = job(tmp_path, "echo hello; exit 4", completions=2, backoffLimit=0)
    done = crib(cribd, tmp_path / "pods", "run", "--foreground", path)
    assert done.returncode == 4
    assert done.stdout == "pi-0/app | hello\n"
    assert "job default/pi has failed: BackoffLimitExceeded: tries that failed: 1" in done.stderr
    Path(path).write_text(Path(path).read_text().replace("exit 4", "exit 0"))
    done = crib(cribd, tmp_path / "pods", "run", "--foreground", "--replace", path)
    assert (done.returncode, done.stdout) == (0, "pi-0/app | hello\npi-1/app | hello\n"), done.stderr
    run(cribd, tmp_path, "down", path)


def test_who_is_not_looked_after_is_told_what_has_no_effect(cribd: Cribd, tmp_path: Path) -> None:
    path = job(tmp_path, "true", completions=3, backoffLimit=1)
    done = crib(cribd, tmp_path / "pods", "run", path)
    assert done.returncode == 0
    assert (
        "note: job default/pi: spec.completions: only 1 of 3 are run without --restart or --foreground"
        in done.stderr
    )
    run(cribd, tmp_path, "down", "pi")
