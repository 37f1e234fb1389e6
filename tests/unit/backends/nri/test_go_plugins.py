"""A plugin of the NRI project, with its own stub in Go.

It is built elsewhere: CRIB_NRI_PLUGINS names a directory with the program `template`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from crib.backends.nri import synchronizing
from crib.model.nri_settings import NriSettings
from crib.model.plugins import ContainerMoment, PodMoment, ShownNode
from crib.model.resource_change import ResourceChange
from tests.plugin_lab import Begin, LabHost, no_stage, shown_container, until

DIRECTORY = os.environ.get("CRIB_NRI_PLUGINS", "")
pytestmark = pytest.mark.skipif(not DIRECTORY, reason="CRIB_NRI_PLUGINS names no directory")


@pytest.fixture
def template(settings: NriSettings) -> Path:
    Path(settings.plugin_dir).mkdir()
    path = Path(settings.plugin_dir, "10-template")
    shutil.copy(f"{DIRECTORY}/template", path)
    return path


async def test_it_takes_part_in_everything(template: Path, begin: Begin, host: LabHost) -> None:
    plugins = await begin()
    (status,) = plugins.statuses()
    assert (status.name, status.state, status.starts) == ("10-template", "ready", 1)
    assert status.version.startswith("v0.")
    pod, container = shown_container()
    await plugins.pod(PodMoment.RUN, pod, no_stage)
    await plugins.create(pod, container, no_stage)
    for moment in ContainerMoment:
        await plugins.container(moment, pod, container, no_stage)
    await plugins.update(pod, container, ResourceChange(memory_limit=1 << 20), no_stage)
    await plugins.stop(pod, container, no_stage)
    for about in (PodMoment.UPDATE, PodMoment.POST_UPDATE, PodMoment.STOP, PodMoment.REMOVE):
        await plugins.pod(about, pod, no_stage)
    (status,) = plugins.statuses()
    assert (status.state, status.failures) == ("ready", 0)
    assert status.calls == 2 + len(status.events)
    assert host.notes == {}


async def test_it_puts_a_synchronization_in_parts_together(
    template: Path,
    begin: Begin,
    host: LabHost,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(synchronizing, "PART_BYTES", 64 << 10)
    shown = [shown_container(str(number)) for number in range(1000)]
    host.node = ShownNode(tuple(pod for pod, _ in shown), tuple(one for _, one in shown))
    plugins = await begin()
    (status,) = plugins.statuses()
    assert status.state == "ready"
    found = re.search(r"knows 1000 pods and 1000 containers, by (\d+) messages", caplog.text)
    assert found is not None
    assert int(found.group(1)) > 3
    await until(lambda: "(1000 pods, 1000 containers)" in caplog.text)  # as the plugin says
