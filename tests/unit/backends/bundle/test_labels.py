from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.bundle import labels as module
from crib.backends.bundle.labels import SYSTEM_DIRECTORIES, Labels, relabel_volume
from crib.host import apparmor, selinux
from crib.host.processes import ToolMissing
from crib.model.errors import Broken, InvalidRequest
from crib.model.ids import SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import ProfileType, SandboxRecord, SecurityProfile, SelinuxOption
from crib.ocispec.selinux import PRIVILEGED_LEVEL
from tests.unit.ocispec.inputs_for_tests import HOST, sandbox

DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
LABEL = "system_u:object_r:container_file_t:s0:c7,c9"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(f"{tmp_path}/d", f"{tmp_path}/s")


def pod(paths: Paths, letter: str, level: str = "") -> SandboxRecord:
    record = replace(sandbox(), id=SandboxId(letter * 64))
    security = replace(record.config.security, selinux=SelinuxOption(level=level) if level else None)
    os.makedirs(paths.sandbox(record.id))
    return replace(record, config=replace(record.config, security=security))


def on(paths: Paths) -> Labels:
    return Labels(paths, replace(HOST, selinux=True, apparmor=True))


def test_nothing_is_asked_where_there_is_neither(paths: Paths) -> None:
    off = Labels(paths, HOST)
    record = pod(paths, "a")
    assert off.take_level(record) == off.level(record.id) == ""
    assert off.loaded_profiles(None, privileged=False) == frozenset()
    off.label_pod(record)
    assert os.listdir(paths.sandbox(record.id)) == []


