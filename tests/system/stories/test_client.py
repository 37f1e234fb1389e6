"""The client library with real runtimes: the suite of the contract, and what only one of them can do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crib.client import SyncClient
from tests.contract.cri_contract import CriContract, RuntimeUnderTest
from tests.system.labs.containerd_lab import Containerd, running_containerd
from tests.system.labs.daemon import IMAGE, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as found:
        yield found


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with running_containerd() as found:
        yield found


class TestCribd(CriContract):
    @pytest.fixture
    def runtime(self, cribd: Cribd) -> Iterator[RuntimeUnderTest]:
        before = cribd.leftovers()
        with SyncClient(str(cribd.socket)) as client:
            yield RuntimeUnderTest(client, IMAGE)
        cribd.settle(before)


class TestContainerd(CriContract):
    @pytest.fixture
    def runtime(self, containerd: Containerd) -> Iterator[RuntimeUnderTest]:
        with SyncClient(containerd.endpoint) as client:
            yield RuntimeUnderTest(client, IMAGE, host_network=True, has_events=False)
            assert client.pods() == []
