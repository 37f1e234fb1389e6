"""Signals, differences, ids, errors."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.model.errors import (
    REGISTRY_UNAVAILABLE,
    CribError,
    FieldOf,
    InvalidRequest,
    NotFound,
    Unavailable,
    below,
)
from crib.model.ids import is_digest, is_id, new_container_id, new_sandbox_id
from crib.model.paths import Paths
from crib.model.signals import CRI_SIGNALS, cri_signal, signal_number, stop_signal

_CRI = json.loads((Path(__file__).parents[2] / "architecture" / "cri_v1.json").read_text())


def test_signals_are_numbered_as_in_the_cri() -> None:
    enum = {number: name for name, number in _CRI["enums"]["Signal"].items()}
    assert len(enum) == len(CRI_SIGNALS)
    for number, name in enumerate(CRI_SIGNALS[1:], start=1):
        spoken = name.replace("+", "PLUS").replace("-", "MINUS")
        assert enum[number] == f"SIGNAL_SIG{spoken}"


@pytest.mark.parametrize("name", CRI_SIGNALS[1:])
def test_every_signal_of_the_cri_has_a_number_here_and_goes_back(name: str) -> None:
    number = signal_number(name)
    assert number == signal_number(f"SIG{name}") == signal_number(name.lower())
    assert 1 <= number <= 64
    assert signal_number(CRI_SIGNALS[cri_signal(number)]) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("15", 15),
        ("SIGTERM", 15),
        ("term", 15),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1),
        ("RTMIN", signal.SIGRTMIN),
        ("0", 0),
        ("65", 0),
        ("-1", 0),
        ("RTMIN+99", 0),
        ("RTMAX-99", 0),
        ("RTMIN+", 0),
        ("RTMIN-1", 0),
        ("", 0),
        ("NOSUCH", 0),
        ("١٥", 0),
        ("9" * 10_000, 0),
        ("RTMIN+" + "1" * 10_000, 0),
    ],
)
def test_a_signal_is_read_by_name_or_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@given(st.text(max_size=30))
def test_whatever_an_image_says_gives_a_signal_that_can_be_sent(text: str) -> None:
    assert 1 <= stop_signal(0, text) <= 64


def test_the_containers_stop_signal_goes_before_the_images_and_sigterm_is_the_last_resort() -> None:
    assert stop_signal(8, "SIGQUIT") == signal.SIGHUP
    assert stop_signal(0, "SIGQUIT") == signal.SIGQUIT
    assert stop_signal(0, "") == stop_signal(0, "nonsense") == stop_signal(999, "") == signal.SIGTERM
    assert cri_signal(0) == cri_signal(99) == 0


def test_new_ids_are_64_hex_digits_and_differ() -> None:
    ids = {new_sandbox_id() for _ in range(50)} | {new_container_id() for _ in range(50)}
    assert len(ids) == 100
    assert all(is_id(text) for text in ids)


@given(st.text(max_size=80))
def test_only_hex_of_the_right_length_is_an_id_or_a_digest(text: str) -> None:
    hexadecimal = all(letter in "0123456789abcdef" for letter in text)
    assert is_id(text) == (hexadecimal and len(text) == 64)
    assert not is_digest(text) or is_id(text.removeprefix("sha256:"))


@pytest.mark.parametrize(
    "text", ["", "a" * 63, "a" * 65, "A" * 64, "a" * 63 + "\n", "a" * 64 + "\n", "../" * 21]
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert not is_id(text)
    assert not is_digest(f"sha256:{text}")


def test_an_error_says_its_field_and_the_reason_that_the_kubelet_looks_for() -> None:
    assert str(InvalidRequest("is empty", field="metadata.name")) == "metadata.name: is empty"
    error = Unavailable("no answer from a.b", reason=REGISTRY_UNAVAILABLE)
    assert str(error) == "RegistryUnavailable: no answer from a.b"
    assert (error.message, error.reason) == ("no answer from a.b", REGISTRY_UNAVAILABLE)


def test_each_who_shares_an_error_puts_its_own_place_before_the_field() -> None:
    shared = NotFound("is not here", field="cpu_quota", reason=REGISTRY_UNAVAILABLE)

    def placed(*places: str) -> CribError:
        try:
            with contextlib.ExitStack() as stack:
                for place in places:
                    stack.enter_context(below(place))
                raise shared
        except NotFound as error:
            return error

    assert placed("linux").message == "linux.cpu_quota: is not here"
    assert placed("config", "linux.resources").field == "config.linux.resources.cpu_quota"
    assert placed("config", "linux.resources").reason == REGISTRY_UNAVAILABLE
    assert shared.field == "cpu_quota"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidRequest("bad", field="tty"), "config.tty: bad"),
        (InvalidRequest("bad", field="annotations[a]", of=FieldOf.POD), "sandbox_config.annotations[a]: bad"),
        (InvalidRequest("bad", field="runtime_handler", of=FieldOf.REQUEST), "runtime_handler: bad"),
        (InvalidRequest("bad"), "bad"),
    ],
)
def test_a_field_gets_the_place_of_its_own_noun(error: CribError, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught, below("config", pod="sandbox_config"), below(""):
        raise error
    assert caught.value.message == message


def test_every_path_of_a_noun_lies_below_the_roots_and_differs() -> None:
    paths = Paths("/data", "/state")
    sandbox, container = new_sandbox_id(), new_container_id()
    found = [
        paths.sandbox(sandbox),
        paths.namespace(sandbox, "net"),
        paths.shm(sandbox),
        paths.etc(sandbox, "hosts"),
        paths.container(container),
        paths.rootfs(container),
        paths.writable_layer(container),
        paths.exit_file(container),
    ]
    assert len(set(found)) == len(found)
    assert all(path.startswith(("/data/", "/state/")) for path in found)
