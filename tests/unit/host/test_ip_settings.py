"""Forwarding and the parameters of interfaces, on a copy of the kernel's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.host import ip_settings


@pytest.fixture
def proc_sys(tmp_path: Path) -> Path:
    for name, accept_ra in (("all", 1), ("default", 1), ("lo", 1), ("eth0", 1), ("eth1", 0), ("eth2", 2)):
        directory = tmp_path / "net/ipv6/conf" / name
        directory.mkdir(parents=True)
        (directory / "accept_ra").write_text(f"{accept_ra}\n")
        (directory / "forwarding").write_text("0\n")
    return tmp_path


def accept_ra(proc_sys: Path) -> dict[str, str]:
    conf = proc_sys / "net/ipv6/conf"
    return {path.name: (path / "accept_ra").read_text().strip() for path in conf.iterdir()}


def test_interfaces_that_heed_advertisements_go_on_with_it_when_forwarding_begins(proc_sys: Path) -> None:
    assert ip_settings.enable_ipv6_forwarding(proc_sys=str(proc_sys)) == ["eth0"]
    expected = {"all": "1", "default": "1", "lo": "1", "eth0": "2", "eth1": "0", "eth2": "2"}
    assert accept_ra(proc_sys) == expected
    assert ip_settings.interface_option("ipv6", "all", "forwarding", proc_sys=str(proc_sys)) == 1


def test_a_host_that_forwards_already_is_left_as_it_is(proc_sys: Path) -> None:
    (proc_sys / "net/ipv6/conf/all/forwarding").write_text("1\n")
    assert ip_settings.enable_ipv6_forwarding(proc_sys=str(proc_sys)) is None
    assert accept_ra(proc_sys)["eth0"] == "1"


def test_a_kernel_without_ipv6_has_no_options_and_setting_one_is_nothing(tmp_path: Path) -> None:
    assert ip_settings.interface_option("ipv6", "eth0", "accept_ra", proc_sys=str(tmp_path)) is None
    ip_settings.set_interface_option("ipv6", "eth0", "accept_ra", 0, proc_sys=str(tmp_path))
    with pytest.raises(FileNotFoundError):
        ip_settings.set_interface_option("ipv4", "eth0", "route_localnet", 1, proc_sys=str(tmp_path))
    assert ip_settings.enable_ipv6_forwarding(proc_sys=str(tmp_path)) is None


def test_an_option_of_a_name_that_no_interface_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="interface name"):
        ip_settings.set_interface_option("ipv4", "../all", "forwarding", 1, proc_sys=str(tmp_path))
