"""Names and values of sysctls, and which namespace they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.host import sysctls


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
    ],
)
def test_dots_and_slashes_name_the_same_file(name: str, path: str) -> None:
    assert sysctls.sysctl_path(name) == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "net..ipv4",
        "net/../kernel/core_pattern",
        "net.ipv4/../x",
        "/kernel/core_pattern",
        "net/",
        "net.ipv4.a+kernel.core_pattern",
        "net.ipv4.a=1",
        "net ipv4",
        "net.ipv4\n",
        "net.\0",
        "a." * 200,
    ],
)
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sysctl name"):
        sysctls.sysctl_path(name)


@given(st.text(alphabet="abz09_-./+ \n", max_size=40))
def test_no_name_leads_out_of_proc_sys(name: str) -> None:
    try:
        path = sysctls.sysctl_path(name)
    except ValueError:
        return
    parts = path.split("/")
    assert "" not in parts
    assert "." not in parts
    assert ".." not in parts


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("kernel.shmmax", "ipc"),
        ("kernel.shm_rmid_forced", "ipc"),
        ("kernel.msgmax", "ipc"),
        ("kernel.sem", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("fs/mqueue/msg_max", "ipc"),
        ("net.core.somaxconn", "net"),
        ("kernel.core_pattern", None),
        ("kernel.hostname", None),
        ("kernel.domainname", None),
        ("vm.swappiness", None),
        ("fs.file-max", None),
        ("network.x", None),
    ],
)
def test_the_namespace_of_a_sysctl(name: str, namespace: str | None) -> None:
    assert sysctls.required_namespace(name) == namespace


def test_a_value_is_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "x").touch()
    sysctls.write_sysctl("net.x", "4 5\t6", proc_sys=str(tmp_path))
    assert sysctls.read_sysctl("net.x", proc_sys=str(tmp_path)) == "4 5\t6"


@pytest.mark.parametrize("value", ["1\n2", "1\0", "\x1b", "é", "1" * 5000])
def test_a_value_of_more_than_a_line_of_text_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="value of sysctl x"):
        sysctls.write_sysctl("x", value, proc_sys=str(tmp_path))
    assert (tmp_path / "x").read_bytes() == b""


def test_an_unknown_sysctl_is_named_by_its_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        sysctls.write_sysctl("net.nothing", "1", proc_sys=str(tmp_path))
    assert caught.value.filename == f"{tmp_path}/net/nothing"
    assert not (tmp_path / "net").exists()
