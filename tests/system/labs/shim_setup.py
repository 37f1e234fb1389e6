"""A private handler of kind `shim` for tests, in roots and a cgroup of its own, as `oci_setup` has them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from crib.backends.environment import HandlerOpening
from crib.backends.shim.handler import ShimHandler
from crib.backends.shim.processes import shims_of
from crib.backends.shim.task_client import NAMESPACE
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.mounts import Tmpfs, perform, unmount_tree
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import HandlerSettings, Settings
from crib.model.shim_settings import OptionValue, ShimSettings
from tests.system.labs.handler_kinds import RUNTIME
from tests.system.labs.oci_setup import (
    BOUND,
    LAYER,
    PlainLayers,
    PodLab,
    host_facts,
    make_busybox_root,
    oci_lab,
    orphans_come_here,
)


@dataclass
class ShimLab:
    """A handler, and where it works; `again` opens it as the next daemon would."""

    handler: ShimHandler
    opening: HandlerOpening
    logs: str

    @property
    def paths(self) -> Paths:
        return self.opening.paths

    async def again(self) -> ShimHandler:
        """The daemon is killed, and another begins: what it holds is let go of, nothing is told."""
        await self.handler.close()
        self.handler = await type(self.handler).open(self.opening)
        return self.handler


@contextlib.asynccontextmanager
async def shim_lab(
    options: Mapping[str, OptionValue] | None = None,
    name: str = "crun",
    runtime: str = RUNTIME,
    **settings: object,
) -> AsyncIterator[ShimLab]:
    """A lab whose state and data lie on a tmpfs of their own; all of it goes at the end."""
    shim = ShimSettings(runtime=runtime, options=options or {"BinaryName": "crun"})
    handler = HandlerSettings(kind="shim", shim=shim)
    async with lab_of(ShimHandler, handler, name, **settings) as lab:
        yield lab


@contextlib.asynccontextmanager
async def lab_of(
    kind: type[ShimHandler], handler: HandlerSettings, name: str, **settings: object
) -> AsyncIterator[ShimLab]:
    """The same of another kind that has shims."""
    top = tempfile.mkdtemp(prefix="crib-shim-")
    perform(Tmpfs(top, 512 << 20, mode=0o755))
    lower, logs = f"{top}/lower", f"{top}/logs"
    os.makedirs(lower)
    os.makedirs(logs)
    make_busybox_root(lower)
    paths = Paths(data=f"{top}/data", state=f"{top}/run")
    cgroup_root = f"/crib-test-{os.path.basename(top)}"
    made = Settings(
        data=paths.data,
        state=paths.state,
        cgroup_root=cgroup_root,
        handlers={name: handler},
        default_handler=name,
        **{"verb_timeout": BOUND, **settings},  # type: ignore[arg-type]
    )
    opening = HandlerOpening(HandlerName(name), made, paths, host_facts(), PlainLayers({LAYER: lower}))
    cgroups = Cgroups(detect_layout())
    try:
        with orphans_come_here():
            lab = ShimLab(await kind.open(opening), opening, logs)
            try:
                yield lab
            finally:
                await lab.handler.sweep(lambda: ())
                await lab.handler.close()
                left = list(shims_of(lab.handler.tools.environment.program))
        assert not left, f"shims are left: {left}"
    finally:
        await cgroups.kill(cgroup_root)
        await cgroups.remove(cgroup_root)
        unmount_tree(top)
        shutil.rmtree(top)


@contextlib.asynccontextmanager
async def pod_lab(kind: str) -> AsyncIterator[PodLab]:
    """Of kind `oci` with that runtime, or by a `shim of` it."""
    if not kind.startswith("shim of "):
        async with oci_lab(kind) as lab:
            yield lab
        return
    async with shim_lab({"BinaryName": kind.removeprefix("shim of ")}) as made:
        environment = made.handler.tools.environment
        root = f"{environment.runtime_root}/{NAMESPACE}"
        yield PodLab(made.handler, environment, made.paths, made.logs, root)
