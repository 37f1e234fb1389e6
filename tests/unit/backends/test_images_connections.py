"""What a worker remembers of hosts, which addresses may be asked, and pauses; without a network."""

from __future__ import annotations

import ssl

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from crib.backends.images.worker.connections import HttpRequest, _pause, host_name
from crib.backends.images.worker.host_pool import HostPool, tls_context
from crib.backends.images.worker.places import address, proxy_of, redirected
from crib.model.registry import RegistryHost

ONE = RegistryHost("https://one.example/v2", "a", "")
TWO = RegistryHost("https://two.example/v2", "a", "")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_hosts_that_are_away_are_asked_last_for_a_while() -> None:
    clock = Clock()
    pool = HostPool(clock)
    pool.mark_dead(ONE, 60.0)
    pool.mark_dead(ONE, 5.0)
    assert pool.dead_last([ONE, TWO]) == [TWO, ONE]
    clock.now += 59
    assert pool.dead_last([ONE, TWO]) == [TWO, ONE]
    pool.mark_dead(TWO, 60.0)
    assert pool.dead_last([ONE, TWO]) == [ONE, TWO]
    clock.now += 2
    assert pool.dead_last([ONE, TWO]) == [ONE, TWO]
    assert not pool.is_dead(ONE)
    assert pool.is_dead(TWO)


def test_what_is_remembered_is_bounded() -> None:
    pool = HostPool(Clock())
    for number in range(2000):
        pool.hold(f"https://{number}.example", 10.0)
        pool.mark_dead(RegistryHost(f"https://{number}.example/v2", "a", ""), 10.0)
    assert len(pool._busy) == len(pool._dead) == 1000


@pytest.mark.parametrize("attempt", range(8))
def test_pauses_are_spread_and_bounded(attempt: int) -> None:
    found = {_pause(attempt, None) for _ in range(20)}
    assert len(found) > 1
    assert min(found) >= 0.25
    assert max(found) <= 16
    assert all(10 <= _pause(attempt, 10.0) <= 11.1 for _ in range(20))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/x?a=%2F", "https://one.example/x?a=%2F"),
        ("blob?sig=a%2Bb+c%3d", "https://one.example/v2/blob?sig=a%2Bb+c%3d"),
        ("https://two.example:8443/y", "https://two.example:8443/y"),
        ("//two.example/y", "https://two.example/y"),
        ("https://me:pw@two.example/y", "https://two.example/y"),
        ("/a b\u00e9", "https://one.example/a%20b%C3%A9"),
    ],
)
def test_a_redirect_leads_where_it_says(location: str, target: str) -> None:
    assert str(redirected(yarl.URL("https://one.example/v2/x"), location)) == target


@pytest.mark.parametrize(
    "location",
    ["", "http://one.example/v2/x", "file:///x", "https://[::1", "data:x"],
)
def test_a_redirect_that_leads_nowhere_is_refused(location: str) -> None:
    with pytest.raises(ValueError):
        redirected(yarl.URL("https://one.example/v2/x"), location)


@given(st.text(max_size=60) | st.text("htps:/[]@?#%.\\:0a\r\n ", max_size=30))
def test_no_address_raises_anything_else(text: str) -> None:
    try:
        url = address(text)
        again = redirected(yarl.URL("http://one.example/v2/x"), text)
    except ValueError:
        return
    assert url.scheme in ("http", "https")
    assert again.scheme in ("http", "https")
    assert url.user is None
    assert "\n" not in str(again)


def test_proxies_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_of(yarl.URL("https://one.example/")) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,.two.example,three.example:5000")
    assert proxy_of(yarl.URL("https://one.example/")) == "http://proxy.example:3128"
    assert proxy_of(yarl.URL("http://one.example/")) is None
    assert proxy_of(yarl.URL("https://sub.two.example/")) is None
    assert proxy_of(yarl.URL("https://three.example:5000/")) is None
    assert proxy_of(yarl.URL("https://three.example/")) is not None


def test_a_host_is_shown_without_user_information() -> None:
    assert host_name(RegistryHost("https://me:pw@one.example:5000/v2", "a", "")) == "one.example:5000"


def test_a_request_shows_no_secret() -> None:
    text = repr(
        HttpRequest("https://one.example/", (("Accept", "x"),), "Basic hidden", {"password": "hidden"})
    )
    assert "hidden" not in text


def test_verification_is_on_unless_it_is_skipped() -> None:
    assert tls_context(ONE, ()).verify_mode == ssl.CERT_REQUIRED
    skipped = RegistryHost("https://one.example/v2", "a", "", skip_verify=True)
    assert tls_context(skipped, ()).verify_mode == ssl.CERT_NONE


async def test_contexts_are_shared_by_hosts_that_trust_the_same() -> None:
    pool = HostPool(Clock())
    context = await pool.context(ONE, own=True)
    assert await pool.context(TWO, own=False) is context
    skipped = RegistryHost("https://one.example/v2", "a", "", skip_verify=True)
    assert await pool.context(skipped, own=True) is not context
