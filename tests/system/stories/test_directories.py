"""A node whose kernel mounts no EROFS: layers are directories, and containers notice nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.system.labs.daemon import Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra='[images]\nmount_method = "directory"') as daemon:
        yield daemon


async def test_containers_run_on_directories_and_over_a_restart(cribd: Cribd) -> None:
    layers = sorted(os.listdir(cribd.data / "layers"))
    assert {name.partition(".")[2] for name in layers} == {"dir", "tree"}
    async with cribd.story() as cri:
        pod = await cri.run_pod("web")
        box = await cri.run_container(pod, "sleep", "100")
        assert await cri.sh(box, "echo new > /etc/passwd; cat /etc/passwd") == "new"
        (layer,) = (cribd.data / "layers" / name for name in layers if name.endswith(".dir"))
        assert (layer / "etc/passwd").read_text().startswith("root:")
        cribd.kill()
        cribd.start()
        async with cribd.connect() as again:
            assert await again.sh(box, "cat /etc/passwd") == "new"
            second = await again.run_container(pod, "cat", "/etc/passwd", name="second")
            assert (await again.exited(second)).exit_code == 0
            await again.remove_pod(pod)
    assert sorted(os.listdir(cribd.data / "layers")) == layers
