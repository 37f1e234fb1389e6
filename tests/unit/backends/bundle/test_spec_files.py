"""Directories of small documents: what is decoded once, and what is read again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from crib.backends.bundle import spec_files
from crib.backends.bundle.cdi import CdiRegistry
from crib.backends.bundle.host_resources import (
    find_devices,
    find_node_devices,
    find_node_mounts,
    read_default_profile,
)
from crib.backends.bundle.spec_files import HookFiles, SpecFiles, read_base_spec
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.runtime_notes import (
    delete_state,
    forget_state,
    knowing,
    noted_handlers,
    noted_program,
    write_note,
)
from crib.backends.runtime_probe import probe_handler
from crib.model.container import ContainerConfig, ContainerSecurity, Device
from crib.model.edits import ContainerEdits, RdtChange
from crib.model.errors import Broken, InvalidRequest
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import ContainerDefaults, NodeMount


class Decoder:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, path: str, data: bytes) -> str:
        self.times += 1
        return data.decode()


@pytest.fixture
def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
def files(tmp_path: Path, decoder: Decoder) -> SpecFiles[str]:
    return SpecFiles((str(tmp_path),), (".json",), decoder)


def contents(files: SpecFiles[str]) -> list[str | None]:
    return [found.content for found in files.read()]


def test_another_write_of_the_same_size_and_time_is_seen(
    tmp_path: Path, files: SpecFiles[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_files, "_SETTLED", -1.0)
    path = tmp_path / "a.json"
    path.write_text("one")
    written = path.stat().st_mtime_ns
    assert contents(files) == ["one"]
    path.write_text("two")
    os.utime(path, ns=(written, written))
    assert contents(files) == ["two"]


def test_what_has_settled_is_decoded_once_and_what_is_young_each_time(
    tmp_path: Path, files: SpecFiles[str], decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("one")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert [contents(files) for _ in range(2)] == [["one"]] * 2
    assert decoder.times == 2
    monkeypatch.setattr(time, "time", lambda: now + 1)
    assert [contents(files) for _ in range(3)] == [["one"]] * 3
    assert decoder.times == 3


KIND = "vendor.com/gpu"


def container(*devices: str, **fields: object) -> ContainerConfig:
    return ContainerConfig(name="a", image="b", cdi_devices=devices, **fields)  # type: ignore[arg-type]


def spec(path: Path, *names: str, edits: dict[str, object] | None = None, **own: object) -> None:
    devices = [{"name": name, "containerEdits": own or {"env": [f"D={path}:{name}"]}} for name in names]
    document = {"cdiVersion": "0.6.0", "kind": KIND, "devices": devices, "containerEdits": edits or {}}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def variables(edits: tuple[ContainerEdits, ...]) -> list[tuple[str, str]]:
    return [pair for one in edits for pair in one.env]


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "etc", tmp_path / "run"


@pytest.fixture
def registry(dirs: tuple[Path, Path]) -> CdiRegistry:
    return CdiRegistry([str(path) for path in dirs])


def test_devices_come_from_the_field_and_from_annotations_and_a_files_own_edits_once(
    dirs: tuple[Path, Path], registry: CdiRegistry
) -> None:
    spec(dirs[0] / "a.json", "0", "1", edits={"env": ["COMMON=1"], "additionalGids": [7]})
    asked = container(f"{KIND}=0", annotations={"cdi.k8s.io/x": f"{KIND}=1,{KIND}=0", "other": "x"})
    edits = registry.edits(asked)
    assert [key for key, _ in variables(edits)] == ["COMMON", "D", "D"]
    assert [one.origin for one in edits] == [f"CDI {KIND}=0", f"CDI {KIND}=0", f"CDI {KIND}=1"]
    assert edits[0].groups == (7,)
    assert registry.edits(container()) == ()


def test_a_device_that_is_asked_for_again_is_meant_once(
    dirs: tuple[Path, Path], registry: CdiRegistry
) -> None:
    spec(dirs[0] / "a.json", "0", "1", edits={"env": ["COMMON=1"]})
    again = registry.edits(container(f"{KIND}=0", f"{KIND}=1", f"{KIND}=0"))
    assert again == registry.edits(container(f"{KIND}=0", f"{KIND}=1"))
    assert len(variables(again)) == 3


def test_devices_that_a_plugin_adds_bring_their_edits_and_one_that_is_missing_is_the_plugins_fault(
    dirs: tuple[Path, Path], registry: CdiRegistry
) -> None:
    spec(dirs[0] / "a.json", "0")
    asked = ContainerEdits("NRI 10-gpu", cdi_devices=(f"{KIND}=0",))
    assert registry.with_devices(asked).injected == registry.edits(container(f"{KIND}=0"))
    assert registry.with_devices(ContainerEdits("NRI 10-gpu")) == ContainerEdits("NRI 10-gpu")
    with pytest.raises(Broken, match=f"NRI 10-gpu asks for what cannot be done: CDI device {KIND}=9"):
        registry.with_devices(ContainerEdits("NRI 10-gpu", cdi_devices=(f"{KIND}=9",)))


def test_the_later_directory_counts_and_changes_are_seen(
    dirs: tuple[Path, Path], registry: CdiRegistry
) -> None:
    spec(dirs[0] / "a.json", "0")
    assert variables(registry.edits(container(f"{KIND}=0"))) == [("D", f"{dirs[0]}/a.json:0")]
    spec(dirs[1] / "a.json", "0")
    assert variables(registry.edits(container(f"{KIND}=0"))) == [("D", f"{dirs[1]}/a.json:0")]
    os.unlink(dirs[1] / "a.json")
    assert variables(registry.edits(container(f"{KIND}=0"))) == [("D", f"{dirs[0]}/a.json:0")]


def test_a_missing_device_is_named_with_the_directories_and_what_cannot_be_read_there(
    dirs: tuple[Path, Path], registry: CdiRegistry
) -> None:
    with pytest.raises(InvalidRequest, match=f"{KIND}=9 is not in {dirs[0]}, {dirs[1]}$") as caught:
        registry.edits(container(f"{KIND}=9"))
    assert caught.value.field == "CDI_devices[0]"
    dirs[1].mkdir()
    (dirs[1] / "torn.yaml").write_text("cdiVersion: [")
    os.mkfifo(dirs[1] / "fifo.json")
    with pytest.raises(InvalidRequest, match=r"torn\.yaml") as caught:
        registry.edits(container(annotations={"cdi.k8s.io/x": f"{KIND}=9"}))
    assert caught.value.field == "annotations[cdi.k8s.io/x]"
    assert "fifo.json: it is not a plain file" in str(caught.value)
    with pytest.raises(InvalidRequest, match="is not VENDOR/CLASS=NAME"):
        registry.edits(container(annotations={"cdi.k8s.io/x": "nonsense"}))


def test_a_device_twice_in_one_directory_is_refused(dirs: tuple[Path, Path], registry: CdiRegistry) -> None:
    spec(dirs[0] / "a.json", "0")
    spec(dirs[0] / "b.json", "0")
    with pytest.raises(InvalidRequest, match=r"a\.json and .*b\.json"):
        registry.edits(container(f"{KIND}=0"))


def test_nodes_are_completed_from_the_host(dirs: tuple[Path, Path], registry: CdiRegistry) -> None:
    nodes = [
        {"path": "/dev/a", "hostPath": "/dev/null", "uid": 5},
        {"path": "/dev/b", "type": "b", "major": 8, "minor": 1, "permissions": "r"},
    ]
    spec(dirs[0] / "a.json", "0", deviceNodes=nodes)
    first, second = registry.edits(container(f"{KIND}=0"))[-1].devices
    assert (first.kind, first.major, first.minor, first.permissions, first.uid) == ("c", 1, 3, "rwm", 5)
    assert (second.kind, second.major, second.permissions, second.uid) == ("b", 8, "r", None)


@pytest.mark.parametrize(
    ("edits", "word"),
    [
        ({"deviceNodes": [{"path": "/dev/nosuch-node"}]}, "/dev/nosuch-node"),
        ({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}, "not a device of type b"),
        ({"deviceNodes": [{"path": "/etc/passwd"}]}, "not a device"),
        ({"mounts": [{"hostPath": "/nosuch-dir", "containerPath": "/x"}]}, "/nosuch-dir"),
    ],
)
def test_a_device_that_cannot_be_given_whole_is_refused(
    dirs: tuple[Path, Path], registry: CdiRegistry, edits: dict[str, Any], word: str
) -> None:
    spec(dirs[0] / "a.json", "0", **edits)
    with pytest.raises(InvalidRequest, match=word):
        registry.edits(container(f"{KIND}=0"))


def test_a_device_may_bring_network_devices_rdt_mounts_and_hooks(
    dirs: tuple[Path, Path], registry: CdiRegistry
) -> None:
    spec(
        dirs[0] / "a.json",
        "0",
        netDevices=[{"hostInterfaceName": "eth9", "name": "net1"}, {"hostInterfaceName": "eth8"}],
        intelRdt={"closID": "a", "l3CacheSchema": "L3:0=f", "schemata": ["MB:0=20"], "enableCMT": True},
        mounts=[{"hostPath": "/tmp", "containerPath": "/x/", "options": ["ro"]}],
        hooks=[{"hookName": "poststop", "path": "/bin/true"}],
    )
    (_, edits) = registry.edits(container(f"{KIND}=0"))
    assert edits.origin == f"CDI {KIND}=0"
    assert edits.net_devices == (("eth9", "net1"), ("eth8", ""))
    assert edits.rdt == RdtChange("a", ("L3:0=f", "MB:0=20"), enable_monitoring=True)
    assert edits.mounts[0].options == ("rbind", "ro")
    assert edits.mounts[0].destination == "/x"
    assert [(hook.stage, hook.path) for hook in edits.hooks] == [("poststop", "/bin/true")]


def hook_file(path: Path, program: str = "/bin/true", **changes: object) -> None:
    path.parent.mkdir(exist_ok=True)
    document = {
        "version": "1.0.0",
        "hook": {"path": program},
        "when": {"annotations": {"^a$": "b"}, "commands": ["sh$"]},
        "stages": ["prestart", "poststop"],
    }
    path.write_text(json.dumps({**document, **changes}))


def test_hooks_are_taken_by_name_from_the_later_directory(dirs: tuple[Path, Path]) -> None:
    files = HookFiles([str(path) for path in dirs])
    assert files.rules() == ()
    hook_file(dirs[0] / "20.json")
    hook_file(dirs[0] / "10.json", stages=["poststop"])
    hook_file(dirs[1] / "20.json", "/bin/false")
    found = [[(hook.path, hook.stage) for hook in rule.edits.hooks] for rule in files.rules()]
    assert found == [
        [("/bin/true", "poststop")],
        [("/bin/false", "prestart"), ("/bin/false", "poststop")],
    ]
    assert [rule.edits.origin for rule in files.rules()] == [
        f"hook file {dirs[0]}/10.json",
        f"hook file {dirs[1]}/20.json",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"hook": {"path": "/bin/nosuch-hook"}},
        {"hook": {"path": "true"}},
        {"stages": []},
        {"when": {"commands": ["("]}},
        {"version": "2"},
    ],
)
def test_a_hook_that_cannot_be_used_is_an_error_that_names_its_file(
    dirs: tuple[Path, Path], changes: dict[str, Any]
) -> None:
    hook_file(dirs[0] / "bad.json", **changes)
    with pytest.raises(Broken, match=r"bad\.json"):
        HookFiles([str(dirs[0])]).rules()


def test_a_base_spec_is_read_or_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    assert read_base_spec("", "x") == {}
    path.write_text('{"process": {"noNewPrivileges": true}, "root": {}}')
    assert read_base_spec(str(path), "x") == {"process": {"noNewPrivileges": True}}
    for text in ("", "[]", '{"mounts": 1}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(Broken, match=r"handler x: base_spec .*base\.json"):
            read_base_spec(str(path), "x")
    with pytest.raises(Broken, match="nosuch"):
        read_base_spec(f"{tmp_path}/nosuch", "x")


async def test_a_handlers_program_is_found_again_by_name(tmp_path: Path) -> None:
    paths = Paths(f"{tmp_path}/data", str(tmp_path))
    assert noted_handlers(paths) == []
    made = RuntimeProgram("/opt/runsc", f"{paths.runtime_root}/gvisor", ("--debug",))
    os.makedirs(f"{made.root}/state")
    os.makedirs(f"{paths.runtime_root}/unnoted")
    write_note(paths, "gvisor", made)
    write_note(paths, "gvisor", made)
    assert noted_handlers(paths) == ["gvisor", "unnoted"]
    assert noted_program(paths, "gvisor") == made
    assert noted_program(paths, "unnoted") == RuntimeProgram("unnoted", f"{paths.runtime_root}/unnoted")
    assert knowing([made, made], "state") == (made, made)
    assert knowing([made], "other") == ()
    await delete_state(made, "state", 5)  # the program is gone: that is no failure
    forget_state(made, "state")
    assert os.listdir(made.root) == []


def test_device_directories_follow_links_to_nodes_and_host_devices_can_be_withheld(tmp_path: Path) -> None:
    (tmp_path / "by-id").mkdir()
    os.symlink("/dev/null", tmp_path / "by-id" / "disk")
    os.symlink("/nosuch", tmp_path / "by-id" / "dangling")
    os.symlink("/dev", tmp_path / "by-id" / "all")
    os.symlink("by-id", tmp_path / "link")
    for host in (f"{tmp_path}/by-id/", f"{tmp_path}/link"):
        asked = container(devices=(Device("/dev/d", host, ""),))
        (found,) = find_devices(asked)
        assert (found.path, found.major, found.minor, found.permissions) == ("/dev/d/disk", 1, 3, "rwm")
    privileged = container(
        security=ContainerSecurity(privileged=True), devices=(Device("/dev/x", "/dev/null"),)
    )
    assert [device.path for device in find_devices(privileged, withhold=True)] == ["/dev/x"]


def test_what_the_node_gives_is_found_on_the_host_or_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    mounts = (NodeMount(f"{tmp_path}/link", "/a"), NodeMount("/nosuch", "/b"))
    assert find_node_mounts(ContainerDefaults(mounts=mounts[:1])) == (NodeMount(str(tmp_path), "/a"),)
    with pytest.raises(Broken, match=r"setting containers\.mounts: /nosuch: No such file"):
        find_node_mounts(ContainerDefaults(mounts=mounts))
    (null,) = find_node_devices(ContainerDefaults(devices=("/dev/null:/dev/x:r",)))
    assert (null.path, null.major, null.minor, null.permissions) == ("/dev/x", 1, 3, "r")
    with pytest.raises(Broken, match=r"setting containers\.devices: .*/dev/nosuch"):
        find_node_devices(ContainerDefaults(devices=("/dev/nosuch",)))


def test_a_profile_in_place_of_runtime_default_is_read_at_the_start(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert read_default_profile("") is None
    assert read_default_profile(str(profile)) == profile.read_bytes()
    for content in ("{", "[]", "{}"):
        profile.write_text(content)
        with pytest.raises(Broken, match=rf"setting containers\.seccomp_profile: {profile}: "):
            read_default_profile(str(profile))
    with pytest.raises(Broken, match="/nosuch"):
        read_default_profile("/nosuch")


@pytest.mark.parametrize(
    ("says", "features", "expected"),
    [
        ("crun version 1.8.1", "", (True, True, False)),
        ("crun version 1.9", "", (True, True, True)),
        ("runc version 1.0.3", "", (False, False, False)),
        ("runsc version release-20230904.0", "", (False, False, False)),
        (
            "youki version 0.4.1",
            '{"ociVersionMax": "1.1.0", "mountOptions": ["rro"], "linux": {"namespaces": ["user"],'
            ' "mountExtensions": {"idmap": {"enabled": true}}}}',
            (True, True, True),
        ),
    ],
)
async def test_each_handler_is_asked_what_it_can_do(
    tmp_path: Path, says: str, features: str, expected: tuple[bool, bool, bool]
) -> None:
    program = tmp_path / "runtime"
    answer = f"echo '{features}'" if features else "exit 1"
    program.write_text(f'#!/bin/sh\n[ "$2" = features ] || exit 9\n{answer}\n')
    program.chmod(0o755)
    features_of = (str(program), "--root=/root", "features")
    facts = await probe_handler(HandlerName("x"), str(program), features_of, says)
    assert (facts.recursive_read_only, facts.user_namespaces, facts.idmapped_mounts) == expected
    with pytest.raises(Broken, match="which has no version in it"):
        await probe_handler(HandlerName("x"), str(program), features_of, "hello")
