"""Every metric of the daemon moves when what it counts happens, and has a bounded number of series."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crib.engine import gauges
from crib.engine.events import QUEUE_LIMIT
from crib.model.errors import CribError
from crib.model.events import ContainerEvent, EventType
from crib.model.facts import LoopLag, ThreadWait, Vitals, WorkerFigures
from crib.model.ids import SandboxId
from crib.model.plugin_status import PluginState, PluginStatus
from crib.model.settings import LogSettings
from crib.model.tallies import LIMIT, CallFigures, Tally
from crib.observe import logs
from crib.observe.exposition import answer
from crib.observe.families import FAMILIES, PROCESS, read
from crib.observe.reading import Sources
from tests.fakes.world import World, bounded, pod_config, until
from tests.unit.engine.volume_orders import published

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: crib\r\n\r\n"


class Lab:
    """An engine with fakes for hands, and the page that tells of it."""

    def __init__(self) -> None:
        self.world = World()
        self.vitals = Vitals()
        self.calls, self.streams = CallFigures(), Tally()
        self.connections, self.is_ready = 0, False
        self.spans: dict[str, int] = {}
        self._see(self.world)

    def _see(self, world: World) -> None:
        core = world.node._core
        core.ports = replace(core.ports, vitals=lambda: self.vitals)

    async def restarted(self, *faults: str) -> None:
        """The next daemon, with these faults of its handler."""
        await self.world.restarted(start=False)
        self._see(self.world)
        for fault in faults:
            self.world.handler.failpoints.set(fault)
        async with bounded():
            await self.world.node.start()
            await self.world.node.settled()

    def page(self) -> str:
        sources = Sources(
            node=self.world.node,
            version="9.9",
            is_ready=lambda: self.is_ready,
            calls=self.calls,
            streams=self.streams,
            connections=lambda: self.connections,
            log=logs.FIGURES,
            spans=lambda: self.spans,
        )
        head, _, body = answer(REQUEST, read(sources)).decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.0 200 OK"), head
        return body

    def total(self, name: str) -> float:
        """Of all series of a metric; of a histogram how many it has seen."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
            if sample.name in (name, f"{name}_count")
        )


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab()
    await lab.world.start()
    yield lab
    await lab.world.close()


async def a_pods_life(lab: Lab) -> None:
    pod = await lab.world.pod()
    await lab.world.running(pod)
    async with bounded():
        await lab.world.node.sandboxes.remove(pod)


async def a_pod(lab: Lab) -> None:
    await lab.world.running(await lab.world.pod())


async def an_exit(lab: Lab) -> None:
    container = await lab.world.running(await lab.world.pod())
    lab.world.handler.host.finish(container, 3)
    await until(lambda: lab.world.node.containers.get(container).exit_code == 3)


async def a_pod_without_a_network(lab: Lab) -> None:
    lab.world.networks.failpoints.set("attach=1*error(no address is left)")
    with pytest.raises(CribError):
        await lab.world.pod()


async def a_stage_that_fails(lab: Lab) -> None:
    lab.world.handler.failpoints.set("start_pod=1*error(no program)")
    with pytest.raises(CribError):
        await lab.world.pod()


async def a_teardown_that_fails(lab: Lab) -> None:
    pod = await lab.world.pod()
    lab.world.handler.failpoints.set("stop_pod=error(busy)")
    with suppress(CribError):
        await lab.world.node.sandboxes.remove(pod)


async def two_callers(lab: Lab) -> None:
    held = lab.world.handler.failpoints.hold("prepare_pod")
    keeper, run = lab.world.node.keeper, lab.world.node.sandboxes.run
    first, second = (keeper.start("a caller", run(pod_config(), "")) for _ in range(2))
    async with bounded():
        await held.reached.wait()
        await until(lambda: bool(keeper.joined.counts))
        held.release.set()
        assert await first == await second


async def a_verb_that_hangs(lab: Lab) -> None:
    held = lab.world.handler.failpoints.hold("prepare_pod")
    lab.world.node.keeper.start("a caller", lab.world.node.sandboxes.run(pod_config(), ""))
    async with bounded():
        await held.reached.wait()


async def a_pull(lab: Lab) -> None:
    await lab.world.pulled()


async def a_pull_that_fails(lab: Lab) -> None:
    with pytest.raises(CribError):
        await lab.world.pulled("registry.example/nothing:here")


async def a_restart(lab: Lab) -> None:
    await a_pod(lab)
    await lab.restarted()


