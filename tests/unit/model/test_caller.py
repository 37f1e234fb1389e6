"""How a caller is shown to a person."""

from __future__ import annotations

from crib.model.caller import Caller, Peer

KUBELET = Peer(812, 0, "/usr/bin/kubelet")


def test_a_single_peer_is_named_with_its_program() -> None:
    caller = Caller("grpc-go/1.78.0", "1f", (KUBELET,))
    assert str(caller) == "pid 812 /usr/bin/kubelet of uid 0 (request 1f, grpc-go/1.78.0)"


def test_of_several_peers_none_is_picked() -> None:
    caller = Caller("grpc-go/1.78.0", "1f", (KUBELET, Peer(90, 1000)))
    assert str(caller) == (
        "one of 2 peers: pid 812 /usr/bin/kubelet of uid 0; pid 90 of uid 1000 (request 1f, grpc-go/1.78.0)"
    )


def test_without_peers_there_is_what_the_client_calls_itself() -> None:
    assert str(Caller("crib/1.0 (process 5)", "2")) == "crib/1.0 (process 5) (request 2)"
    assert str(Caller(request="2")) == "a client without a name (request 2)"


def test_what_no_call_caused_was_done_by_the_daemon() -> None:
    assert str(Caller()) == "cribd"
