"""`crib run`: read a manifest and run its pods."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from crib.cli import progress
from crib.cli.forms import Form, Format
from crib.cli.output import as_dict, document, short_id, tell
from crib.cli.session import CommandError, say
from crib.client import pods as client_pods
from crib.client.workloads.launch import Launch
from crib.manifest.documents import ManifestText
from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, HostDns, PodPlan, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.options import RunCommandOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.pods import Pod


async def run(session: CliSession, options: RunCommandOptions) -> None:
    """Check all manifests and bring all images, then start pod after pod; the first failure ends it."""
    plans = plans_of(session, options.manifests)
    for plan in plans:
        tell_notes(plan)
    if options.dry_run:
        document([_requests(plan) for plan in plans], _document_form(options.output))
        return
    dirs = Dirs(session.pods_dir)
    async with session.connect() as connection:
        launch = Launch(connection, dirs, _Shown(), replace=options.replace)
        await launch.prepare(plans)
        results = []
        for plan in plans:
            began = time.monotonic()
            pod = await launch.start(plan, keep=options.keep)
            results.append(await _result(connection, plan, pod, time.monotonic() - began))
            if options.output is Format.TABLE:
                _print_result(results[-1])
    if options.output is not Format.TABLE:
        document(results, options.output)


def plans_of(session: CliSession, paths: list[str]) -> Sequence[PodPlan]:
    """What the manifests come to on this node. All faults are shown; the CommandError counts them."""
    texts = [ManifestText(path, _read_manifest(path)) for path in paths]
    try:
        found = read_plans(texts, _read_site(session.pods_dir))
    except ManifestError as error:
        if len(error.faults) == 1:
            raise CommandError(str(error)) from error
        for fault in error.faults:
            say(f"crib: {fault}")
        raise CommandError(f"{len(error.faults)} faults in {', '.join(paths)}; nothing was done") from error
    for note in found.notes:
        say(f"note: {note}")
    return found.pods


def tell_notes(plan: PodPlan) -> None:
    """What has no effect here, a line for each."""
    for note in plan.notes:
        say(f"note: {plan.label}: {note}")
    for path in plan.unkept:
        say(f"note: {plan.label}: {path}: no effect: nobody keeps the pod up after its start")


def _document_form(output: Form) -> Form:
    return Format.YAML if output is Format.TABLE else output


def _requests(plan: PodPlan) -> dict[str, Any]:
    return {
        "runtimeHandler": plan.handler,
        "sandbox": as_dict(plan.sandbox),
        "initContainers": [as_dict(container.config) for container in plan.init_containers],
        "containers": [as_dict(container.config) for container in plan.containers],
    }


class _Shown:
    """Notes on standard error, pulls as bars."""

    def note(self, text: str) -> None:
        say(text)

    async def pull(self, connection: Connection, image: str) -> None:
        await progress.pull(connection, image)


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


def _print_result(result: dict[str, Any]) -> None:
    address = f", {result['ip']}" if result["ip"] else ""
    label = f"{result['namespace']}/{result['name']}"
    tell(f"pod {label} is running ({short_id(result['id'])}{address}, {result['seconds']:.2f} s)")


_MAX_MANIFEST = 1 << 20


def _read_site(pods_dir: str) -> Site:
    """The node as it is now."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Site(Dirs(pods_dir), memory, _read_dns("/etc/resolv.conf"))


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


def _read_dns(path: str) -> HostDns:
    """resolv.conf(5): the last search or domain line wins."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(64 << 10).splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, *values = line.split() or [""]
        if key == "nameserver":
            servers += values[:1]
        elif key in ("search", "domain"):
            searches = values
        elif key == "options":
            options += values
    return HostDns(tuple(servers), tuple(searches), tuple(options))
