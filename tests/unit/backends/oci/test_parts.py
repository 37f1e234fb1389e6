from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.bundle import host_resources
from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.bundle.host_resources import find_devices, prepare_mount_sources, read_seccomp_profile
from crib.backends.known_processes import identity, is_alive
from crib.backends.oci.command_lines import ExecFiles, Monitored, MonitorProgram, RuntimeProgram
from crib.backends.oci.runtime_words import runtime_words, words_of_failure
from crib.backends.pods.files import check_pod_files, write_hosts, write_pod_files
from crib.model.container import ContainerConfig, ContainerSecurity, Device, Mount, MountPropagation
from crib.model.errors import InvalidRequest
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from crib.model.sandbox import (
    DnsConfig,
    NetworkAttachment,
    ProcessIdentity,
    ProfileType,
    SandboxRecord,
    SecurityProfile,
)
from tests.unit.ocispec.inputs_for_tests import sandbox

ID = ContainerId("c" * 64)


def config(**fields: object) -> ContainerConfig:
    return ContainerConfig(name="c", image="i", **fields)  # type: ignore[arg-type]


def test_monitor_is_told_all_it_needs() -> None:
    runtime = RuntimeProgram("/usr/bin/crun", "/run/crib/runtime/crun", ("--debug",))
    container = Monitored(ID, "web", "/b", "/b/pidfile", "sh", "short", "/l/0.log", True, True, False)
    argv = MonitorProgram("/usr/bin/conmon", "/e", "/s").create(runtime, runtime.program, container)
    for pair in (
        ("--cid", ID),
        ("--cuuid", "short"),
        ("--log-path", "k8s-file:/l/0.log"),
        ("--exit-dir", "/e"),
    ):
        assert argv[argv.index(pair[0]) + 1] == pair[1]
    assert "--runtime-arg=--debug" in argv
    assert "--runtime-arg=--root=/run/crib/runtime/crun" in argv
    assert argv[-3:] == ("--terminal", "--stdin", "--leave-stdin-open")
    silent = MonitorProgram("conmon", "/e", "/s").create(runtime, "", replace(container, log_path=""))
    assert silent[silent.index("--log-path") + 1] == "none"


def test_runtime_commands() -> None:
    runtime = RuntimeProgram("crun", "/r")
    assert runtime.start("x") == ("crun", "--root=/r", "start", "x")
    detached = ("--detach", "--pid-file", "i")
    piped = runtime.exec("x", ExecFiles("p", "l", "i"), "sub")
    assert piped[-6:] == (*detached, "--cgroup", "sub", "x")
    assert runtime.exec("x", ExecFiles("p", "l", "i", "s"))[-6:] == (*detached, "--console-socket", "s", "x")


def test_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = Paths(f"{tmp_path}/d", f"{tmp_path}/s")
    bundles = Bundles(paths)
    note = BundleNote("crun", "/a/b", ProcessIdentity(5, 6), shared_pids=True, pod="p")
    assert bundles.read_note(ID) is None
    bundles.make(ID, note)
    assert bundles.read_note(ID) == Bundles(paths).read_note(ID) == note
    Path(f"{tmp_path}/s/containers/{ID}/crib.json").write_text('{"handler": "crun"')
    assert bundles.read_note(ID) == note, "a note is remembered"
    assert Bundles(paths).read_note(ID) is None


def test_a_note_that_cannot_be_read_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    bundles = Bundles(Paths(f"{tmp_path}/d", f"{tmp_path}/s"))
    Path(f"{tmp_path}/s/containers/{ID}/crib.json").mkdir(parents=True)
    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):  # as EMFILE or EIO
        bundles.read_note(ID)


def test_stale_pid_file_names_no_process(tmp_path: Path) -> None:
    bundles = Bundles(Paths(f"{tmp_path}/d", f"{tmp_path}/s"))
    bundles.make(ID, BundleNote("crun", "/a"))
    assert bundles.first_pid(ID) == 0
    Path(bundles.pid_file(ID)).write_text(str(os.getpid()))
    assert bundles.first_pid(ID) == 0


def test_process_is_known_by_pid_and_start() -> None:
    found = identity(os.getpid())
    assert found is not None
    assert is_alive(found)
    assert not is_alive(replace(found, start_time=found.start_time + 1))
    assert not is_alive(None)


def test_a_runtimes_failure_is_told_at_whatever_level_and_its_warnings_are_none() -> None:
    lines = [f'time="2023" level={level} msg="it is {level}" pid=7 of=\n' for level in ("warning", "info")]
    assert words_of_failure("".join(lines)) == ""
    fatal = 'time="2023" level=fatal msg="nsexec: out of room"\n'
    assert words_of_failure(lines[0] + fatal + lines[1]) == "nsexec: out of room"
    assert words_of_failure("2023-01-02T03:04:05.6Z: cannot do it\n") == "cannot do it"


