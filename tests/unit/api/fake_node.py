"""A node whose verbs do what a test tells them, for tests of the door alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from crib.engine.admission import Admission, Load
from crib.engine.checks.images import LayerCheck
from crib.engine.events import EventBus
from crib.engine.history import History
from crib.engine.images.transfers import TransferUpdate
from crib.engine.notices import Notices
from crib.engine.stats import ContainerFigures, PodFigures
from crib.engine.status import NodeStatus
from crib.engine.timeline import PodStages
from crib.model.caller import CallObject
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState, ContainerUser, ExecResult
from crib.model.errors import NotFound
from crib.model.events import PodTimeline, Stage
from crib.model.explanation import ExplainedSpec, Explanation
from crib.model.facts import (
    HandlerFacts,
    HostFacts,
    LayerMounting,
    LoopLag,
    Readiness,
    ThreadWait,
    Vitals,
)
from crib.model.ids import ContainerId, Digest, HandlerName, ImageId, SandboxId
from crib.model.image import (
    FilesystemUsage,
    ImageConfig,
    ImageDocuments,
    ImageRecord,
    Layer,
    Progress,
    PullOrder,
)
from crib.model.metrics import Metered, PodMetrics
from crib.model.plugin_status import PluginStatus
from crib.model.registry import Credential, RegistryHost
from crib.model.sandbox import (
    NetworkAttachment,
    PodMetadata,
    ProcessIdentity,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
)
from crib.model.settings import Settings
from crib.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    InterfaceUsage,
    MemoryUsage,
    NetworkUsage,
    PodUsage,
    ProcessUsage,
)
from tests.fakes.clock import ManualClock
from tests.fakes.insight import FakeInsight
from tests.fakes.journal import MemoryJournal


def sandbox(number: int = 1, **changes: Any) -> SandboxRecord:
    fields: dict[str, Any] = {
        "id": SandboxId(f"{number:04x}" + "a" * 60),
        "config": SandboxConfig(PodMetadata(f"pod{number}", f"uid{number}", "space"), labels={"app": "x"}),
        "handler": HandlerName("crun"),
        "state": SandboxState.READY,
        "created_at": 1000 + number,
        "boot_id": "boot",
        "network": NetworkAttachment(("10.88.0.2", "fd00::2")),
    }
    return SandboxRecord(**(fields | changes))


def container(number: int = 1, **changes: Any) -> ContainerRecord:
    fields: dict[str, Any] = {
        "id": ContainerId(f"{number:04x}" + "c" * 60),
        "sandbox_id": sandbox().id,
        "config": ContainerConfig(f"ctr{number}", "sha256:" + "1" * 64, user_specified_image="busybox"),
        "state": ContainerState.RUNNING,
        "created_at": 2000 + number,
        "started_at": 3000,
        "image_id": ImageId("sha256:" + "1" * 64),
        "image_ref": "docker.io/library/busybox@sha256:" + "2" * 64,
        "layers": (Digest("sha256:" + "3" * 64),),
        "log_path": "/var/log/pod/ctr.log",
        "user": ContainerUser(1000, 1000, (1000,)),
        "process": ProcessIdentity(42, 99),
    }
    return ContainerRecord(**(fields | changes))


def image(number: int = 1, **changes: Any) -> ImageRecord:
    fields: dict[str, Any] = {
        "id": ImageId(f"sha256:{number:064x}"),
        "config": ImageConfig(user="1000:1000"),
        "layers": (Layer(Digest("sha256:" + "3" * 64), Digest("sha256:" + "4" * 64), 4096),),
        "tags": (f"docker.io/library/image{number}:latest",),
        "digests": (f"docker.io/library/image{number}@sha256:" + "5" * 64,),
    }
    return ImageRecord(**(fields | changes))


USAGE = ContainerUsage(
    CgroupUsage(CpuUsage(7, 100), MemoryUsage(7, 50, 40, 30, 2, 1), processes=ProcessUsage(7, processes=3)),
    FilesystemUsage("/d", 1, 2, 7),
)

METERED = Metered(at=7_000_000_000, started_at=3_000_000_000, cgroup=USAGE.cgroup)

HOST = RegistryHost(
    "https://mirror.example/v2",
    "library/busybox",
    "hosts.toml says so",
    resolves=False,
    authorities=("PEM",),
    headers=(("X-Secret", "hidden"),),
    credential=Credential("user", "hidden", source="auth.json"),
)


EXPLANATION = Explanation(
    container().id,
    sandbox().id,
    HandlerName("crun"),
    ExplainedSpec(b'{"ociVersion": "1.0.2"}', {"/ociVersion": "handler oci_version"}),
)


class FakeNode:
    """`calls` lists the verbs that were asked for; `raises` fails every verb; `hold` makes them wait."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.events = EventBus()
        clock = ManualClock()
        self.history = History(MemoryJournal(clock), clock)
        self.notices = Notices(clock)
        self.cgroup_driver = "cgroupfs"
        self.calls: list[tuple[Any, ...]] = []
        self.raises: BaseException | None = None
        self.hold: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.sandbox_rows = {sandbox().id: sandbox()}
        self.container_rows = {container().id: container()}
        self.image_rows = {image().id: image()}
        self.admission = Admission(1)
        self.describe = self._describe
        self.insight = FakeInsight()
        self.check: Any = None
        self.plugin_statuses: Callable[[], Sequence[PluginStatus]] = tuple
        self.sandboxes = SimpleNamespace(
            run=self._verb("run", sandbox().id),
            stop=self._verb("stop sandbox"),
            remove=self._verb("remove sandbox"),
            update=self._verb("update sandbox"),
            get=self._get(self.sandbox_rows),
            list=lambda: iter(tuple(self.sandbox_rows.values())),
            spec=lambda record: b'{"linux": {"namespaces": [{"type": "network", "path": "/net"}]}}',
        )
        self.containers = SimpleNamespace(
            create=self._verb("create", container().id),
            start=self._verb("start"),
            stop=self._verb("stop"),
            remove=self._verb("remove"),
            update=self._verb("update"),
            exec_sync=self._verb("exec", ExecResult(3, b"out", b"err")),
            reopen_log=self._verb("reopen"),
            explain=self._verb("explain container", EXPLANATION),
            get=self._get(self.container_rows),
            list=lambda: iter(tuple(self.container_rows.values())),
            of_sandbox=self._of_sandbox,
            spec=lambda record: b'{"process": {"args": ["sleep"]}}',
        )
        self.images = SimpleNamespace(
            pull=self._verb("pull", image()),
            remove=self._verb("remove image"),
            fs_usage=self._verb(
                "usage", (FilesystemUsage("/data", 10, 2, 7), FilesystemUsage("/data", 5, 1, 7))
            ),
            status=lambda text: next((i for i in self.image_rows.values() if text in (i.id, *i.tags)), None),
            list=lambda: iter(tuple(self.image_rows.values())),
            import_archive=self._import,
            follow_pull=self._follow,
            documents=self._verb("documents", ImageDocuments(b'{"os": "linux"}', b"")),
            explain=self._verb("explain", ((HOST,), "signed (rule '*')")),
            export=self._verb("export", 4096),
            check=self._check,
        )
        self.streams = SimpleNamespace(
            issue_exec=self._token("issue exec"),
            issue_attach=self._token("issue attach"),
            issue_forward=self._token("issue forward"),
        )
        self.stats = SimpleNamespace(
            container=self._verb("stats", ContainerFigures(container(), USAGE)),
            containers=self._container_stats,
            pod=self._verb("pod stats", self._figures(sandbox())),
            pods=self._pod_stats,
        )
        self.metrics = SimpleNamespace(pods=self._pod_metrics)

    def _verb(self, name: str, result: Any = None) -> Any:
        async def verb(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            self.entered.set()
            if self.hold is not None:
                await self.hold.wait()
            if self.raises is not None:
                raise self.raises
            return result

        return verb

    def _token(self, name: str) -> Any:
        def issue(*arguments: Any) -> str:
            self.calls.append((name, *arguments))
            if self.raises is not None:
                raise self.raises
            return "token"

        return issue

    def _describe(self, text: str) -> CallObject:
        row = self.container_rows.get(ContainerId(text))
        if row is None:
            return CallObject(pod="space/pod1", sandbox=text) if text in self.sandbox_rows else CallObject()
        return CallObject(pod="space/pod1", sandbox=row.sandbox_id, container=text, name=row.config.name)

    def _get(self, rows: dict[Any, Any]) -> Any:
        def get(text: str) -> Any:
            if self.raises is not None:
                raise self.raises
            for key, row in rows.items():
                if key.startswith(text):
                    return row
            raise NotFound(f"there is no {text!r}")

        return get

    def _of_sandbox(self, wanted: SandboxId) -> Iterator[ContainerRecord]:
        return (row for row in self.container_rows.values() if row.sandbox_id == wanted)

    def _figures(self, record: SandboxRecord) -> PodFigures:
        interfaces = (InterfaceUsage("net1", 0, 0, 0, 0), InterfaceUsage("eth0", 1, 2, 3, 4))
        usage = PodUsage(USAGE.cgroup, network=NetworkUsage(7, interfaces))
        return PodFigures(record, usage, 6, (ContainerFigures(container(), USAGE, 5),))

    async def _container_stats(self, rows: Sequence[ContainerRecord]) -> AsyncIterator[Any]:
        """One by one, as batches; with `hold` the second has to wait."""
        for row in rows:
            yield [ContainerFigures(row, USAGE)]
            if self.hold is not None:
                await self.hold.wait()

    async def _pod_stats(self, rows: Sequence[SandboxRecord]) -> AsyncIterator[Any]:
        for row in rows:
            yield [self._figures(row)]
            if self.hold is not None:
                await self.hold.wait()

    async def _pod_metrics(self, rows: Iterable[SandboxRecord]) -> AsyncIterator[Any]:
        """One by one, as batches; with `hold` the second has to wait."""
        for row in rows:
            yield [PodMetrics(row, METERED, ((container(), METERED),))]
            if self.hold is not None:
                await self.hold.wait()

    async def _import(self, path: str, names: Sequence[str]) -> AsyncIterator[TransferUpdate]:
        self.calls.append(("import", path, names))
        await asyncio.sleep(0)
        layer = Progress("importing", "sha256:" + "4" * 64, 1, 2)
        yield TransferUpdate((Progress("importing", done=1, total=9),))
        yield TransferUpdate((layer,))
        yield TransferUpdate((layer,), (image(),), finished=True)

    async def _check(self, names: Sequence[str], *, repair: bool) -> AsyncIterator[LayerCheck]:
        self.calls.append(("check", names, repair))
        await asyncio.sleep(0)
        yield LayerCheck(Digest("sha256:" + "4" * 64), "", ("a:1",))
        yield LayerCheck(Digest("sha256:" + "5" * 64), "is torn", ("a:1", "b:1"), False, "nobody has it")
        yield LayerCheck(Digest("sha256:" + "6" * 64), "is torn", ("b:1",), True)

    async def refused_follow(self, order: PullOrder, *, start: bool) -> AsyncIterator[TransferUpdate]:
        """Instead of the usual one: no pull can be followed."""
        assert self.raises is not None
        raise self.raises
        yield  # an iterator all the same

    async def _follow(self, order: PullOrder, *, start: bool) -> AsyncIterator[TransferUpdate]:
        self.calls.append(("follow", order, start))
        await asyncio.sleep(0)
        if not start:
            raise NotFound("no pull is under way")
        layer = Progress("downloading", "sha256:" + "4" * 64, 1, 2, "mirror:5000")
        yield TransferUpdate((layer,))
        if self.raises is not None:
            raise self.raises
        yield TransferUpdate((layer,), (image(),), finished=True)

    async def status(self) -> NodeStatus:
        await asyncio.sleep(0)
        crun = HandlerFacts("crun", "/usr/bin/crun", "1.8", "1.0.2", True, True, False, kind="oci")
        runc = HandlerFacts("runc", "/usr/sbin/runc", "1.1", "1.0.2", False, False, False, kind="vm")
        return NodeStatus(
            runtime=Readiness(True),
            network=Readiness(False, "NoConflist", "no network configuration in /etc/cni/net.d"),
            handlers={HandlerName("crun"): crun, HandlerName("runc"): runc},
            default_handler=HandlerName("crun"),
            host=HostFacts(
                kernel="6.1",
                boot_id="boot",
                architecture="amd64",
                cgroup_layout="hybrid",
                cgroup_controllers=("cpu", "memory"),
                capabilities=("CAP_CHOWN",),
                oom_score_adj=0,
                may_lower_oom=True,
                apparmor=False,
                selinux=False,
                seccomp=True,
                idmapped_mounts=True,
                open_files=(1024, 4096),
                memory_bytes=1 << 30,
                swap_accounting=False,
            ),
            mounting=LayerMounting("file", 512, True),
            counts={"sandboxes": 1, "containers": 1, "containers_running": 1, "images": 1},
            verbs=Load(places=4, making=4, ending=1, overdue=0, queued=17),
            vitals=Vitals(LoopLag(2, 0.75, 0.5), (ThreadWait("foreign", "reading /mnt", "web", 31.0, True),)),
        )

    async def configure_network(self, pod_cidr: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(("configure", pod_cidr))

    def timeline(self, text: str) -> PodStages:
        if not sandbox().id.startswith(text):
            raise NotFound(text)
        return PodStages(sandbox().id, PodTimeline("default/web", self.stages(sandbox().id)))

    async def timelines(self) -> AsyncIterator[PodStages]:
        yield self.timeline("")

    def stages(self, sandbox_id: SandboxId) -> tuple[Stage, ...]:
        return (Stage("run", "", 10, 30, "ok"), Stage("attach", "bridge", 20, 5, "no address left", parent=1))
