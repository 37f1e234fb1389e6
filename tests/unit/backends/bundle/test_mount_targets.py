"""Where mounts come to lie, and which places nothing takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crib.backends.bundle.mount_targets import Landing, Placed, check_landings, check_places, place_in_root
from crib.model.container import ContainerConfig, ContainerSecurity, Mount
from crib.model.errors import InvalidRequest, WrongState
from crib.wire import oci_runtime as oci

HOSTNAME = oci.Mount("/etc/hostname", "bind", "/hostname", ("rbind", "rw"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with links that try to leave it."""
    root = tmp_path / "root"
    for name in ("data/sub", "proc", "sys", "dev", "etc", "vol", "run"):
        (root / name).mkdir(parents=True)
    (root / "data" / "file").write_text("x")
    for name, target in (
        *(("out", "../../../../.."), ("absolute", "/data"), ("proc-link", "/proc/sys"), ("dev-link", "dev")),
        *(("loop", "loop"), ("chain", "absolute/sub"), ("top", "/"), ("through", "/proc/self/../../data")),
        *(("back", "/sys/class/../../data"), ("cpus", "/proc/cpuinfo")),
    ):
        (root / name).symlink_to(target)
    return root


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume that another container has filled."""
    made = tmp_path / "volume"
    (made / "sub").mkdir(parents=True)
    for name, target in (
        *(("x", "/proc"), ("up", "../proc/self"), ("s", "/sys/kernel"), ("d", "/dev/shm")),
        *(("fine", "sub"), ("away", "/data"), ("hostname", "/proc/thread-self/attr/exec")),
    ):
        (made / name).symlink_to(target)
    return made


def bound(mount: Mount) -> oci.Mount:
    return oci.Mount(mount.container_path, "bind", mount.host_path, ("rbind",))


def check(
    root: Path, *asked: Mount, before: tuple[oci.Mount, ...] = (), **placed: object
) -> tuple[Landing, ...]:
    config = ContainerConfig("c", "i", mounts=asked)
    return check_places(str(root), config, Placed((*before, *map(bound, asked)), **placed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/data/sub", "/data/sub"),
        ("/absolute/sub/new", "/data/sub/new"),
        ("/chain", "/data/sub"),
        ("/out/data", "/data"),
        ("/proc-link/kernel", "/proc/sys/kernel"),
        ("/top", "/"),
        ("/../../data/./x", "/data/x"),
        ("/none/../data", "/data"),
    ],
)
def test_places_are_found_as_a_process_in_the_root_sees_them(root: Path, path: str, place: str) -> None:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        assert place_in_root(fd, path) == place
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "path",
    [
        *("/proc", "/proc/self/attr", "/proc-link", "/proc-link/a", "/loop", "/top"),
        *("/cpus", "/dev-link/shm", "/through", "/back"),
    ],
)
def test_no_mount_takes_the_place_of_proc_or_the_root(root: Path, path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.container_path"):
        check(root, Mount(path, str(root)))


def test_proc_itself_and_the_files_that_lxcfs_lays_over_are_fine(root: Path) -> None:
    check(root, Mount("/proc", "/proc"), Mount("/proc/meminfo", "/x"), Mount("/host/proc", "/proc"))


def test_places_below_sys_and_dev_are_fine_by_their_own_names(root: Path) -> None:
    check(root, Mount("/sys/fs/bpf", "/sys/fs/bpf"), Mount("/dev/dri", "/dev"), Mount("/dev/shm", "/x"))


def test_cve_2019_16884_a_link_of_the_image_leads_no_file_of_the_pod_into_proc(root: Path) -> None:
    (root / "etc" / "hostname").symlink_to("/proc/thread-self/attr/exec")
    with pytest.raises(InvalidRequest, match=r"^image: /etc/hostname leads to /proc/thread-self/attr"):
        check(root, before=(HOSTNAME,))


@pytest.mark.parametrize("name", ["x", "up/attr", "s", "d"])
def test_cve_2023_27561_a_link_in_a_volume_leads_no_mount_away(root: Path, volume: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"mounts\[1\]\.container_path: /vol/.* leads to"):
        check(root, Mount("/vol", str(volume)), Mount(f"/vol/{name}", "/x"))


def test_a_link_in_a_volume_leads_nothing_of_ours_away_and_the_volume_is_named(
    root: Path, volume: Path
) -> None:
    with pytest.raises(InvalidRequest, match=r"^mounts\[0\]: /etc/hostname leads to /proc"):
        check_places(
            str(root),
            ContainerConfig("c", "i", mounts=(Mount("/etc", str(volume)),)),
            Placed((bound(Mount("/etc", str(volume))), HOSTNAME)),
        )


def test_a_device_is_not_led_away_either(root: Path, volume: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"devices: /vol/s leads to /sys/kernel"):
        check(root, Mount("/vol", str(volume)), devices=("/dev/null", "/vol/s"))


def test_a_mount_of_a_base_spec_or_a_cdi_device_is_not_led_away_either(root: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"image: /proc-link/x leads to /proc/sys/x"):
        check(root, before=(oci.Mount("/proc-link/x", "none", "/x", ("bind",)),))


def test_links_of_volumes_that_stay_where_nothing_is_guarded_are_followed(root: Path, volume: Path) -> None:
    check(root, Mount("/vol", str(volume)), Mount("/vol/fine/a", "/x"), Mount("/vol/away/b", "/x"))


def test_what_a_later_mount_hides_leads_nobody_away(root: Path, volume: Path, tmp_path: Path) -> None:
    (root / "again").symlink_to("/run")
    plain = tmp_path / "plain"
    plain.mkdir()
    mounts = (Mount("/run/vol", str(volume)), Mount("/again", str(plain)), Mount("/run/vol/x", "/x"))
    check(root, *mounts)
    with pytest.raises(InvalidRequest, match="leads to /proc"):
        check(root, mounts[0], mounts[2])


def test_content_is_seen_before_its_source_is_made(root: Path, volume: Path) -> None:
    shifted = oci.Mount("/vol", "bind", "/not/made/yet", ("rbind",))
    inner = oci.Mount("/vol/x", "bind", "/x", ("rbind",))
    check(root, before=(shifted, inner))
    with pytest.raises(InvalidRequest, match="leads to /proc"):
        check(root, before=(shifted, inner), contents={"/not/made/yet": str(volume)})


def test_many_mounts_inside_of_each_other_take_few_descriptors(root: Path, tmp_path: Path) -> None:
    mounts = []
    for number in range(100):
        source = tmp_path / "many" / str(number)
        (source / "in").mkdir(parents=True)
        mounts.append(Mount("/vol" + "/in" * number, str(source)))
    (tmp_path / "many" / "99" / "x").symlink_to("/proc")
    before = len(os.listdir("/proc/self/fd"))
    check(root, *mounts)
    with pytest.raises(InvalidRequest, match="leads to /proc"):
        check(root, *mounts, Mount("/vol" + "/in" * 99 + "/x", "/x"))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["/dev", "/dev/null"])
def test_cve_2025_31133_no_volume_changes_what_masks_are_made_of(
    root: Path, tmp_path: Path, path: str
) -> None:
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.container_path: a volume at /dev"):
        check(root, Mount(path, str(tmp_path)))
    check(root, Mount(path, path))  # the node's own
    config = ContainerConfig(
        "c", "i", mounts=(Mount(path, str(tmp_path)),), security=ContainerSecurity(privileged=True)
    )
    check_places(str(root), config, Placed(tuple(map(bound, config.mounts))))


def process(tmp_path: Path, *points: str, flags: str = "rw") -> str:
    """A directory like that of a process below /proc; what its mounts show is in `root`."""
    made = tmp_path / "process"
    (made / "root").mkdir(parents=True, exist_ok=True)
    lines = (f"{30 + n} 29 0:{n} / {point} {flags} - tmpfs none rw\n" for n, point in enumerate(points))
    (made / "mountinfo").write_text("".join(lines), newline="")
    return str(made)


def shown(tmp_path: Path, *names: str) -> list[Landing]:
    """Mounts through volumes, each of which shows its source."""
    for name in names:
        (tmp_path / "process" / "root" / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return [
        Landing(name, name, f"{tmp_path}/process/root{name}", frozenset(), position)
        for position, name in enumerate(names)
    ]


def test_mounts_are_looked_at_again_only_where_one_leads_through_a_volume(root: Path, volume: Path) -> None:
    other = oci.Mount("/dev", "tmpfs", "tmpfs")
    groups = oci.Mount("/vol/groups", "cgroup", "cgroup")
    assert check(root, Mount("/vol", str(volume)), Mount("/dev/dri", "/dev"), before=(other, HOSTNAME)) == ()
    found = check(root, Mount("/vol", str(volume)), Mount("/vol/fine", "/x"), before=(other, groups))
    assert found == (
        Landing("/dev", "/dev", "", frozenset(), None),
        Landing("/vol", "/vol", "", frozenset(), 0),
        Landing("/vol/sub", "/vol/fine", "/x", frozenset(), 1),
    )


def test_what_a_later_mount_hides_is_counted_and_not_looked_at(root: Path, volume: Path) -> None:
    twice = (Mount("/vol", str(volume)), Mount("/vol/in", "/a"), Mount("/vol/in", "/b"))
    assert [landing.source for landing in check(root, *twice)] == ["", "", "/b"]
    (root / "again").symlink_to("/vol")
    above = (Mount("/vol", str(volume)), Mount("/vol/in", "/a"), Mount("/again", "/b"))
    assert [landing.source for landing in check(root, *above)] == ["", "", ""]


def test_mounts_where_they_were_asked_for_are_fine_whatever_else_is_mounted(tmp_path: Path) -> None:
    landings = shown(tmp_path, "/vol", "/vol/x", "/vol/a b\\c", "/vol/line\rend")
    table = ("/", "/proc", "/vol", "/vol/inner", "/vol/x", "/vol/x", "/vol/a\\040b\\134c", "/vol/line\rend")
    check_landings(landings, process(tmp_path, *table))


@pytest.mark.parametrize(
    "table", [("/vol", "/proc"), ("/vol", "/dev", "/vol/y"), ("/vol/x",), ("/vol", "/vol/x/in"), ()]
)
def test_cve_2023_27561_a_mount_that_was_led_away_meanwhile_is_missed(
    tmp_path: Path, table: tuple[str, ...]
) -> None:
    with pytest.raises(WrongState, match=r"^mounts\[.\]\.container_path: /vol.* is not mounted at /vol"):
        check_landings(shown(tmp_path, "/vol", "/vol/x"), process(tmp_path, "/", "/proc", *table))


def test_a_place_must_be_mounted_over_as_often_as_it_was_asked_for(tmp_path: Path) -> None:
    landings = shown(tmp_path, "/vol", "/vol/x") + shown(tmp_path, "/vol/x")
    check_landings(landings, process(tmp_path, "/vol", "/vol/x", "/vol/x"))
    with pytest.raises(WrongState, match="/vol/x is not mounted"):
        check_landings(landings, process(tmp_path, "/vol", "/vol/x"))


def test_a_mount_that_a_recursive_bind_brought_along_stands_for_no_other(tmp_path: Path) -> None:
    landings = shown(tmp_path, "/vol", "/vol/x")
    landings[1] = Landing("/vol/x", "/vol/x", str(tmp_path), frozenset(), 1)
    with pytest.raises(WrongState, match=r"mounts\[1\]\.container_path: /vol/x is not mounted"):
        check_landings(landings, process(tmp_path, "/vol", "/vol/x"))


@pytest.mark.parametrize("flag", ["ro", "nosuid", "nodev", "noexec"])
def test_what_a_mount_takes_away_must_be_taken_away_at_its_place(
    root: Path, volume: Path, tmp_path: Path, flag: str
) -> None:
    inner = oci.Mount("/vol/in", "bind", "", ("rbind", "rprivate", "rw" if flag != "ro" else "", flag))
    landings = check(root, before=(bound(Mount("/vol", str(volume))), inner))
    check_landings(landings, process(tmp_path, "/vol", "/vol/in", flags=f"rw,{flag},relatime"))
    with pytest.raises(WrongState, match="/vol/in is not mounted at /vol/in as asked"):
        check_landings(landings, process(tmp_path, "/vol", "/vol/in", flags="rw,relatime"))


def test_a_link_put_where_a_mount_lies_is_not_followed(tmp_path: Path) -> None:
    landings = shown(tmp_path, "/vol", "/vol/x")
    inside = tmp_path / "process" / "root" / "vol"
    (inside / "x").rename(inside / "moved")
    (inside / "x").symlink_to("moved")
    with pytest.raises(WrongState, match="/vol/x is not mounted"):
        check_landings(landings, process(tmp_path, "/vol", "/vol/x"))


def test_a_file_of_the_pod_that_was_led_away_names_the_mounts(root: Path, tmp_path: Path) -> None:
    etc = Mount("/etc", str(tmp_path))
    with pytest.raises(WrongState, match=r"^mounts: /etc/hostname is not mounted at /etc/hostname"):
        check_landings(
            check(root, etc, before=(bound(etc), HOSTNAME)), process(tmp_path, "/etc", "/etc", "/proc")
        )


def test_a_process_that_has_ended_has_no_mounts_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_landings(shown(tmp_path, "/vol"), str(tmp_path / "gone"))
