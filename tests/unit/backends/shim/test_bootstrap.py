"""How shims are run, what they answer, and what is refused of it."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from crib.backends.shim.bootstrap import (
    ShimAddress,
    ShimProgram,
    read_answer,
    read_deleted,
    wants_all_parameters,
)
from crib.backends.shim.nouns import Typed
from crib.model.errors import Broken
from crib.stubs.shim.bootstrap_pb2 import BootstrapParams, BootstrapResult
from crib.stubs.shim.task_pb2 import DeleteResponse

SOCKET = "/run/containerd/s/abc"
OPTIONS = Typed("containerd.runc.v1.Options", b"\x32\x04crun")


def program(sockets: str = "/run/crib/shims", options: Typed | None = OPTIONS) -> ShimProgram:
    return ShimProgram(
        "/usr/bin/shim", "/run/crib/crun", "/run/crib/shims/crun.events", sockets, "/bin/true", options
    )


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (f"unix://{SOCKET}".encode(), 2),
        (f"unix://{SOCKET}\n".encode(), 2),
        (f'{{"version": 3, "address": "unix://{SOCKET}", "protocol": "ttrpc"}}\n'.encode(), 3),
        (f'{{"version": 2, "address": "unix://{SOCKET}"}}'.encode(), 2),
        (
            BootstrapResult(version=3, address=f"unix://{SOCKET}", protocol="ttrpc").SerializeToString(),
            3,
        ),
    ],
)
def test_each_form_of_the_answer_is_understood(said: bytes, version: int) -> None:
    assert read_answer(said) == ShimAddress(SOCKET, version)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"", "no unix socket with a path"),
        (b"\0/containerd-shim/crib/abc.sock", "is not understood"),
        (b"@/containerd-shim/abc.sock", "no unix socket with a path"),
        (b"unix://relative", "no unix socket with a path"),
        (b"vsock://3:1024", "no unix socket with a path"),
        (b"{", "is not understood"),
        (b'{"version": "x", "address": "y"}', "is not understood"),
        (b'{"address": "unix:///x"}', "is not understood"),
        (f'{{"version": 3, "address": "unix://{SOCKET}", "protocol": "grpc"}}'.encode(), "speaks 'grpc'"),
        (f'{{"version": 4, "address": "unix://{SOCKET}"}}'.encode(), "version 4 of the task API"),
        (b"\xff\xfe", "is not understood"),
    ],
)
def test_what_cannot_be_used_is_refused(said: bytes, problem: str) -> None:
    with pytest.raises(Broken, match=problem):
        read_answer(said)


def test_a_shim_is_run_as_containerd_runs_it() -> None:
    assert program().start("id") == (
        *("/usr/bin/shim", "-namespace", "crib", "-address", "/run/crib/crun"),
        *("-publish-binary", "/bin/true", "-id", "id", "start"),
    )
    assert program().delete("id", "/b")[-3:] == ("-bundle", "/b", "delete")
    environment = program().environment({"PATH": "/bin", "SECRET": "x"})
    assert environment["TTRPC_ADDRESS"] == "/run/crib/shims/crun.events"
    assert environment["PATH"] == "/bin"
    assert "SECRET" not in environment


def test_older_shims_read_the_options_alone() -> None:
    found = AnyMessage.FromString(program().input("id", whole=False))
    assert (found.type_url, found.value) == (OPTIONS.type_url, OPTIONS.value)
    assert program(options=None).input("id", whole=False) == b""


def test_newer_shims_read_all_parameters() -> None:
    found = BootstrapParams.FromString(program().input("id", whole=True))
    assert (found.instance_id, found.namespace, found.socket_dir) == ("id", "crib", "/run/crib/shims")
    assert found.extensions[0].value.type_url == OPTIONS.type_url


def test_a_directory_that_is_too_long_for_sockets_is_not_named() -> None:
    found = BootstrapParams.FromString(program("/run/" + "x" * 40).input("id", whole=True))
    assert not found.HasField("socket_dir")


def test_a_shim_that_wants_the_newer_input_is_understood() -> None:
    assert wants_all_parameters("shim was started through the deprecated API but was built against the new")
    assert not wants_all_parameters("mkdir /run/containerd/s: permission denied")


def test_what_a_clearing_up_says_is_an_end() -> None:
    said = DeleteResponse(pid=7, exit_status=137)
    said.exited_at.FromNanoseconds(12)
    ended = read_deleted(said.SerializeToString())
    assert (ended.code, ended.at, ended.pid) == (137, 12, 7)
    with pytest.raises(Broken, match="is not understood"):
        read_deleted(b"\xff")
