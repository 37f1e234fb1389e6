"""containerd's and CRI-O's configurations in crib's words, whole files against what was agreed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.config import ConfigError, from_crio, parse
from crib.config.carrying import seconds
from crib.config.importing import import_from, report

GOLDEN = Path("tests/golden/config")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names of files are told as they were given; no file of this machine counts."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(from_crio, "REGISTRIES", str(tmp_path / "registries.conf"))


@pytest.mark.parametrize("name", ["containerd-2.toml", "containerd-3.toml", "crio.conf"])
def test_a_whole_configuration_is_carried_over_as_agreed(name: str) -> None:
    imported = import_from(str(GOLDEN / name))
    assert imported.text == (GOLDEN / f"{name}.imported").read_text()
    assert "\n".join(report(imported)) + "\n" == (GOLDEN / f"{name}.report").read_text()
    parse(imported.text)


def written(tmp_path: Path, text: str, name: str = "config.toml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_registries_conf_is_taken_where_crio_reads_it(tmp_path: Path) -> None:
    Path(from_crio.REGISTRIES).write_text("")
    found = parse(import_from(written(tmp_path, "[crio]\n", "crio.conf")).text)
    assert found.images.registries.registries_conf == from_crio.REGISTRIES


def test_a_value_that_crib_does_not_take_is_told_and_left(tmp_path: Path) -> None:
    path = written(tmp_path, '[crio.runtime]\nlog_level = "chatty"\ndefault_sysctls = ["kernel.panic=1"]\n')
    imported = import_from(path)
    assert "log" not in imported.text
    told = [(line.key, line.why) for line in imported.lines]
    assert told[0] == (
        "crio.runtime.log_level",
        "log.level is 'chatty', and must be one of 'debug', 'info', 'warning', 'error', 'critical'",
    )
    assert told[1][1].startswith("containers.sysctls.kernel.panic: the name must be a")
    assert not any(line.to for line in imported.lines)


def test_a_shim_is_taken_over_with_its_options(tmp_path: Path) -> None:
    text = """
        version = 2
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
        runtime_type = "io.containerd.kata.v2"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata.options]
        ConfigPath = "/etc/kata.toml"
        BinaryName = "/opt/kata"
        """
    handler = parse(import_from(written(tmp_path, text)).text).handlers["kata"]
    assert (handler.kind, handler.shim.runtime, handler.path) == ("shim", "io.containerd.kata.v2", "")
    assert handler.shim.options == {"ConfigPath": "/etc/kata.toml", "BinaryName": "/opt/kata"}


def test_a_default_runtime_that_cannot_be_had_gives_way(tmp_path: Path) -> None:
    text = """
        version = 2
        [plugins."io.containerd.grpc.v1.cri".containerd]
        default_runtime_name = "old"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.old]
        runtime_type = "kata"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
        runtime_type = "io.containerd.runc.v2"
        """
    found = parse(import_from(written(tmp_path, text)).text)
    assert (found.default_handler, set(found.handlers)) == ("crun", {"crun"})
    assert found.handlers["crun"].path == "runc"  # as containerd has it without a BinaryName


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version = 1\n", "is of version 1; 2 and 3 are read"),
        ("root = '/x'\n", "is of version 1; 2 and 3 are read"),
        ("version = ", "Invalid value"),
    ],
)
def test_what_is_no_file_of_theirs_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        import_from(written(tmp_path, text))
    with pytest.raises(ConfigError, match="No such file"):
        import_from(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(("text", "value"), [("4h0m0s", 14400), ("1h30m", 5400), ("500ms", 0.5), (7, 7)])
def test_durations_are_read_as_go_writes_them(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "4", "h", "4x", "4h5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


def test_values_of_a_kind_that_they_do_not_have_are_left(tmp_path: Path) -> None:
    text = 'version = 2\n[metrics]\naddress = 5\n[debug]\nlevel = []\n[plugins."io.containerd.grpc.v1.cri"]\n'
    imported = import_from(written(tmp_path, f'{text}stream_idle_timeout = true\nstream_server_port = "x"\n'))
    assert all(line.why for line in imported.lines if line.key not in ("version",))
    assert not any(line.to for line in imported.lines)


def test_keys_that_do_not_go_together_are_told_beside_the_result(tmp_path: Path) -> None:
    imported = import_from(written(tmp_path, "[crio.api]\nstream_enable_tls = true\n", "crio.conf"))
    assert 'tls = "files"' in imported.text
    assert [line for line in report(imported) if line.startswith("wrong")] == [
        'wrong    result:3:1: streaming.cert_file is required with streaming.tls = "files"',
        'wrong    result:3:1: streaming.key_file is required with streaming.tls = "files"',
    ]
