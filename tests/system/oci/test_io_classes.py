"""Classes of block I/O: what an annotation of the pod names is in the container's cgroup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.model.errors import InvalidRequest
from tests.system.labs.oci_pods import FOREVER, cgroup_of, config, pod, running
from tests.system.labs.oci_setup import OciLab, oci_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

DISKS = [path for path in Path("/sys/block").glob("*") if Path("/dev", path.name).is_block_device()]
KEY = "blockio.resources.beta.kubernetes.io/pod"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[OciLab]:
    file = tmp_path / "classes.yaml"
    if DISKS:
        rates = f"{{devices: [/dev/{DISKS[0].name}], throttleReadBps: 20M}}"
        file.write_text(f"classes:\n  slow: [{rates}]\n")
    async with oci_lab(blockio_config_file=str(file) if DISKS else "") as made:
        yield made


@pytest.mark.skipif(not DISKS, reason="no block device is here")
async def test_a_class_limits_the_devices_that_it_names(lab: OciLab) -> None:
    number = (DISKS[0] / "dev").read_text().strip()
    async with (
        pod(lab, annotations={KEY: "slow"}) as sandbox,
        running(lab, sandbox, config(*FOREVER)) as record,
    ):
        cgroups, cgroup = lab.environment.cgroups, cgroup_of(lab, record)
        if lab.environment.host.cgroup_layout == "v2":
            assert f"{number} rbps=20000000" in cgroups.read(cgroup, "io.max")
        else:
            assert f"{number} 20000000" in cgroups.read(cgroup, "blkio.throttle.read_bps_device")


async def test_a_class_that_is_not_there_is_refused_and_leaves_nothing(lab: OciLab) -> None:
    async with pod(lab, annotations={KEY: "fast"}) as sandbox:
        record = lab.container(sandbox, config(*FOREVER))
        try:
            with pytest.raises(InvalidRequest, match="no block I/O class 'fast'"):
                await lab.create(record, sandbox)
        finally:
            await lab.handler.containers.delete(record)