def test_runtimes_words_are_cleaned() -> None:
    assert runtime_words("2023-01-02T03:04:05.6Z: cannot do it\n") == "cannot do it"
    assert runtime_words('time="2023" level=error msg="exec \\"x\\" failed"\n') == 'exec "x" failed'
    warned = 'time="2023" level=warning msg="cannot toggle freezer: cgroups not configured"\n'
    assert runtime_words(warned) == "cannot toggle freezer: cgroups not configured"
    failed = 'time="2023" level=error msg="runc create failed: no such program"\n'
    for text in (warned + warned + failed, failed + warned):
        assert runtime_words(text) == "runc create failed: no such program"
    assert runtime_words(warned + "panic: at once\n" + failed).startswith(
        "panic: at once\nrunc create failed"
    )
    counted = (
        'time="2023" level=warning msg="unable to get oom kill count" error="open \\"x\\": no such file"\n'
    )
    assert runtime_words(counted + failed) == "runc create failed: no such program"
    assert runtime_words(counted) == 'unable to get oom kill count error="open "x": no such file"'
    assert runtime_words(counted.replace("warning", "error")).startswith(
        "unable to get oom kill count error="
    )
    assert runtime_words("") == "it said nothing"
    assert len(runtime_words("x" * 5000)) == 2000


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


def test_missing_host_path_is_made_or_refused(tmp_path: Path) -> None:
    wanted = config(mounts=(Mount("/m", f"{tmp_path}/a/b"),))
    with pytest.raises(InvalidRequest, match=re.escape("mounts[0].host_path")):
        prepare_mount_sources(wanted, "error")
    prepare_mount_sources(wanted, "create")
    assert Path(tmp_path, "a/b").is_dir()


def test_no_path_is_made_when_another_is_refused(tmp_path: Path) -> None:
    Path(tmp_path, "file").touch()
    bad = config(mounts=(Mount("/m", f"{tmp_path}/made"), Mount("/n", f"{tmp_path}/file/below")))
    with pytest.raises(InvalidRequest, match=re.escape("mounts[1].host_path")):
        prepare_mount_sources(bad, "create")
    assert not Path(tmp_path, "made").exists()


def test_propagation_needs_a_shared_source(tmp_path: Path) -> None:
    private = config(mounts=(Mount("/m", "/proc", propagation=MountPropagation.BIDIRECTIONAL),))
    with pytest.raises(InvalidRequest, match="not shared"):
        prepare_mount_sources(private, "create")


def test_devices_are_found() -> None:
    (null,) = find_devices(config(devices=(Device("/dev/nothing", "/dev/null", "r"),)))
    assert (null.path, null.kind, null.major, null.minor, null.permissions) == (
        "/dev/nothing",
        "c",
        1,
        3,
        "r",
    )
    every = find_devices(config(security=ContainerSecurity(privileged=True)))
    assert "/dev/null" in [device.path for device in every]
    for bad in (Device("/dev/x", "/etc/passwd"), Device("/dev/x", "/dev/nosuch"), Device("x", "/dev/null")):
        with pytest.raises(InvalidRequest, match=re.escape("devices[0]")):
            find_devices(config(devices=(bad,)))


@pytest.mark.parametrize(
    ("bound", "value", "words"),
    [
        ("_MAX_WALKED", 3, "more than 3 files"),
        ("_MAX_WALK_DEPTH", 2, "more than 2 directories deep"),
        ("_MAX_WALK_SECONDS", -1, "looking took more than"),
        ("_MAX_DEVICES", 0, "more than 0 device nodes"),
    ],
)
def test_a_directory_of_devices_is_looked_through_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, words: str
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for place in ("a", "a/b"):
        (tmp_path / place / "null").symlink_to("/dev/null")
    wanted = config(devices=(Device("/d", str(tmp_path)),))
    assert [device.path for device in find_devices(wanted)] == ["/d/a/null", "/d/a/b/null"]
    monkeypatch.setattr(host_resources, bound, value)
    with pytest.raises(InvalidRequest, match=rf"devices.*{words}"):
        find_devices(wanted)


def test_seccomp_profile_is_read_by_absolute_path(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("{}")
    assert read_seccomp_profile(SecurityProfile(ProfileType.LOCALHOST, f"localhost/{path}")) == b"{}"
    assert read_seccomp_profile(None) is None
    for bad in ("relative.json", f"{tmp_path}/nosuch"):
        with pytest.raises(InvalidRequest, match="localhost_ref"):
            read_seccomp_profile(SecurityProfile(ProfileType.LOCALHOST, bad))
