"""The directory of CNI configurations: which networks there are, and that a change is seen."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from crib.backends.network.cni import conf_dir
from crib.backends.network.cni.conf_dir import (
    FILE_NAME,
    SETTLED_NS,
    ConfDirectory,
    NoNetworkConf,
    fields_of,
    write_conf,
)
from crib.backends.network.pod_ranges import RANGES, ranges_of
from crib.model.errors import Broken, InvalidRequest


def write(directory: Path, name: str, network: str, **changes: Any) -> Path:
    document = {"cniVersion": "1.0.0", "name": network, "plugins": [{"type": "bridge"}]} | changes
    path = directory / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def names(directory: ConfDirectory) -> list[str]:
    return [network.conf.name for network in directory.networks()]


def test_every_valid_file_is_a_network_in_lexical_order(tmp_path: Path) -> None:
    (tmp_path / "00-broken.conflist").write_text("{", encoding="utf-8")
    (tmp_path / "05-notes.txt").write_text("{}", encoding="utf-8")
    (tmp_path / "06-dir.conf").mkdir()
    os.mkfifo(tmp_path / "06-fifo.conf")
    (tmp_path / "07-gone.conf").symlink_to(tmp_path / "nowhere")
    second = write(tmp_path, "20-second.conf", "second")
    first = write(tmp_path, "10-first.conflist", "first")
    single = tmp_path / "15-single.json"
    single.write_text('{"cniVersion":"0.3.1","name":"single","type":"ptp"}', encoding="utf-8")
    directory = ConfDirectory(str(tmp_path))
    assert [(network.conf.name, network.path) for network in directory.networks()] == [
        ("first", str(first)),
        ("single", str(single)),
        ("second", str(second)),
    ]
    assert len(directory.problems) == 2
    assert "00-broken.conflist: " in directory.problems[0]
    assert "07-gone.conf: No such file" in directory.problems[1]


def test_of_two_files_with_one_network_name_the_first_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "10-a.conflist", "same", plugins=[{"type": "ptp"}])
    write(tmp_path, "20-b.conflist", "same")
    directory = ConfDirectory(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        (network,) = directory.networks()
    assert network.conf.plugins[0].type == "ptp"
    assert directory.problems[0].endswith(f"network same is already that of {tmp_path}/10-a.conflist")
    assert directory.problems[0] in caplog.text


def test_a_changed_added_or_removed_file_is_seen_at_the_next_use(tmp_path: Path) -> None:
    write(tmp_path, "10-a.conflist", "one")
    directory = ConfDirectory(str(tmp_path))
    first = directory.networks()
    assert directory.networks() is first
    write(tmp_path, "10-a.conflist", "two")  # of the same size and, likely, the same time stamp
    assert names(directory) == ["two"]
    write(tmp_path, "05-a.conflist", "earlier")
    assert names(directory) == ["earlier", "two"]
    (tmp_path / "05-a.conflist").unlink()
    assert names(directory) == ["two"]


def test_a_file_written_again_with_its_old_times_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path, "10-a.conflist", "one")
    status = path.stat()
    directory = ConfDirectory(str(tmp_path))
    assert names(directory) == ["one"]
    write(tmp_path, "10-a.conflist", "two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names(directory) == ["two"]


def test_a_torn_file_is_skipped_until_it_is_whole(tmp_path: Path) -> None:
    whole = write(tmp_path, "10-a.conflist", "one").read_bytes()
    write(tmp_path, "20-b.conflist", "two")
    directory = ConfDirectory(str(tmp_path))
    with open(tmp_path / "10-a.conflist", "wb", buffering=0) as file:
        file.write(whole[:20])
        assert names(directory) == ["two"]
        assert "10-a.conflist" in directory.problems[0]
        file.write(whole[20:])
        assert names(directory) == ["one", "two"]
        assert directory.problems == ()


def test_a_directory_that_is_made_anew_or_whose_parent_is_replaced_is_seen(tmp_path: Path) -> None:
    place = tmp_path / "etc" / "net.d"
    place.mkdir(parents=True)
    write(place, "10-a.conflist", "one")
    directory = ConfDirectory(str(place))
    assert names(directory) == ["one"]
    (tmp_path / "etc").rename(tmp_path / "old")
    with pytest.raises(NoNetworkConf, match=f"cannot read {place}: No such file"):
        directory.networks()
    place.mkdir(parents=True)
    with pytest.raises(NoNetworkConf, match="no network configuration"):
        directory.networks()
    write(place, "10-a.conflist", "two")
    assert names(directory) == ["two"]


def test_a_link_whose_target_is_replaced_is_seen(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        write(tmp_path / version, "conf", version)
    place = tmp_path / "net.d"
    place.mkdir()
    (place / "10-a.conflist").symlink_to(tmp_path / "data" / "conf")
    (tmp_path / "data").symlink_to("one")
    directory = ConfDirectory(str(place))
    assert names(directory) == ["one"]
    (tmp_path / "data").unlink()
    (tmp_path / "data").symlink_to("two")
    assert names(directory) == ["two"]


def test_files_that_have_settled_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "10-a.conflist", "one")
    directory = ConfDirectory(str(tmp_path))
    later = path.stat().st_ctime_ns + SETTLED_NS + 1
    monkeypatch.setattr("crib.backends.network.cni.conf_dir.time.time_ns", lambda: later)
    first = directory.networks()

    def never(path: str) -> bytes:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(conf_dir, "_content", never)
    assert directory.networks() is first


def test_without_a_valid_file_each_problem_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoNetworkConf, match="cannot read"):
        ConfDirectory(str(tmp_path / "none")).networks()
    directory = ConfDirectory(str(tmp_path))
    with pytest.raises(NoNetworkConf, match="no network configuration"):
        directory.networks()
    (tmp_path / "10-a.conf").write_text('{"name":"a","type":"../sh"}', encoding="utf-8")
    (tmp_path / "20-b.conf").write_text("x" * 10, encoding="utf-8")
    with pytest.raises(NoNetworkConf, match=r"10-a\.conf: .*type.*; .*20-b\.conf: "):
        directory.networks()


def test_plugins_in_the_directory_of_the_networks_name_count_and_a_change_there_is_seen(
    tmp_path: Path,
) -> None:
    write(tmp_path, "10-a.conflist", "pods")
    directory = ConfDirectory(str(tmp_path))

    def plugins() -> list[str]:
        (network,) = directory.networks()
        return [plugin.type for plugin in network.conf.plugins]

    assert plugins() == ["bridge"]
    (tmp_path / "pods").mkdir()
    assert plugins() == ["bridge"]
    (tmp_path / "pods" / "20-tuning.conf").write_text('{"type":"tuning"}', encoding="utf-8")
    assert plugins() == ["bridge", "tuning"]
    (tmp_path / "pods" / "10-sbr.conf").write_text('{"type":"sbr"}', encoding="utf-8")
    (tmp_path / "pods" / "30-other.conflist").write_text('{"type":"other"}', encoding="utf-8")
    assert plugins() == ["bridge", "sbr", "tuning"]
    (tmp_path / "pods" / "20-tuning.conf").write_text('{"type":"tunina"}', encoding="utf-8")
    assert plugins() == ["bridge", "sbr", "tunina"]
    (tmp_path / "pods" / "20-tuning.conf").write_text('{"type":', encoding="utf-8")
    with pytest.raises(NoNetworkConf, match=r"10-a\.conflist: .*/pods/20-tuning\.conf"):
        directory.networks()
    write(tmp_path, "10-a.conflist", "pods", loadOnlyInlinedPlugins=True)
    assert plugins() == ["bridge"]


def test_a_file_of_the_networks_name_is_no_directory_of_plugins(tmp_path: Path) -> None:
    write(tmp_path, "10-a.conflist", "pods")
    (tmp_path / "pods").touch()
    assert names(ConfDirectory(str(tmp_path))) == ["pods"]


def test_as_many_files_as_the_bound_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf_dir, "FILES", 2)
    (tmp_path / "00-readme.txt").touch()
    for index in range(3):
        write(tmp_path, f"1{index}-a.conflist", f"net{index}")
    assert names(ConfDirectory(str(tmp_path))) == ["net0", "net1"]


def test_a_file_that_is_too_long_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, "10-a.conflist", "long", padding="x" * (1 << 20))
    write(tmp_path, "20-b.conflist", "short")
    directory = ConfDirectory(str(tmp_path))
    assert names(directory) == ["short"]
    assert "more than" in directory.problems[0]


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
