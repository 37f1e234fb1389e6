"""What is read of this host for the recipes, where that is not the host's own to say."""

from __future__ import annotations

import pytest

from crib.backends import host_facts
from crib.host import selinux


def test_the_policy_names_the_contexts_of_containers_and_of_those_that_run_systemd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = {"process": "u:r:process_t:s0", "init_process": "u:r:init_t:s0", "file": "odd"}
    monkeypatch.setattr(selinux, "is_enabled", lambda: True)
    monkeypatch.setattr(selinux, "container_contexts", lambda: said)
    assert host_facts._contexts() == {
        "selinux_process": "u:r:process_t:s0",
        "selinux_init": "u:r:init_t:s0",
    }
