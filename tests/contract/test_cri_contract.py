"""The fake runtime passes the suite that real runtimes pass (tests/system/stories/test_client.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crib.client import SyncClient
from crib.testing import FakeServer
from tests.contract.cri_contract import SCRIPTS, CriContract, RuntimeUnderTest

IMAGE = "docker.io/library/busybox:test"


class TestFakeRuntime(CriContract):
    @pytest.fixture
    def runtime(self) -> Iterator[RuntimeUnderTest]:
        with FakeServer() as server, SyncClient(server.endpoint) as client:
            server.world.programs.update(SCRIPTS)
            server.world.add_image(IMAGE)
            yield RuntimeUnderTest(client, IMAGE)
            assert not server.world.pods
            assert not server.world.containers
