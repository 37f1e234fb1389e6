from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.pods.files import check_pod_files, write_hosts, write_pod_files
from crib.model.errors import InvalidRequest
from crib.model.paths import Paths
from crib.model.sandbox import (
    DnsConfig,
    NetworkAttachment,
    SandboxRecord,
)
from tests.unit.ocispec.inputs_for_tests import sandbox


def pod(tmp_path: Path, **fields: object) -> tuple[Paths, SandboxRecord]:
    record = sandbox()
    record = replace(record, config=replace(record.config, **fields))  # type: ignore[arg-type]
    paths = Paths(f"{tmp_path}/d", f"{tmp_path}/s")
    os.makedirs(paths.sandbox(record.id))
    return paths, record


def test_pod_files_are_written(tmp_path: Path) -> None:
    paths, record = pod(tmp_path, dns=DnsConfig(("1.1.1.1",), ("a", "b"), ("ndots:5",)))
    write_pod_files(paths, record)
    assert Path(paths.etc(record.id, "hostname")).read_text() == "web-0\n"
    expected = "nameserver 1.1.1.1\nsearch a b\noptions ndots:5\n"
    assert Path(paths.etc(record.id, "resolv.conf")).read_text() == expected


def test_hosts_learn_the_address_once(tmp_path: Path) -> None:
    paths, record = pod(tmp_path)
    write_pod_files(paths, record)
    path = Path(paths.etc(record.id, "hosts"))
    assert "web-0" not in path.read_text()
    attached = replace(record, network=NetworkAttachment(("10.0.0.5", "fd00::5")))
    write_hosts(paths, attached)
    assert "10.0.0.5\tweb-0\nfd00::5\tweb-0\n" in path.read_text()
    before = path.stat().st_ino
    write_hosts(paths, attached)
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hostname": "a b"}, "hostname"),
        ({"hostname": "x" * 65}, "hostname"),
        ({"dns": DnsConfig(("1.1.1.1\nnameserver 6.6.6.6",))}, "dns_config.servers[0]"),
        ({"dns": DnsConfig((), ("ok", ""))}, "dns_config.searches[1]"),
    ],
)
def test_lines_cannot_be_smuggled_into_pod_files(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_pod_files(replace(sandbox().config, **fields))  # type: ignore[arg-type]
    assert caught.value.field == field
