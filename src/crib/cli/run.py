"""`crib run`: read a manifest and run its pods."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from crib.cli import progress
from crib.cli.forms import Form, Format
from crib.cli.output import as_dict, document, short_id, tell
from crib.cli.patience import WaitTeller
from crib.cli.session import CommandError, say
from crib.client import pods as client_pods
from crib.client.workloads import jobs, keeping
from crib.client.workloads.launch import Launch
from crib.client.workloads.site import read_site
from crib.manifest import late
from crib.manifest.documents import ManifestText
from crib.manifest.faults import ManifestError
from crib.manifest.load import random_uid, read_plans
from crib.manifest.plan import Dirs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crib.cli.session import CliSession
    from crib.cli.workload_options import RunCommandOptions
    from crib.client import Connection
    from crib.client.pods import Pod
    from crib.manifest.claim_plan import ClaimPlan
    from crib.manifest.plan import Plans, PodPlan, VolumePlan
    from crib.stubs.node.v1.node_pb2 import KeptPod
    from crib.stubs.runtime.v1.api_pb2 import AuthConfig


async def run(session: CliSession, options: RunCommandOptions) -> None:
    """Check all manifests and bring all images, then start pod after pod; the first failure ends it."""
    hide = options.dry_run and not options.show_secrets
    read = plans_of(session, options.manifests, options.extra or (), hide_secrets=hide)
    plans = read.pods
    is_kept = options.restart or options.foreground
    tell_notes(read, is_kept=is_kept)
    if options.restart and options.foreground:
        raise CommandError("--restart and --foreground exclude each other", exit_code=2)
    if is_kept and options.keep:
        raise CommandError("--keep is for pods that are not kept up", exit_code=2)
    if options.dry_run:
        document([_requests(plan) for plan in plans], _document_form(options.output))
        return
    dirs = Dirs(session.pods_dir)
    async with session.connect() as connection:
        launch = Launch(connection, dirs, _Shown(), replace=options.replace)
        await launch.prepare(read)
        if options.foreground:
            await _in_foreground(connection, read, launch, dirs)
            return
        results = []
        for job in read.jobs if options.restart else ():
            began = time.monotonic()
            await launch.make_way_for_job(job)
            found = await jobs.keep_job(connection, job, dirs)
            results.append(_job_result(found, time.monotonic() - began))
            if options.output is Format.TABLE:
                how, why = "is kept up", found.message or "suspended"
                if found.phase == "Removed":
                    how, why = "has ended", "removed by its ttlSecondsAfterFinished"
                tell(f"job {job.label} {how} ({why}, {results[-1]['seconds']:.2f} s)")
        for plan in read.alone() if options.restart else plans:
            began = time.monotonic()
            if options.restart:
                await launch.make_way(plan)
                pod = await keeping.keep(connection, plan, dirs)
            else:
                pod = await launch.start(plan, keep=options.keep)
            results.append(await _result(connection, plan, pod, time.monotonic() - began))
            if options.output is Format.TABLE:
                _print_result(results[-1], "is kept up" if options.restart else "is running")
    if options.output is not Format.TABLE:
        document(results, options.output)


async def _in_foreground(connection: Connection, read: Plans, launch: Launch, dirs: Dirs) -> None:
    from crib.cli.keep_up import Foreground
    from crib.supervisor.keeper import Surroundings

    for job in read.jobs:
        await launch.make_way_for_job(job)
    for plan in read.alone():
        await launch.make_way(plan)
    await Foreground(connection, read, Surroundings(dirs, _Shown())).run()


def plans_of(
    session: CliSession,
    paths: Sequence[str],
    extra: Sequence[str] = (),
    *,
    hide_secrets: bool = False,
    new_uid: Callable[[], str] = random_uid,
) -> Plans:
    """What the manifests come to on this node. All faults are shown; the CommandError counts them.

    `extra` are files of which only ConfigMaps, Secrets and claims count.
    """
    texts = [ManifestText(path, _read_manifest(path)) for path in paths]
    texts += [ManifestText(path, _read_manifest(path), is_data=True) for path in extra]
    try:
        return read_plans(texts, read_site(session.pods_dir, hide_secrets=hide_secrets), new_uid)
    except ManifestError as error:
        if len(error.faults) == 1:
            raise CommandError(str(error)) from error
        for fault in error.faults:
            say(f"crib: {fault}")
        raise CommandError(
            f"{len(error.faults)} faults in {', '.join((*paths, *extra))}; nothing was done"
        ) from error


def tell_notes(read: Plans, *, is_kept: bool = False) -> None:
    """What has no effect here, a line for each."""
    for note in read.notes:
        say(f"note: {note}")
    for plan in read.pods:
        for note in plan.notes:
            say(f"note: {plan.label}: {note}")
        for path in () if is_kept else plan.unkept:
            say(f"note: {plan.label}: {path}: no effect without --restart or --foreground")
    for job in () if is_kept else read.jobs:
        for text in job.unkept:
            say(f"note: job {job.label}: {text} without --restart or --foreground")


def _document_form(output: Form) -> Form:
    return Format.YAML if output is Format.TABLE else output


def _requests(plan: PodPlan) -> dict[str, Any]:
    shown = late.shown(plan)
    return {
        "runtimeHandler": shown.handler,
        "sandbox": as_dict(shown.sandbox),
        "initContainers": [as_dict(container.config) for container in shown.init_containers],
        "containers": [as_dict(container.config) for container in shown.containers],
        "volumes": [_volume(volume) for volume in shown.volumes],
    }


def _volume(volume: VolumePlan) -> dict[str, Any]:
    found: dict[str, Any] = {"name": volume.name, "kind": volume.kind}
    if volume.kind == "image":
        return {**found, "image": volume.image}
    if volume.kind == "files":
        return {**found, "files": {f.path: f.content.decode(errors="replace") for f in volume.files}}
    if volume.claim is not None:
        return {**found, "volume": volume.claim.label, **_asked_for(volume.claim)}
    return {**found, "path": volume.path}


def _asked_for(claim: ClaimPlan) -> dict[str, Any]:
    """What is asked of the volume if it is not there yet; never the secrets of a driver."""
    spec = claim.spec
    found = {
        "goesWithPod": claim.with_pod,
        "kind": spec.kind,
        "storageClass": spec.storage_class,
        "size": spec.size,
        "accessModes": list(spec.access_modes),
        "block": spec.block,
        "source": spec.source.name if spec.source is not None else spec.device,
        "driver": spec.driver.driver if spec.driver is not None else "",
        "parameters": dict(spec.driver.attributes) if spec.driver is not None else {},
        "fsType": spec.fs_type,
        "labels": dict(claim.labels),
    }
    return {name: value for name, value in found.items() if value}


class _Shown:
    """Notes on standard error, pulls as bars, and what a start waits for."""

    def __init__(self) -> None:
        self._waiting = WaitTeller()

    def note(self, text: str) -> None:
        say(text)

    def waits_for(self, what: str) -> None:
        self._waiting.now_for(what)

    async def pull(self, connection: Connection, image: str, auth: AuthConfig | None) -> None:
        await progress.pull(connection, image, auth)


async def _result(connection: Connection, plan: PodPlan, pod: Pod, seconds: float) -> dict[str, Any]:
    status = await client_pods.sandbox_status(connection, pod.id)
    return {
        "namespace": plan.namespace,
        "name": plan.name,
        "id": pod.id,
        "ip": status.network.ip,
        "containers": pod.containers,
        "seconds": round(seconds, 3),
    }


def _job_result(found: KeptPod, seconds: float) -> dict[str, Any]:
    return {
        "namespace": found.namespace,
        "name": found.name,
        "job": True,
        "phase": found.phase,
        "containers": {one.name: one.id for one in found.containers},
        "seconds": round(seconds, 3),
    }


def _print_result(result: dict[str, Any], how: str) -> None:
    address = f", {result['ip']}" if result["ip"] else ""
    label = f"{result['namespace']}/{result['name']}"
    tell(f"pod {label} {how} ({short_id(result['id'])}{address}, {result['seconds']:.2f} s)")


_MAX_MANIFEST = 1 << 20


def _read_manifest(path: str) -> str:
    """A manifest's text; `-` is standard input. CommandError when it cannot be read."""
    try:
        if path == "-":
            return sys.stdin.read(_MAX_MANIFEST + 1)
        with open(path, encoding="utf-8") as file:
            return file.read(_MAX_MANIFEST + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8 text") from None
