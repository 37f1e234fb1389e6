from __future__ import annotations

import re
from pathlib import Path

import pytest

from crib.backends.bundle import host_resources
from crib.backends.bundle.host_resources import (
    check_added_mounts,
    find_devices,
    prepare_mount_sources,
    read_seccomp_profile,
)
from crib.model.container import ContainerConfig, ContainerSecurity, Device, Mount, MountPropagation
from crib.model.edits import AddedMount, ContainerEdits
from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import (
    ProfileType,
    SecurityProfile,
)


def config(**fields: object) -> ContainerConfig:
    return ContainerConfig(name="c", image="i", **fields)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (AddedMount("/x", "/nosuch-dir"), "mounts: /nosuch-dir: No such file or directory"),
        (
            AddedMount("/x", "/proc", options=("rbind", "rshared")),
            "mounts: /proc is on the mount /proc, which",
        ),
        (AddedMount("/x", "/proc", options=("rbind", "rslave")), "which is not shared"),
        (AddedMount("/x", "/proc", options=("rbind", "rprivate")), ""),
        (AddedMount("/x", "/nosuch-dir", type="tmpfs"), ""),
    ],
)
def test_a_mount_that_a_plugin_adds_needs_its_source(mount: AddedMount, said: str) -> None:
    edits = ContainerEdits("NRI 10-a", mounts=(mount,))
    if not said:
        check_added_mounts(edits)
        return
    with pytest.raises(Broken, match="NRI 10-a asks for what cannot be done") as caught:
        check_added_mounts(edits)
    assert said in str(caught.value)


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
        ("_MAX_WALK_SECONDS", -1, "the search took more than"),
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
