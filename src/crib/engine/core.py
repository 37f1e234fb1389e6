"""What the verbs share: tables, locks, ports, events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from crib.engine.admission import Admission, Claim, usual_places
from crib.engine.beforehand import Beforehand
from crib.engine.endings import Ends
from crib.engine.events import EventBus
from crib.engine.figures import VerbFigures
from crib.engine.handlers import HandlerTable
from crib.engine.history import History
from crib.engine.hooks import Hooks
from crib.engine.locks import Locks
from crib.engine.notices import Notices
from crib.engine.plugins.telling import PluginMoments, Showing
from crib.engine.retries import Retries
from crib.engine.tables import Table
from crib.engine.timeline import SandboxTimeline
from crib.engine.timelines import Timelines
from crib.engine.transitions import pod_name
from crib.model.caller import CallObject
from crib.model.container import ContainerRecord
from crib.model.errors import FieldOf, InvalidRequest, NotFound, Unavailable
from crib.model.events import ContainerEvent, EventKind, EventType, PodTimeline
from crib.model.facts import HostFacts, Vitals
from crib.model.ids import ContainerId, HandlerName, SandboxId
from crib.model.lifecycle import is_listed
from crib.model.sandbox import SandboxConfig, SandboxRecord
from crib.model.settings import Settings
from crib.model.volumes import SnapshotRecord, VolumeRecord
from crib.ports.clocks import Clock
from crib.ports.configuration import ConfigurationSource
from crib.ports.extensions import ImageVerifier, LifecycleHook
from crib.ports.handler import Handler
from crib.ports.images import Images
from crib.ports.insight import Insight
from crib.ports.journal import Journal
from crib.ports.kept import KeptPods
from crib.ports.networks import PodNetwork, PodNetworks
from crib.ports.plugins import NodePlugins
from crib.ports.records import Records
from crib.ports.volumes import VolumePorts
from crib.tasks.keeper import TaskKeeper

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ports:
    """The hands that the daemon gave us."""

    handlers: Mapping[HandlerName, Handler]
    networks: PodNetworks
    images: Images
    records: Records
    journal: Journal
    clock: Clock
    insight: Insight
    configuration: ConfigurationSource
    kept: KeptPods
    volumes: VolumePorts
    vitals: Callable[[], Vitals] = Vitals
    hooks: Sequence[LifecycleHook] = ()
    verifiers: Sequence[ImageVerifier] = ()
    plugins: NodePlugins | None = None
    """None: switched off."""


def sandbox_key(config: SandboxConfig) -> tuple[str, str, str, int]:
    """What makes two RunPodSandbox calls the same sandbox (CRI PodSandboxMetadata)."""
    meta = config.metadata
    return meta.namespace, meta.name, meta.uid, meta.attempt


def sandbox_name(record: SandboxRecord) -> tuple[str, str, str, int] | None:
    """The same of a record. None: given up."""
    return None if record.abandoned else sandbox_key(record.config)


def container_name(record: ContainerRecord) -> tuple[str, str, int] | None:
    """What makes two CreateContainer calls the same container (CRI ContainerMetadata, in its sandbox)."""
    return None if record.abandoned else (record.sandbox_id, record.config.name, record.config.attempt)


class Core:
    """Shared by every verb. Lock order: a sandbox's before its containers'."""

    def __init__(self, settings: Settings, facts: HostFacts, ports: Ports) -> None:
        self.settings = settings
        """Those that hold now: to be asked each time."""
        self.followers: list[Callable[[Settings], None]] = []
        """Called with other settings once they hold, for what is made of them."""
        self.facts = facts
        self.handlers = HandlerTable(ports.handlers)
        self.ports: Ports = replace(ports, handlers=self.handlers)
        self.clock = ports.clock
        self.keeper = TaskKeeper()
        self.admission = Admission(settings.making_verbs or usual_places())
        self.events = EventBus()
        self.history = History(ports.journal, ports.clock)
        self.notices = Notices(ports.clock, partial(self.history.happened, EventKind.NODE))
        self.hooks = Hooks(ports.hooks, self.notices)
        self.figures = VerbFigures()
        self.beforehand = Beforehand(ports.clock, self.figures.stages)
        self.timeline = Timelines(ports.journal, self.notices, self._new_timeline, self._name_of)
        self.locks = Locks()
        self.ends = Ends(
            ports.journal, ports.clock, facts.boot_id, lambda key: self.containers.get(key) is not None
        )
        self.retries = Retries(self.keeper)
        records = ports.records
        records.watch(self._records_told, lambda text: self.notices.past("records", text))
        self.sandboxes: Table[SandboxRecord] = Table(sandbox_name, self._put_sandbox, self._delete_sandbox)
        self.containers: Table[ContainerRecord] = Table(
            container_name,
            self._put_container,
            self._delete_container,
            group_of=lambda row: row.sandbox_id,
        )
        self.volumes: Table[VolumeRecord] = Table(
            lambda row: row.name, records.put_volume, lambda row: records.delete_volume(row.id)
        )
        self.snapshots: Table[SnapshotRecord] = Table(
            lambda row: row.name, records.put_snapshot, lambda row: records.delete_snapshot(row.id)
        )
        showing = Showing(self.sandboxes.get, self._pod_spec, self._container_spec, self.timeline.of)
        self.plugins = PluginMoments(ports.plugins, self.keeper, showing)
        self.container_gone: Callable[[ContainerRecord], None] = lambda record: None
        """Called when nothing is left of a container: it may have been the last to need its layers."""
        self.host_ends = False
        """The host shuts down: what ends from now on does so with it, and is not recorded."""
        self._exits: dict[ContainerId, asyncio.Event] = {}

    def _new_timeline(self, kept: PodTimeline) -> SandboxTimeline:
        return SandboxTimeline(self.clock, kept, self.figures.stages)

    def _pod_spec(self, record: SandboxRecord) -> bytes:
        return self.caretaker(record).pods.made_spec(record)

    def _container_spec(self, record: ContainerRecord, sandbox: SandboxRecord) -> bytes:
        return self.caretaker(sandbox).containers.made_spec(record)

    def _name_of(self, sandbox: SandboxId) -> str:
        row = self.sandboxes.get(sandbox)
        return pod_name(row) if row is not None else ""

    def _put_sandbox(self, row: SandboxRecord) -> None:
        self.history.sandbox_moves(self.sandboxes.get(row.id), row)
        self.ports.records.put_sandbox(row)

    def _delete_sandbox(self, row: SandboxRecord) -> None:
        self.history.sandbox_moves(self.sandboxes.get(row.id), None)
        self.ports.records.delete_sandbox(row.id)

    def _put_container(self, row: ContainerRecord) -> None:
        sandbox = self.sandboxes.get(row.sandbox_id)
        self.history.container_moves(self.containers.get(row.id), row, sandbox)
        self.ports.records.put_container(row)

    def _delete_container(self, row: ContainerRecord) -> None:
        sandbox = self.sandboxes.get(row.sandbox_id)
        self.history.container_moves(self.containers.get(row.id), None, sandbox)
        self.ports.records.delete_container(row.id)

    def _records_told(self, problem: str) -> None:
        if problem:
            self.notices.fault("records", problem)
        else:
            self.notices.healed("records")

    def refuse_if_faulty(self) -> None:
        """Unavailable while something is wrong with the node: nothing new is made then.

        For every verb that makes something, before it does; for a run and a create, before they answer too.
        """
        if faults := self.notices.faults:
            text = "; ".join(f"{fault.subject}: {fault.text}" for fault in faults)
            raise Unavailable(f"nothing new is made until this fault is gone: {text}")

    def adapt(self, settings: Settings) -> None:
        """Go by these from now on; they differ from the others only in what is LIVE."""
        self.handlers.adapt(self.settings, settings)
        self.settings = settings
        self.admission.resize(settings.making_verbs or usual_places())
        self.ports.networks.adapt(settings)
        self.ports.images.adapt(settings)
        for follow in self.followers:
            follow(settings)

    def handler(self, name: str) -> tuple[HandlerName, Handler]:
        """The handler of that name, the default one for an empty name."""
        wanted = HandlerName(name or self.settings.default_handler)
        offered = self.handlers.offered
        handler = offered.get(wanted)
        if handler is None:
            known = ", ".join(sorted(offered)) or "none"
            raise InvalidRequest(
                f"no handler {wanted!r} is configured here (there is: {known})",
                field="runtime_handler",
                of=FieldOf.REQUEST,
            )
        return wanted, handler

    def handler_of(self, record: SandboxRecord) -> Handler:
        """The handler that made this sandbox, to make or start something; InvalidRequest when it is gone."""
        return self.handler(record.handler)[1]

    def caretaker(self, record: SandboxRecord | None) -> Handler:
        """Who keeps up, stops and removes what that handler made.

        The handler itself, also where it is retired; the default one where there is no such handler.
        """
        known = self.ports.handlers.get(record.handler) if record is not None else None
        return known or self.handler("")[1]

    def by_caretaker(
        self, asked: Iterable[T], sandbox_of: Callable[[T], SandboxRecord]
    ) -> list[tuple[Handler, list[T]]]:
        """The same things, grouped by who keeps up their sandboxes, for questions of many at once."""
        found: dict[int, tuple[Handler, list[T]]] = {}
        for one in asked:
            handler = self.caretaker(sandbox_of(one))
            found.setdefault(id(handler), (handler, []))[1].append(one)
        return list(found.values())

    def with_pods(self, records: Iterable[ContainerRecord]) -> list[tuple[ContainerRecord, SandboxRecord]]:
        """Each container with its sandbox, as long as that is on record."""
        both = ((record, self.sandboxes.get(record.sandbox_id)) for record in records)
        return [(record, pod) for record, pod in both if pod is not None]

    def sandbox(self, text: str) -> SandboxRecord:
        """A sandbox that callers may see, by id or a beginning of it; NotFound."""
        record = self.sandboxes.find(text)
        if record is None or not is_listed(record):
            raise NotFound(f"there is no pod sandbox {text!r}")
        return record

    def container(self, text: str) -> ContainerRecord:
        """A container that callers may see, by id or a beginning of it; NotFound."""
        record = self.containers.find(text)
        if record is None or not is_listed(record):
            raise NotFound(f"there is no container {text!r}")
        return record

    def describe(self, text: str) -> CallObject:
        """What is on record under an id or a beginning of it; nothing where that is not one thing."""
        try:
            container = self.containers.find(text)
            sandbox = self.sandboxes.find(text if container is None else container.sandbox_id)
        except InvalidRequest:
            return CallObject()
        return CallObject(
            pod=pod_name(sandbox) if sandbox else "",
            sandbox=sandbox.id if sandbox else "",
            container=container.id if container else "",
            name=container.config.name if container else "",
        )

    def containers_of(self, sandbox: SandboxId) -> tuple[ContainerRecord, ...]:
        """Every container of the sandbox, the half-made ones too."""
        return self.containers.members(sandbox)

    def pod_of(self, record: ContainerRecord) -> str:
        """NAMESPACE/NAME; empty when the pod is gone."""
        sandbox = self.sandboxes.get(record.sandbox_id)
        if sandbox is None:
            return ""
        return f"{sandbox.config.metadata.namespace}/{sandbox.config.metadata.name}"

    def claim(self, sandbox: SandboxRecord, subject: str) -> Claim:
        """For a verb that makes something in this pod; `subject` is what, in its timeline."""
        return Claim(
            sandbox.config.metadata.uid, False, lambda: self.timeline.of(sandbox.id)("queued", subject)
        )

    def known_ids(self) -> set[str]:
        """Of all sandboxes and containers on record now."""
        return {row.id for table in (self.sandboxes, self.containers) for row in table}

    def pod_network(self, record: SandboxRecord) -> PodNetwork:
        """What the network learns of this pod."""
        config, dns = record.config, record.config.dns
        handler, caretaker = self.settings.handlers.get(record.handler), self.caretaker(record)
        return PodNetwork(
            id=record.id,
            metadata=config.metadata,
            netns=caretaker.pods.netns_path(record),
            port_mappings=config.port_mappings,
            annotations=tuple(sorted(config.annotations.items())),
            dns_servers=dns.servers if dns else (),
            dns_searches=dns.searches if dns else (),
            dns_options=dns.options if dns else (),
            cgroup_parent=config.cgroup_parent,
            inside=caretaker.facts.network_inside and not config.host_network,
            conf_dir=handler.cni_conf_dir if handler else "",
        )

    def exited(self, container: ContainerId) -> asyncio.Event:
        """Set when the container's exit has been recorded. Ask before sending the signal."""
        return self._exits.setdefault(container, asyncio.Event())

    def tell_exited(self, container: ContainerId) -> None:
        event = self._exits.pop(container, None)
        if event is not None:
            event.set()

    def tell(
        self, kind: EventType, subject: str, sandbox: SandboxId, last: SandboxRecord | None = None
    ) -> None:
        """Publish an event with the states as they are now; `last` stands in for a sandbox that is gone."""
        containers = tuple(row for row in self.containers_of(sandbox) if is_listed(row))
        event = ContainerEvent(subject, kind, self.clock(), self.sandboxes.get(sandbox) or last, containers)
        self.events.publish(event)
