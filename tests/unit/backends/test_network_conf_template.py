"""The CNI configuration that is made from a template and the node's ranges."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from crib.backends.network.cni.conf_dir import ConfDirectory
from crib.backends.network.cni.conf_template import FILE_NAME, fields_of, write_conf
from crib.backends.network.pod_ranges import RANGES, ranges_of
from crib.model.errors import Broken, InvalidRequest

TEMPLATE = """{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "ptp",
    "ipam": {
      "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "cni.template"
    path.write_text(TEMPLATE, encoding="utf-8")
    return path


def test_the_fields_are_the_ranges_and_the_default_routes_of_their_families() -> None:
    assert fields_of(["fd00:1::/64", "10.1.0.0/24"]) == {
        "PodCIDR": "fd00:1::/64",
        "PodCIDRRanges": ("fd00:1::/64", "10.1.0.0/24"),
        "Routes": ["0.0.0.0/0", "::/0"],
    }
    assert fields_of(["10.1.0.0/24"])["Routes"] == ["0.0.0.0/0"]
    assert fields_of(["fd00:1::/64"])["Routes"] == ["::/0"]


def test_ranges_are_split_at_commas_and_cut_to_their_prefix() -> None:
    assert ranges_of(" 10.1.0.7/24, fd00::/64,") == ("10.1.0.0/24", "fd00::/64")
    assert ranges_of("") == ()


@pytest.mark.parametrize(
    "text", ["10.1.0.0", "10.1.0.0/33", "10.1.0.0/255.255.255.0", "all", "10.1.0.0/24,/", "fd00::%a/64x"]
)
def test_a_bad_range_is_refused_naming_the_field(text: str) -> None:
    for told in (lambda: ranges_of(text), lambda: fields_of(text.split(","))):
        with pytest.raises(InvalidRequest) as refused:
            told()
        assert refused.value.field == "pod_cidr"


def test_no_range_and_too_many_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no range"):
        fields_of([])
    with pytest.raises(InvalidRequest, match=f"more than {RANGES}"):
        ranges_of(",".join(["10.0.0.0/24"] * (RANGES + 1)))


def test_the_configuration_is_written_where_networks_are_looked_for(template: Path, tmp_path: Path) -> None:
    place = tmp_path / "etc" / "net.d"
    assert write_conf(str(template), str(place), ["10.1.0.0/24"])
    (network,) = ConfDirectory(str(place)).networks()
    assert network.path == str(place / FILE_NAME)
    assert network.conf.plugins[0].raw["ipam"]["ranges"] == [[{"subnet": "10.1.0.0/24"}]]
    assert stat.S_IMODE(os.stat(network.path).st_mode) == 0o644
    assert os.listdir(place) == [FILE_NAME]


def test_it_is_written_again_only_if_it_differs(template: Path, tmp_path: Path) -> None:
    place = tmp_path / "net.d"
    assert write_conf(str(template), str(place), ["10.1.0.0/24"])
    inode = (place / FILE_NAME).stat().st_ino
    assert not write_conf(str(template), str(place), ["10.1.0.0/24"])
    assert (place / FILE_NAME).stat().st_ino == inode
    assert write_conf(str(template), str(place), ["10.1.0.0/24", "fd00::/64"])
    ranges = json.loads((place / FILE_NAME).read_bytes())["plugins"][0]["ipam"]["ranges"]
    assert ranges == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{{.PodCidr}}", "line 1: there is no field PodCidr"),
        (b"{", "not a network: "),
        (b'{"name": "a b", "type": "ptp"}', "not a network: name 'a b'"),
        (b'{"name": "a", "plugins": [{"type": "../sh"}]}', "not a network: .*type"),
        (b"\xff", "utf-8"),
        (b" " * (1 << 17), "bytes"),
    ],
)
def test_a_template_that_makes_no_network_is_refused_and_nothing_is_written(
    template: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    template.write_bytes(content)
    with pytest.raises(Broken, match=rf"^network\.cni_conf_template {template}: .*{words}"):
        write_conf(str(template), str(tmp_path / "net.d"), ["10.1.0.0/24"])
    assert not (tmp_path / "net.d").exists()


def test_files_that_cannot_be_read_or_written_are_named(template: Path, tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"network\.cni_conf_template /nowhere: cannot be read: No such file"):
        write_conf("/nowhere", str(tmp_path), ["10.1.0.0/24"])
    (tmp_path / "net.d").touch()
    with pytest.raises(Broken, match=rf"{template}: write {tmp_path}/net.d/{FILE_NAME}: "):
        write_conf(str(template), str(tmp_path / "net.d"), ["10.1.0.0/24"])