async def a_restart_that_fails(lab: Lab) -> None:
    await a_pod(lab)
    await lab.restarted("observe=error(no answer)")


async def a_fault(lab: Lab) -> None:
    lab.world.node._core.notices.fault("records", "the disk is full")


async def a_slow_reader(lab: Lab) -> None:
    events = lab.world.node.events
    events.subscribe()
    for number in range(QUEUE_LIMIT + 1):
        events.publish(ContainerEvent(str(number), EventType.CREATED, 0, None, ()))


async def a_reader(lab: Lab) -> None:
    lab.world.node.events.subscribe()


async def readiness(lab: Lab) -> None:
    lab.is_ready = True


async def a_call(lab: Lab) -> None:
    lab.calls.open.add(("Version",))
    lab.calls.answered.add(("Version", "OK"))
    lab.calls.durations.add(("Version",), 0.1)


async def a_stream(lab: Lab) -> None:
    lab.streams.add(("exec",))
    lab.connections = 1


async def a_plugin(lab: Lab) -> None:
    lab.world.networks.programs.add(("bridge", "ADD"), 0.1, failed=True)


async def a_worker(lab: Lab) -> None:
    lab.world.images.worker = WorkerFigures(7, requests=1, starts=2, deaths=1)


async def trouble(lab: Lab) -> None:
    wait = ThreadWait("foreign", "reading /mnt", "/mnt", 40.0, True)
    lab.vitals = Vitals(LoopLag(1, 0.5, 0.5), (wait,), {"crun": 3})


async def spans(lab: Lab) -> None:
    lab.spans = {"exported": 3}


async def a_line_in_the_log(lab: Lab) -> None:
    logs.set_up(LogSettings())
    try:
        logging.getLogger("crib.test").warning("something")
    finally:
        root = logging.getLogger()
        for handler in [one for one in root.handlers if isinstance(one, logs._Handler)]:
            root.removeHandler(handler)
        logging.captureWarnings(False)


async def a_node_plugin(lab: Lab) -> None:
    plugins, name = lab.world.plugins, "10-topology"
    plugins.known = (PluginStatus(name, PluginState.READY, since=1, pid=7, installed=False),)
    with suppress(ValueError), plugins.figures.calls.timed(name, "CreateContainer"):
        raise ValueError
    figures = plugins.figures
    for tally in (figures.timeouts, figures.dropped, figures.updates, figures.evictions):
        tally.add((name,))


async def a_volume(lab: Lab) -> None:
    await published(lab.world)


async def a_volume_that_fails(lab: Lab) -> None:
    lab.world.volumes.kind.failpoints.set("create=1*error(no space)")
    with suppress(CribError):
        await published(lab.world)


async def a_storage_driver(lab: Lab) -> None:
    figures = lab.world.volumes.drivers.figures
    figures.calls.add(("nfs.csi.k8s.io", "NodePublishVolume"), 0.1, failed=False)
    figures.answers.add(("nfs.csi.k8s.io", "NodePublishVolume", "OK"))


