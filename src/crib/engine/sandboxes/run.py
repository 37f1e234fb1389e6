"""RunPodSandbox: a pod's namespaces, files and network, ready for containers.

look up   the handler; a sandbox of the same name (joined, returned, or refused)
intend    row CREATING: from here on the teardown finds everything by the id
act       the handler's pods.prepare, networks.attach, pods.start; node plugins hear of it
report    row READY; events CREATED and STARTED
✗         teardown_sandbox: row gone, or NOT_READY with its reason if a step of that failed too
"""

from __future__ import annotations

from dataclasses import replace

from crib.engine.admission import AdmittedJoins, Claim
from crib.engine.core import Core, sandbox_name
from crib.engine.hooks import pod_view
from crib.engine.identity import sandbox_differences
from crib.engine.retries import MAX_LEFT
from crib.engine.sandboxes.teardown import teardown_sandbox
from crib.engine.timeline import SandboxTimeline
from crib.engine.transitions import pod_name
from crib.model.errors import AlreadyExists, Exhausted, InvalidRequest
from crib.model.events import EventType
from crib.model.ids import SandboxId, new_sandbox_id
from crib.model.lifecycle import SandboxVerb, move_sandbox
from crib.model.sandbox import DnsConfig, SandboxConfig, SandboxRecord, SandboxState
from crib.ports.handler import Handler


class RunSandbox:
    """The verb; one object for the daemon's life, as it knows which runs are under way."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._joins: AdmittedJoins[SandboxId] = AdmittedJoins(core.keeper, "run sandbox", core.admission)

    async def __call__(self, config: SandboxConfig, handler: str) -> SandboxId:
        """Run a sandbox; who asks for the same one joins the work that is under way, or gets its id.

        AlreadyExists when something else is asked for under the same name (`engine.identity`).
        """
        name, chosen = self._core.handler(handler)
        record = SandboxRecord(
            id=new_sandbox_id(),
            config=config,
            handler=name,
            state=SandboxState.CREATING,
            created_at=self._core.clock(),
            boot_id=self._core.facts.boot_id,
            resolver=self._resolver(config),
        )
        key = sandbox_name(record)
        known = self._joins.running(key)
        if isinstance(known, SandboxRecord):
            _refuse_difference(record, known)
        elif (row := self._core.sandboxes.named(key)) is not None and row.state is SandboxState.READY:
            _refuse_difference(record, row)
            return row.id
        claim = Claim(config.metadata.uid, True, lambda: self._stages(record)("queued", config.metadata.name))
        return await self._joins.admitted(key, record, claim, lambda: self._run(record, chosen), record.id)

    def _stages(self, record: SandboxRecord) -> SandboxTimeline:
        stage = self._core.timeline.of(record.id)
        stage.pod = pod_name(record)
        return stage

    def _resolver(self, config: SandboxConfig) -> DnsConfig | None:
        if config.host_network or config.dns is not None:
            return None
        return self._core.ports.networks.resolver(config.metadata.namespace)

    async def _run(self, record: SandboxRecord, handler: Handler) -> SandboxId:
        core = self._core
        core.refuse_if_faulty()
        await self._clear(record)
        _refuse_crowd(core, record)
        _refuse_shared_ids(core, record)  # nothing waits from here to the row, which holds the ids
        stage = self._stages(record)
        stage.adopt(core.beforehand.take(record.config.metadata.uid))
        with stage("RunPodSandbox", record.config.metadata.name):
            core.sandboxes.put(record)
            try:
                core.refuse_if_faulty()
                async with core.hooks.around("run_pod", lambda: pod_view(record), stage):
                    record = await self._make(record, handler, stage)
                core.refuse_if_faulty()
            except BaseException as error:
                await core.plugins.never_ran(record)
                async with core.locks.of(record.id):
                    if core.sandboxes.get(record.id) is None:
                        # Abandoned, and taken away before a thread that could not be stopped made the rest.
                        record = replace(record, abandoned=True)
                    await teardown_sandbox(core, record, f"run failed: {error}")
                raise
        core.tell(EventType.CREATED, record.id, record.id)
        core.tell(EventType.STARTED, record.id, record.id)
        return record.id

    async def _make(self, record: SandboxRecord, handler: Handler, stage: SandboxTimeline) -> SandboxRecord:
        core = self._core
        await handler.pods.prepare(record, stage)
        if not record.config.host_network:
            with core.figures.network.timed("attach"):
                attachment = await core.ports.networks.attach(core.pod_network(record), stage)
            record = replace(record, network=attachment)
        record = replace(record, infra=await handler.pods.start(record, stage))
        async with core.plugins.gate.making():
            await core.plugins.runs(record)
            return core.sandboxes.put(replace(record, state=move_sandbox(record, SandboxVerb.RUN)))

    async def _clear(self, record: SandboxRecord) -> None:
        """Finish the teardown of an earlier try that failed; a sandbox that was stopped keeps its name."""
        core = self._core
        earlier = core.sandboxes.named(sandbox_name(record))
        if earlier is None:
            return
        async with core.locks.of(earlier.id):  # a stop or remove under way comes first
            known = core.sandboxes.get(earlier.id)
            if known is None:
                return
            if known.state is SandboxState.NOT_READY and not known.reason:
                raise AlreadyExists(
                    f"pod sandbox {known.id} has this name, uid and attempt and is stopped: remove it first"
                )
            failures = await teardown_sandbox(core, known, "")
            if failures:
                raise AlreadyExists(
                    f"pod sandbox {known.id} of an earlier try could not be removed: {'; '.join(failures)}"
                )


def _refuse_crowd(core: Core, record: SandboxRecord) -> None:
    """A kubelet tries forever: what hangs must not pile up with each try."""
    meta = record.config.metadata
    known = [core.sandboxes.get(key) for key in core.retries.objects()]
    left = [
        row
        for row in known
        if row is not None and row.config.metadata.uid == meta.uid and row.config.metadata.name == meta.name
    ]
    if len(left) >= MAX_LEFT:
        text = f"pod {meta.namespace}/{meta.name} has {len(left)} sandboxes that cannot be removed"
        raise Exhausted(f"{text}, one of them {left[0].id}: {left[0].reason}")


def _refuse_shared_ids(core: Core, record: SandboxRecord) -> None:
    """Two pods with ids of the node in common could read each other's files and signal each other.

    A kubelet never asks for that. A pod that was stopped has no process left, so its ids are free. What an
    earlier sandbox of the same pod holds is its own.
    """
    wanted, uid = record.config.user_namespace, record.config.metadata.uid
    if wanted is None:
        return
    for other in core.sandboxes:
        found = other.config.user_namespace
        if found is None or other.released or other.config.metadata.uid == uid:
            continue
        if kind := wanted.shared_with(found):
            metadata = other.config.metadata
            raise InvalidRequest(
                f"pod {metadata.namespace}/{metadata.name} ({other.id}) uses some of these ids of the node",
                field=f"linux.security_context.namespace_options.userns_options.{kind}[0].host_id",
            )


def _refuse_difference(wanted: SandboxRecord, known: SandboxRecord) -> None:
    """A name is taken by one sandbox only."""
    differences = sandbox_differences(wanted.config, known.config)
    if wanted.handler != known.handler:
        differences = (*differences, "runtime_handler")
    if differences:
        name = "/".join(map(str, sandbox_name(wanted) or ()))
        raise AlreadyExists(f"pod {name} exists with a different {', '.join(differences)}")
