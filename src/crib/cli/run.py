"""`crib run`: read a manifest and run its pods."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from crib.cli import lifecycle, volumes
from crib.cli.manifest.fields import ManifestError
from crib.cli.manifest.load import read_plans
from crib.cli.manifest.plan import Dirs, HostDns, PodPlan, Site
from crib.cli.options import Format
from crib.cli.output import as_dict, document, short_id, tell
from crib.cli.pod_images import PodImages
from crib.cli.session import CommandError, say
from crib.client import ClientError, events, logs, lookup
from crib.client import pods as client_pods
from crib.stubs.runtime.v1.api_pb2 import SANDBOX_READY

if TYPE_CHECKING:
    from crib.cli.manifest.plan import ContainerPlan
    from crib.cli.options import RunCommandOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.pods import Pod

LAST_LINES = 20
"""Lines of a failed init container's log that are shown."""


async def run(session: CliSession, options: RunCommandOptions) -> None:
    """Read every manifest first, then start pod after pod; the first that fails ends the command."""
    plans = plans_of(session, options.manifests)
    for plan in plans:
        for note in plan.notes:
            say(f"note: {plan.label}: {note}")
    if options.dry_run:
        document([_requests(plan) for plan in plans], _document_form(options.output))
        return
    dirs = Dirs(session.pods_dir)
    async with session.connect() as connection:
        await _clear_names(connection, plans, dirs, replace=options.replace)
        for plan in plans:
            volumes.check(plan)
        results = []
        for plan in plans:
            began = time.monotonic()
            pod = await PodRun(connection, plan, dirs, keep=options.keep).start()
            results.append(await _result(connection, plan, pod, time.monotonic() - began))
            if options.output is Format.TABLE:
                _print_result(results[-1])
    if options.output is not Format.TABLE:
        document(results, options.output)


def plans_of(session: CliSession, paths: list[str]) -> list[PodPlan]:
    """What the manifests come to on this node; CommandError names the one that is wrong."""
    site = _read_site(session.pods_dir)
    plans: list[PodPlan] = []
    for path in paths:
        try:
            plans += read_plans(_read_manifest(path), site)
        except ManifestError as error:
            raise CommandError(f"{path}: {error}") from error
    for label in {plan.label for plan in plans}:
        if sum(plan.label == label for plan in plans) > 1:
            raise CommandError(f"pod {label} is in more than one of the manifests")
    return plans


def _document_form(output: Format) -> Format:
    return Format.YAML if output is Format.TABLE else output


def _requests(plan: PodPlan) -> dict[str, Any]:
    return {
        "runtimeHandler": plan.handler,
        "sandbox": as_dict(plan.sandbox),
        "initContainers": [as_dict(container.config) for container in plan.init_containers],
        "containers": [as_dict(container.config) for container in plan.containers],
    }


async def _clear_names(connection: Connection, plans: list[PodPlan], dirs: Dirs, *, replace: bool) -> None:
    """Refuse pods whose names are taken, or remove those who have them."""
    existing = await lookup.pods(connection)
    for plan in plans:
        for pod in existing:
            same_name = (pod.metadata.namespace, pod.metadata.name) == (plan.namespace, plan.name)
            if not same_name and pod.metadata.uid != plan.uid:
                continue
            if not (replace and same_name):
                state = "runs" if pod.state == SANDBOX_READY else "is there, stopped"
                raise CommandError(
                    f"pod {lookup.pod_label(pod)} {state}; remove it with crib rm, or use --replace"
                )
            if pod.state == SANDBOX_READY:
                await client_pods.stop(connection, pod.id, await lifecycle.grace_of(connection, pod))
            await lifecycle.remove_pod(connection, pod, dirs)


class PodRun:
    """One pod's start, step by step; what was made is taken back when a step fails (unless `keep`)."""

    def __init__(self, connection: Connection, plan: PodPlan, dirs: Dirs, *, keep: bool) -> None:
        self._connection = connection
        self._plan = plan
        self._dirs = dirs
        self._keep = keep
        self._pod: Pod | None = None

    async def start(self) -> Pod:
        """Do everything; gives the pod when its containers have been started."""
        plan = self._plan
        volumes.make(plan, self._dirs)
        try:
            await PodImages(self._connection, plan).bring()
            self._pod = await client_pods.run_sandbox(self._connection, plan.sandbox, plan.handler)
            for container in plan.init_containers:
                await self._init(container)
            for container in plan.containers:
                await self._start(container)
        except BaseException as error:
            await self._take_back(error)
            raise
        return self._pod

    async def _start(self, plan: ContainerPlan) -> str:
        assert self._pod is not None
        volumes.bind_sub_paths(plan)
        try:
            container_id = await client_pods.create_container(self._connection, self._pod, plan.config)
            await client_pods.start_container(self._connection, container_id)
        except ClientError as error:
            error.args = (f"container {plan.name}: {error.message}",)
            raise
        return container_id

    async def _init(self, plan: ContainerPlan) -> None:
        container_id = await self._start(plan)
        if plan.sidecar:
            return
        status = await events.wait_exited(self._connection, container_id)
        if status.exit_code == 0:
            return
        for line in _last_lines(status.log_path):
            say(f"  {plan.name}: {line}")
        reason = f" ({status.reason})" if status.reason not in ("", "Error") else ""
        raise CommandError(
            f"pod {self._plan.label}: init container {plan.name} exited with {status.exit_code}{reason}"
        )

    async def _take_back(self, error: BaseException) -> None:
        """Remove what was made. Also when the command was interrupted, hence the shield."""
        if self._keep and isinstance(error, Exception):
            if self._pod is not None:
                say(f"kept pod {self._plan.label} ({short_id(self._pod.id)}); remove it with crib rm --force")
            return
        await asyncio.shield(self._discard())

    async def _discard(self) -> None:
        failure = await client_pods.discard(self._connection, self._pod.id) if self._pod else None
        if failure is not None:
            say(f"crib: could not remove the remains of pod {self._plan.label}: {failure}")
            return
        try:
            volumes.remove(self._dirs, self._plan.uid)
        except OSError as error:
            say(f"crib: could not remove {self._plan.directory}: {error}")


def _last_lines(path: str) -> list[str]:
    try:
        lines = list(logs.read(path, logs.WantedLines(tail=LAST_LINES)))
    except ClientError:
        return []
    return [line.content.decode(errors="replace") for line in lines]


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
