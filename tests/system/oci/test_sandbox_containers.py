"""A handler whose pods begin with a container that holds the others, by the setting."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from crib.backends.known_processes import is_alive
from crib.model.settings import HandlerSettings
from tests.system.labs.oci_pods import FOREVER, config, output, pod, running
from tests.system.labs.oci_setup import OciLab, oci_lab

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
async def lab() -> AsyncIterator[OciLab]:
    async with oci_lab("crun", HandlerSettings(sandbox_container="always")) as made:
        yield made


async def test_a_pod_begins_with_it_and_ends_with_it(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        assert is_alive(sandbox.infra)
        assert await lab.handler.pods.alive(sandbox)
        annotations = json.loads(lab.handler.pods.made_spec(sandbox))["annotations"]
        assert annotations["io.kubernetes.cri.container-type"] == "sandbox"
        async with running(lab, sandbox, config(*FOREVER)) as record:
            assert "catatonit" not in await output(lab, record, "ps"), "pids are each container's own"
    assert not is_alive(sandbox.infra)
