"""Profiles that ask an agent (SCMP_ACT_NOTIFY), which is the administrator's."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.model.container import ContainerSecurity
from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import ProfileType, SecurityProfile
from tests.fakes.world import bounded
from tests.system.labs.oci_pods import OWN_PIDS, config, pod, running
from tests.system.labs.oci_setup import PodLab
from tests.system.labs.oci_streams import Box, box, comes_true
from tests.system.labs.seccomp_agent import seccomp_agent
from tests.system.labs.shim_setup import pod_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

TRY = ("sh", "-c", "mkdir /made 2>&1; true")


@pytest.fixture(params=["crun", "runc", "shim of crun", "shim of runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[PodLab]:
    async with pod_lab(request.param) as made:
        yield made


def asking(tmp_path: Path, **more: str) -> ContainerSecurity:
    """An agent is asked for directories that are to be made."""
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], **more}
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    return ContainerSecurity(
        namespaces=OWN_PIDS, seccomp=SecurityProfile(ProfileType.LOCALHOST, f"localhost/{path}")
    )


LATER = "until [ -e /go ]; do sleep 0.02; done; mkdir /made 2>/told; mv /told /said; sleep 1000"


async def test_an_agent_decides_for_containers_and_for_commands(lab: PodLab, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    security = asking(tmp_path, listenerPath=str(path), listenerMetadata="for the agent")
    async with (
        bounded(),
        seccomp_agent(path, errno.EDQUOT) as agent,
        box(lab, "sh", "-c", LATER, security=security) as made,
    ):
        assert "Disk quota exceeded" in await made.run(*TRY)
        assert {state["metadata"] for state in agent.states} == {"for the agent"}
        root = inside(made)
        (root / "go").touch()
        await comes_true((root / "said").exists)
        assert "Disk quota exceeded" in (root / "said").read_text()
        assert len(agent.states) == 2, "one of the container, and one of the command"


async def test_without_its_agent_what_it_would_be_asked_fails_and_nothing_new_is_started(
    lab: PodLab, tmp_path: Path
) -> None:
    path = tmp_path / "agent"
    security = asking(tmp_path, listenerPath=str(path))
    async with (
        bounded(),
        seccomp_agent(path, errno.EDQUOT) as agent,
        box(lab, "sh", "-c", LATER, security=security) as made,
    ):
        agent.close()
        root = inside(made)
        (root / "go").touch()
        await comes_true((root / "said").exists)
        assert "Function not implemented" in (root / "said").read_text()
        with pytest.raises(Broken, match=rf"seccomp.*{path}"):
            await made.exec(*TRY)
        with pytest.raises(Broken, match=rf"seccomp.*{path}"):
            async with running(lab, made.sandbox, config("true", security=security)):
                pass


async def test_a_profile_that_asks_an_agent_and_names_none_is_refused(lab: PodLab, tmp_path: Path) -> None:
    async with bounded(), pod(lab) as sandbox:
        wanted = config("true", security=asking(tmp_path))
        with pytest.raises(InvalidRequest, match="SCMP_ACT_NOTIFY asks an agent, and listenerPath is ''"):
            async with running(lab, sandbox, wanted):
                pass


def inside(made: Box) -> Path:
    assert made.record.process is not None
    return Path(f"/proc/{made.record.process.pid}/root")
