"""Which files beside the logs are nobody's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crib.backends.oci.odd_logs import odd_logs
from crib.model.container import ContainerState
from tests.contract.records_samples import full_container, full_sandbox


def test_logs_and_what_was_set_aside_of_them_are_the_containers_and_all_else_is_told(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    mine = (log, tmp_path / "0.log.20260101-000000", tmp_path / "0.log.20260101-000000.gz")
    odd = (tmp_path / "0.logs", tmp_path / "other", tmp_path / "0.log.d" / "file")
    (tmp_path / "0.log.d").mkdir()
    for path in (*mine, *odd):
        path.touch()
    pod = full_sandbox()
    pod = replace(pod, config=replace(pod.config, log_directory=str(tmp_path)))
    container = replace(full_container(), log_path=str(log), state=ContainerState.RUNNING)
    assert {path for path, _ in odd_logs([pod], [container])} == set(map(str, odd))
    log.unlink()
    assert (str(log), f"its file is gone: what container {container.id} writes is lost") in odd_logs(
        [pod], [container]
    )