WHAT_MOVES: dict[str, Callable[[Lab], Awaitable[None]]] = {
    "crib_ready": readiness,
    "crib_faults": a_fault,
    "crib_calls_total": a_call,
    "crib_call_duration_seconds": a_call,
    "crib_calls_open": a_call,
    "crib_joins_total": two_callers,
    "crib_verbs": a_verb_that_hangs,
    "crib_stage_duration_seconds": a_pods_life,
    "crib_stage_failures_total": a_stage_that_fails,
    "crib_work_stuck": a_verb_that_hangs,
    "crib_pods": a_pod,
    "crib_containers": a_pod,
    "crib_container_exits_total": an_exit,
    "crib_pull_duration_seconds": a_pull,
    "crib_pull_failures_total": a_pull_that_fails,
    "crib_pulled_bytes_total": a_pull,
    "crib_images": a_pull,
    "crib_layers": a_pull,
    "crib_layer_bytes": a_pull,
    "crib_image_worker_requests": a_worker,
    "crib_image_worker_starts_total": a_worker,
    "crib_image_worker_deaths_total": a_worker,
    "crib_network_operation_duration_seconds": a_pods_life,
    "crib_network_operation_failures_total": a_pod_without_a_network,
    "crib_cni_plugin_duration_seconds": a_plugin,
    "crib_cni_plugin_failures_total": a_plugin,
    "crib_streams_total": a_stream,
    "crib_stream_connections": a_stream,
    "crib_events_total": a_pods_life,
    "crib_event_subscribers": a_reader,
    "crib_event_subscribers_cut_off_total": a_slow_reader,
    "crib_recovery_duration_seconds": a_restart,
    "crib_recovery_failures_total": a_restart_that_fails,
    "crib_teardown_failures_total": a_teardown_that_fails,
    "crib_teardowns_pending": a_teardown_that_fails,
    "crib_programs_started_total": trouble,
    "crib_thread_work": trouble,
    "crib_thread_work_overdue": trouble,
    "crib_tasks": a_verb_that_hangs,
    "crib_spans_total": spans,
    "crib_loop_stalls_total": trouble,
    "crib_loop_stalled_seconds_total": trouble,
    "crib_loop_longest_stall_seconds": trouble,
    "crib_log_records_total": a_line_in_the_log,
    "crib_log_bytes_total": a_line_in_the_log,
    "crib_nri_plugins": a_node_plugin,
    "crib_nri_call_duration_seconds": a_node_plugin,
    "crib_nri_call_failures_total": a_node_plugin,
    "crib_nri_call_timeouts_total": a_node_plugin,
    "crib_nri_plugins_dropped_total": a_node_plugin,
    "crib_nri_container_updates_total": a_node_plugin,
    "crib_nri_evictions_total": a_node_plugin,
    "crib_volumes": a_volume,
    "crib_volume_uses": a_volume,
    "crib_volume_step_duration_seconds": a_volume,
    "crib_volume_step_failures_total": a_volume_that_fails,
    "crib_csi_call_duration_seconds": a_storage_driver,
    "crib_csi_calls_total": a_storage_driver,
}
CONSTANT = {"crib_build_info", "crib_verb_places"}


@pytest.mark.parametrize("family", [family.name for family in FAMILIES if family.name not in CONSTANT])
async def test_a_metric_moves(family: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "STUCK_SECONDS", 0.0)
    before = lab.total(family)
    await WHAT_MOVES[family](lab)
    assert lab.total(family) > before


def test_what_moves_names_no_other_metric() -> None:
    assert {family.name for family in FAMILIES} == WHAT_MOVES.keys() | CONSTANT


async def test_what_never_moves_is_told_from_the_start(lab: Lab) -> None:
    page = lab.page()
    assert 'crib_build_info{version="9.9"} 1.0' in page
    assert lab.total("crib_verb_places") == lab.world.node.admission.load.places


async def test_what_is_told_of_the_process_is_what_we_promise(lab: Lab) -> None:
    told = {family.name: family.type for family in text_string_to_metric_families(lab.page())}
    assert {name.removesuffix("_total"): kind for name, kind, _ in PROCESS}.items() <= told.items()


async def test_names_that_callers_choose_make_no_more_than_so_many_series(lab: Lab) -> None:
    """Registries, plugins and programs are the labels that come from outside."""
    figures = lab.world.node.figures
    for number in range(3 * LIMIT):
        name = f"registry{number}.example"
        figures.pulls.add((name,), 0.1, failed=True)
        figures.pulled.add((name,), 5)
        lab.streams.add((name,))
        lab.calls.answered.add((name, "OK"))
    for family in text_string_to_metric_families(lab.page()):
        sets = {tuple(sorted((one.labels | {"le": ""}).items())) for one in family.samples}
        bound = 4 * 256 if family.name == "crib_calls" else LIMIT
        assert len(sets) <= bound + 1, family.name


@pytest.mark.parametrize(
    ("label", "shown"), [('a"b', r"a\"b"), ("a\nb", r"a\nb"), ("a\\b", r"a\\b"), ("ü", "ü")]
)
async def test_a_label_may_hold_anything(lab: Lab, label: str, shown: str) -> None:
    lab.streams.add((label,))
    assert f'crib_streams_total{{kind="{shown}"}} 1.0' in lab.page()


async def test_a_removed_pod_is_in_no_gauge(lab: Lab) -> None:
    await a_pods_life(lab)
    assert lab.total("crib_pods") == lab.total("crib_containers") == 0


async def test_what_is_tried_again_is_pending_and_not_stuck(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "STUCK_SECONDS", 0.0)
    await a_teardown_that_fails(lab)
    await asyncio.sleep(0)
    assert lab.total("crib_teardowns_pending") == 1
    assert lab.total("crib_work_stuck") == 0


def test_the_life_of_a_sandbox_id_is_no_label() -> None:
    """Ids would make a series for each pod that ever was."""
    assert not {"id", "pod", "container", "image", "sandbox", SandboxId.__name__} & {
        label for family in FAMILIES for label in family.labels
    }
