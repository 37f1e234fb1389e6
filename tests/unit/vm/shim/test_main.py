"""The shim's command line, and where it listens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crib.backends.shim.bootstrap import ShimProgram
from crib.vm.shim.main import Called, Misused, owner_of, read_arguments, socket_path


def test_flags_are_taken_as_go_takes_them() -> None:
    words = ["-namespace", "n", "--address=/a", "-publish-binary", "/p", "-id", "i", "-debug", "start"]
    assert read_arguments(words) == Called("n", "/a", "/p", "i", debug=True, command="start")
    assert read_arguments(["-id", "i", "-bundle", "/b", "delete"]).bundle == "/b"
    assert read_arguments(["-v"]).v


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "'' is no command"),
        (["-id", "i", "stop"], "'stop' is no command"),
        (["-colour", "red"], "-colour is not known"),
        (["-id"], "-id needs a value"),
        (["start"], "-id must be"),
        (["-id", "a/b", "start"], "-id must be"),
        (["-id", "i", "start", "now"], "'now' after 'start'"),
        (["-command", "x", "start"], "-command is not known"),
    ],
)
def test_what_is_not_understood_is_named(words: list[str], told: str) -> None:
    with pytest.raises(Misused, match=told):
        read_arguments(words)


def test_a_client_that_heard_no_answer_knows_where_it_listens() -> None:
    program = ShimProgram("/p", "/state/vm", "/e", "/sockets", "/bin/true")
    called = read_arguments(program.start("pod")[1:])
    assert socket_path(called, {}) in program.usual_sockets("pod")


def test_a_container_has_its_pods_shim(tmp_path: Path) -> None:
    assert owner_of(str(tmp_path), "one") == "one"
    config = tmp_path / "config.json"
    config.write_text("{}")
    assert owner_of(str(tmp_path), "one") == "one"
    config.write_text(json.dumps({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}))
    assert owner_of(str(tmp_path), "one") == "pod"