def test_each_pod_gets_a_level_of_its_own_and_keeps_it(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([3, 3, 1022, 1023, 9, 7, 7, 9, 1, 5])
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
    first, second = pod(paths, "a"), pod(paths, "b")
    assert on(paths).take_level(first) == "s0:c7,c9"
    assert on(paths).take_level(second) == "s0:c1,c5"
    assert on(paths).take_level(first) == on(paths).level(first.id) == "s0:c7,c9"
    assert PRIVILEGED_LEVEL == "s0:c1022,c1023"


def test_a_level_comes_back_with_the_pods_directory(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIES", 50)
    draws = iter([1, 2] * 60)
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
    record = pod(paths, "a")
    on(paths).take_level(record)
    with pytest.raises(Broken, match="no SELinux level is left"):
        on(paths).take_level(pod(paths, "b"))
    os.unlink(f"{paths.sandbox(record.id)}/selinux-level")
    os.rmdir(paths.sandbox(record.id))
    draws = iter([1, 2])
    assert on(paths).take_level(pod(paths, "c")) == "s0:c1,c2"


def test_a_level_that_is_asked_for_is_shared_and_given_to_nobody_else(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for letter in "ab":
        assert on(paths).take_level(pod(paths, letter, "s0:c1,c2")) == "s0:c1,c2"
    draws = iter([1, 2, 3, 4])
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
    assert on(paths).take_level(pod(paths, "c")) == "s0:c3,c4"
    with pytest.raises(InvalidRequest, match="level"):
        on(paths).take_level(pod(paths, "d", "s0,c1"))


async def test_pods_context_must_be_one_that_the_policy_knows(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apparmor, "loaded_profiles", lambda: frozenset({"crib-default"}))
    monkeypatch.setattr(selinux, "is_known", lambda context: "container_t" in context)
    with pytest.raises(InvalidRequest, match="does not know system_u:object_r:container_file_t"):
        on(paths).confine(pod(paths, "a", "s0:c1,c2"), None)
    monkeypatch.setattr(selinux, "is_known", lambda _: True)
    made = on(paths).confine(pod(paths, "b", "s0:c1,c2"), None)
    assert made.process_label == "system_u:system_r:container_t:s0:c1,c2"
    assert made.apparmor_profile == "crib-default"


def test_pods_shared_files_get_its_label(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled: dict[str, str] = {}
    monkeypatch.setattr(selinux, "label_file", lambda path, label: labelled.update({path: label}))
    record = pod(paths, "a", "s0:c7,c9")
    on(paths).take_level(record)
    os.makedirs(paths.shm(record.id))
    hosts = Path(paths.etc(record.id, "hosts"))
    hosts.parent.mkdir(exist_ok=True)
    hosts.touch()
    on(paths).label_pod(record)
    assert labelled == {paths.shm(record.id): LABEL, str(hosts): LABEL}


def test_what_all_pods_read_has_no_category(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(selinux, "relabel_tree", lambda *given: done.append(given))
    Labels(paths, HOST).label_for_all("/infra")
    assert done == []
    on(paths).label_for_all("/infra")
    assert done == [("/infra", "system_u:object_r:container_file_t:s0")]


async def test_default_profile_is_loaded_when_needed_and_missing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel: set[str] = set()

    async def load(text: str) -> None:
        assert text.count("profile crib-default ") == 1
        assert not kernel
        kernel.add("crib-default")

    monkeypatch.setattr(module, "_tried", set())
    monkeypatch.setattr(apparmor, "loaded_profiles", lambda: frozenset(kernel))
    monkeypatch.setattr(apparmor, "load_profile", load)
    labels = on(paths)
    unconfined = SecurityProfile(ProfileType.UNCONFINED)
    for profile, privileged in ((unconfined, False), (DEFAULT, True)):
        await labels.load_default_profile(profile, privileged=privileged)
        assert not kernel
        assert labels.loaded_profiles(profile, privileged=privileged) == frozenset()
    for _ in range(2):
        await labels.load_default_profile(None, privileged=False)
    assert labels.loaded_profiles(DEFAULT, privileged=False) == {"crib-default"}


async def test_default_profile_of_an_earlier_daemon_is_replaced_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    async def load(text: str) -> None:
        given.append(text)

    monkeypatch.setattr(module, "_tried", set())
    monkeypatch.setattr(apparmor, "loaded_profiles", lambda: frozenset({"crib-default"}))
    monkeypatch.setattr(apparmor, "load_profile", load)
    for _ in range(2):
        await on(paths).load_default_profile(None, privileged=False)
    assert len(given) == 1


async def test_default_profile_that_cannot_be_loaded_is_told_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def load(text: str) -> None:
        raise ToolMissing("apparmor_parser")

    monkeypatch.setattr(apparmor, "loaded_profiles", frozenset)
    monkeypatch.setattr(apparmor, "load_profile", load)
    monkeypatch.setattr(module, "_warned", set())
    for _ in range(3):
        await on(paths).load_default_profile(DEFAULT, privileged=False)
    assert len([record for record in caplog.records if "apparmor_parser" in record.message]) == 1
    assert on(paths).loaded_profiles(DEFAULT, privileged=False) == frozenset()


async def test_a_default_profile_that_was_removed_is_brought_back_and_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel: set[str] = {"mine"}

    async def load(text: str) -> None:
        kernel.add("crib-default")

    monkeypatch.setattr(module, "_tried", set())
    monkeypatch.setattr(module, "_given", set())
    monkeypatch.setattr(apparmor, "loaded_profiles", lambda: frozenset(kernel))
    monkeypatch.setattr(apparmor, "load_profile", load)
    labels = on(paths)
    await labels.load_default_profile(None, privileged=False)
    assert not await labels.bring_back("crib-default")
    kernel.remove("crib-default")
    assert await labels.bring_back("crib-default")
    (told,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "unconfined until they start again" in told.message
    for name in ("mine", "unconfined", ""):
        assert not await labels.bring_back(name)
    with pytest.raises(Broken, match="'other' is no longer loaded in the kernel"):
        await labels.bring_back("other")
    assert not await Labels(paths, HOST).bring_back("other")


def test_a_policy_without_types_for_containers_is_told_with_what_to_do(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selinux, "is_known", lambda context: "container_file_t" not in context)
    with pytest.raises(Broken, match=r"does not know system_u:object_r:container_file_t:s0: install"):
        on(paths).require_types()
    Labels(paths, HOST).require_types()
    monkeypatch.setattr(selinux, "is_known", lambda _: True)
    on(paths).require_types()


def test_profiles_that_cannot_be_read_are_no_reason_to_do_without(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> frozenset[str]:
        raise PermissionError("no")

    monkeypatch.setattr(apparmor, "loaded_profiles", refuse)
    with pytest.raises(Broken, match="cannot be read"):
        on(paths).loaded_profiles(DEFAULT, privileged=False)


@pytest.mark.parametrize("path", [*SYSTEM_DIRECTORIES, "/etc/hosts", "/usr/bin", "/proc/self", "/dev/shm/x"])
def test_the_systems_own_is_never_relabelled(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "relabel_tree", lambda *_: pytest.fail("it was"))
    with pytest.raises(InvalidRequest, match=r"mounts\[0\].*never relabelled"):
        relabel_volume(path, LABEL, "mounts[0]")
    relabel_volume(path, "", "mounts[0]")


def test_a_link_to_the_systems_own_is_never_relabelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selinux, "relabel_tree", lambda *_: pytest.fail("it was"))
    (tmp_path / "volume").symlink_to("/etc")
    with pytest.raises(InvalidRequest, match="/etc belongs to the system"):
        relabel_volume(str(tmp_path / "volume"), LABEL, "field")


def test_volumes_get_the_containers_label_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(selinux, "relabel_tree", lambda *given: done.append(given))
    (tmp_path / "link").symlink_to("volume")
    (tmp_path / "volume").mkdir()
    relabel_volume(str(tmp_path / "link"), LABEL, "field")
    assert done == [(str(tmp_path / "volume"), LABEL)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (selinux.LabellingLimit(7, "more than 5 files to label"), "more than 5 files"),
        (OSError(22, "Invalid argument"), "policy of this host does not know"),
        (OSError(30, "Read-only file system"), "cannot be relabelled: Read-only"),
    ],
)
def test_relabelling_that_fails_names_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(selinux, "relabel_tree", fail)
    with pytest.raises(InvalidRequest, match=words):
        relabel_volume(str(tmp_path), LABEL, "mounts[2].selinux_relabel")
