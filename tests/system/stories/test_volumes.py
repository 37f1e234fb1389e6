"""The volume side of the CRI on real runtimes: host paths, images as volumes, and an image's own VOLUMEs.

Tests named after a CVE hold for its whole class: what an image or a volume says must not lead anywhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import pods
from crib.client.errors import ClientError, InvalidRequest, NotFound
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import (
    BuiltImage,
    BuiltLayer,
    Entry,
    busybox_image,
    directory,
    layer_tar,
    machine_architecture,
)
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

DATA = "registry.test/data:1"
SINGLE = "registry.test/single:1"
DECLARING = "registry.test/declaring:1"
HOSTILE = "registry.test/hostile:1"
FAILED = "ImageVolumeMountFailed"
SYMLINK, FIFO = tarfile.SYMTYPE, tarfile.FIFOTYPE


def link(name: str, target: str) -> Entry:
    return Entry(name, kind=SYMLINK, link=target, mode=0o777)


def images() -> list[BuiltImage]:
    data = [
        directory("conf"),
        Entry("conf/app.ini", b"colour=blue\n"),
        directory("conf/deep"),
        Entry("conf/deep/x", b"deep\n"),
        link("absolute", "/conf"),
        link("climbing", "../../../../../../conf/deep"),
        link("out", "../../../../../../etc/shadow-of-the-host"),
        Entry("pipe", kind=FIFO),
        Entry("bin/suid", b"#!/bin/sh\nid -u\n", 0o4755),
    ]
    declared = [
        directory("data"),
        Entry("data/owned", b"kept\n", 0o640, uid=1000, gid=2000),
        link("data/link", "/etc/passwd"),
        Entry("data/set", b"", 0o4711, uid=7),
        Entry("data/sub/file", b"sub\n"),
        directory("covered"),
        Entry("covered/of-the-image", b"x"),
        link("elsewhere", "/data/sub"),
        link("climbing", "../../../../../../../../tmp"),
    ]
    volumes = [
        "/data",
        "/missing/dir",
        "/covered",
        "/elsewhere",
        "/climbing",
        "/proc/sys",
        "/sys/fs/cgroup",
        "/",
    ]
    hostile = [link("escape", "../../../../../../../../../tmp"), link("x", "/proc"), directory("vol")]
    return [
        busybox_image(name=IMAGE),
        busybox_image([directory("gone")], data, name=DATA),
        BuiltImage((BuiltLayer(layer_tar([Entry("one", b"1\n")])),), {}, (SINGLE,), machine_architecture()),
        busybox_image(declared, name=DECLARING, Volumes={volume: {} for volume in volumes}),
        busybox_image(hostile, name=HOSTILE),
    ]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    handlers = "[handlers.crun]\n[handlers.runc]\n"
    with running_cribd(extra=handlers, built=images()) as daemon:
        asyncio.run(_mount_all(daemon))
        yield daemon


async def _mount_all(cribd: Cribd) -> None:
    """Layers stay mounted once they were used: from now on all of them are."""
    async with cribd.connect() as cri:
        pod = await cri.run_pod("warm")
        mounts = [image_mount("/single", SINGLE)]
        for number, image in enumerate((DATA, DECLARING, HOSTILE)):
            await cri.create(pod, "true", image=image, mounts=mounts, name=f"warm{number}")
        await cri.remove_pod(pod)


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture(params=["crun", "runc"])
def handler(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def pod(cri: Cri, handler: str) -> Pod:
    """A pod of each handler."""
    return await pods.run_sandbox(cri.connection, cri.pod_config("volumes"), handler)


def image_mount(path: str, image: str = DATA, sub: str = "", **fields: object) -> pb.Mount:
    values = {"readonly": True, **fields}
    return pb.Mount(container_path=path, image=pb.ImageSpec(image=image), image_sub_path=sub, **values)  # type: ignore[arg-type]


async def run(cri: Cri, pod: Pod, *mounts: pb.Mount, **fields: object) -> str:
    return await cri.run_container(pod, "sleep", "1000", mounts=mounts, **fields)


async def options_at(cri: Cri, box: str, path: str) -> set[str]:
    """The flags of the topmost mount at a path of the container."""
    lines = (await cri.sh(box, "cat /proc/mounts")).splitlines()
    return set([line.split()[3] for line in lines if line.split()[1] == path][-1].split(","))


# images as volumes


async def test_an_image_is_a_volume_that_can_be_read_and_run_but_not_written(cri: Cri, pod: Pod) -> None:
    box = await run(cri, pod, image_mount("/v"), image_mount("/single", SINGLE))
    assert await cri.sh(box, "cat /v/conf/app.ini /single/one && /v/bin/echo ran") == "colour=blue\n1\nran"
    assert (await cri.execute(box, "touch", "/v/new")).code != 0
    assert (await cri.execute(box, "rm", "/single/one")).code != 0
    assert {"ro", "nosuid", "nodev"} <= await options_at(cri, box, "/v")
    assert "noexec" not in await options_at(cri, box, "/v")


async def test_the_status_names_the_exact_image_of_each_volume(cri: Cri, pod: Pod) -> None:
    box = await run(cri, pod, image_mount("/v", sub="conf"))
    (mount,) = (await cri.status(box)).mounts
    assert mount.image.image == DATA
    assert mount.image.image_ref == next(image.id for image in images() if DATA in image.names)
    assert (mount.image_sub_path, mount.readonly, mount.host_path) == ("conf", True, "")


async def test_many_sub_paths_of_one_image_may_be_directories_and_files(cri: Cri, pod: Pod) -> None:
    mounts = [
        image_mount("/conf", sub="conf"),
        image_mount("/etc/app.ini", sub="conf/app.ini"),
        image_mount("/conf2", sub="absolute/deep"),
        image_mount("/conf3", sub="climbing"),
    ]
    box = await run(cri, pod, *mounts)
    assert (
        await cri.sh(box, "cat /conf/app.ini /etc/app.ini /conf2/x /conf3/x")
        == "colour=blue\n" * 2 + "deep\ndeep"
    )
    mounted = [line for line in Path("/proc/mounts").read_text().splitlines() if f"{box}/volumes/" in line]
    assert len(mounted) == 1


@pytest.mark.parametrize("sub", ["no/such", "out", "pipe", "conf/app.ini/below"])
async def test_a_sub_path_that_cannot_be_a_volume_is_refused_by_its_field(
    cri: Cri, pod: Pod, sub: str
) -> None:
    before = cri.cribd.leftovers()
    with pytest.raises(InvalidRequest, match=rf"{FAILED}.*mounts\[0\]\.image_sub_path"):
        await cri.create(pod, "true", mounts=[image_mount("/v", sub=sub)])
    cri.cribd.settle(before)


@pytest.mark.parametrize("sub", ["../etc", "a/../../b", "/etc"])
async def test_a_sub_path_never_leaves_its_image(cri: Cri, pod: Pod, sub: str) -> None:
    with pytest.raises(InvalidRequest, match="image_sub_path"):
        await cri.create(pod, "true", mounts=[image_mount("/v", sub=sub)])


async def test_an_image_volume_must_be_read_only_private_and_here(cri: Cri, pod: Pod) -> None:
    with pytest.raises(InvalidRequest, match=rf"{FAILED}.*readonly.*must be true"):
        await cri.create(pod, "true", mounts=[image_mount("/v", readonly=False)])
    with pytest.raises(InvalidRequest, match="propagation"):
        await cri.create(pod, "true", mounts=[image_mount("/v", propagation=pb.PROPAGATION_BIDIRECTIONAL)])
    with pytest.raises(NotFound, match=rf"{FAILED}.*registry.test/absent"):
        await cri.create(pod, "true", mounts=[image_mount("/v", "registry.test/absent:1")])


async def test_an_image_stays_readable_after_its_removal_and_goes_with_its_last_container(cri: Cri) -> None:
    name = "registry.test/short-lived:1"
    built = BuiltImage(
        (BuiltLayer(layer_tar([Entry("f", b"still\n")])),), {}, (name,), machine_architecture()
    )
    pod = await cri.run_pod("keeps")
    with_layers = cri.cribd.leftovers()
    await _import(cri, built)
    box = await run(cri, pod, image_mount("/v", name))
    await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))
    assert await cri.sh(box, "cat /v/f") == "still"
    await cri.stop_container(box)
    await cri.remove_container(box)
    await _import(cri, built)  # an import sweeps what nothing needs
    await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))
    cri.cribd.settle(with_layers)


async def _import(cri: Cri, built: BuiltImage) -> None:
    from tests.images import write_saved_archive

    archive = write_saved_archive(cri.cribd.root / "later.tar", [built])
    await cri.import_archive(archive)
    archive.unlink()


@pytest.fixture
def own_cribd() -> Iterator[Cribd]:
    """For what starts it anew: the new process would count as left behind."""
    with running_cribd(built=images()) as daemon:
        yield daemon


async def test_image_volumes_outlive_the_daemon(own_cribd: Cribd) -> None:
    async with own_cribd.connect() as cri:
        pod = await cri.run_pod("lasting")
        box = await run(cri, pod, image_mount("/v", sub="conf"))
    own_cribd.kill()
    own_cribd.start()
    async with own_cribd.connect() as again:
        assert await again.sh(box, "cat /v/app.ini") == "colour=blue"
        assert (await again.status(box)).mounts[0].image.image_ref
        await again.remove_pod(pod)


async def test_all_kinds_of_volumes_have_the_ids_of_a_pods_user_namespace(
    cri: Cri, handler: str, tmp_path: Path
) -> None:
    ids = [pb.IDMapping(host_id=200000, container_id=0, length=65536)]
    users = pb.UserNamespace(mode=pb.POD, uids=ids, gids=ids)
    options = pb.NamespaceOption(pid=pb.CONTAINER, userns_options=users)
    pod = await pods.run_sandbox(cri.connection, cri.pod_config("users", namespaces=options), handler)
    tmp_path.chmod(0o700)
    (tmp_path / "file").touch()
    mounts = [
        image_mount("/v", sub="conf"),
        pb.Mount(container_path="/m", host_path=str(tmp_path), uidMappings=ids, gidMappings=ids),
    ]
    box = await run(cri, pod, *mounts, image=DECLARING, namespaces=options)
    shown = await cri.sh(box, "stat -c '%u %g' /v/app.ini /m/file /data/set /data/owned /missing/dir")
    assert shown == "0 0\n0 0\n7 0\n1000 2000\n0 0"
    await cri.sh(box, "echo x > /data/new && echo x > /m/new && echo x > /missing/dir/new")
    assert (tmp_path / "new").stat().st_uid == 0


# VOLUMEs of the image


async def test_a_declared_volume_starts_as_the_images_content_with_its_owners(cri: Cri, pod: Pod) -> None:
    box = await run(cri, pod, image=DECLARING)
    assert await cri.sh(box, "stat -c '%u %g %a' /data/owned /data/set") == "1000 2000 640\n7 0 4711"
    assert (
        await cri.sh(box, "readlink /data/link; cat /data/sub/file /data/owned") == "/etc/passwd\nsub\nkept"
    )
    assert await cri.sh(box, "echo new > /data/new && echo new > /missing/dir/new && cat /data/new") == "new"
    listed = (await cri.sh(box, "cat /proc/mounts")).splitlines()
    places = [line.split()[1] for line in listed]
    assert {"/data", "/missing/dir", "/covered", "/data/sub"} <= set(places)
    assert "/proc/sys" not in [line.split()[1] for line in listed if not line.startswith("proc")]
    assert "cgroup" in next(line for line in listed if line.split()[1] == "/sys/fs/cgroup").split()[0:3][
        2
    ] or any(" /sys/fs/cgroup/" in line for line in listed)


async def test_a_declared_volume_can_be_written_in_a_read_only_root_and_goes_with_it(
    cri: Cri, pod: Pod
) -> None:
    config = cri.container_config("sleep", "1000", image=DECLARING)
    config.linux.security_context.readonly_rootfs = True
    before = cri.cribd.leftovers()
    box = await pods.create_container(cri.connection, pod, config)
    await cri.start(box)
    assert (await cri.execute(box, "touch", "/new")).code != 0
    assert await cri.sh(box, "touch /data/new && ls /data/new") == "/data/new"
    await cri.stop_container(box)
    await cri.remove_container(box)
    cri.cribd.settle(before)


async def test_a_mount_of_the_pod_takes_the_place_of_a_declared_volume(
    cri: Cri, pod: Pod, tmp_path: Path
) -> None:
    (tmp_path / "of-the-pod").touch()
    mounts = [
        pb.Mount(container_path="/covered", host_path=str(tmp_path)),
        pb.Mount(container_path="/missing", host_path=str(tmp_path)),
    ]
    box = await run(cri, pod, *mounts, image=DECLARING)
    assert await cri.sh(box, "ls /covered") == "of-the-pod"
    assert os.listdir(tmp_path) == ["of-the-pod"]


async def test_cve_2022_23648_a_declared_volume_copies_nothing_from_the_host(cri: Cri, pod: Pod) -> None:
    secret = Path("/tmp") / f"crib-secret-{os.getpid()}"
    secret.write_text("secret")
    try:
        box = await run(cri, pod, image=DECLARING)
        assert secret.name not in await cri.sh(box, "ls /tmp /climbing")
    finally:
        secret.unlink()


# host paths


async def test_options_of_a_mount_reach_the_kernel(cri: Cri, pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "program").chmod(0o755)
    wanted = ["noexec", "nosuid", "nodev", "noatime"]
    mounts = [
        pb.Mount(container_path="/m", host_path=str(tmp_path), mount_options=wanted),
        pb.Mount(container_path="/ro", host_path=str(tmp_path), mount_options=["ro"]),
        image_mount("/v", mount_options=["noexec"]),
    ]
    box = await run(cri, pod, *mounts)
    assert set(wanted) <= await options_at(cri, box, "/m")
    assert "ro" in await options_at(cri, box, "/ro")
    assert "noexec" in await options_at(cri, box, "/v")
    assert (await cri.execute(box, "sh", "-c", "/m/program")).code == 126
    assert list((await cri.status(box)).mounts[0].mount_options) == wanted


@pytest.mark.parametrize(
    "option", ["exec", "rshared", "bind", "size=1g", "context=x", "upperdir=/etc", "suid"]
)
async def test_an_option_that_is_no_restriction_is_refused_by_its_field(cri: Cri, option: str) -> None:
    pod = await cri.run_pod("options")
    mount = pb.Mount(container_path="/m", host_path="/tmp", mount_options=[option])
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.mount_options"):
        await cri.create(pod, "true", mounts=[mount])


async def test_a_host_path_that_is_a_link_is_followed_and_a_missing_one_is_made(
    cri: Cri, pod: Pod, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("here\n")
    (tmp_path / "link").symlink_to("real")
    mounts = [
        pb.Mount(container_path="/m", host_path=f"{tmp_path}/link"),
        pb.Mount(container_path="/f", host_path=f"{tmp_path}/link/file"),
        pb.Mount(container_path="/made", host_path=f"{tmp_path}/link/made/deep"),
    ]
    box = await run(cri, pod, *mounts)
    assert await cri.sh(box, "cat /m/file /f; ls -d /made") == "here\nhere\n/made"
    assert (tmp_path / "real" / "made" / "deep").stat().st_mode & 0o777 == 0o755


async def test_mounts_that_overlap_are_all_seen_in_whatever_order_they_come(
    cri: Cri, pod: Pod, tmp_path: Path
) -> None:
    for name in ("top", "inner", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "top" / "t").touch()
    (tmp_path / "inner" / "i").touch()
    (tmp_path / "file").write_text("file\n")
    (tmp_path / "etc" / "own").touch()
    mounts = [
        pb.Mount(container_path="/m/a/b/f", host_path=f"{tmp_path}/file"),
        pb.Mount(container_path="/m/a", host_path=f"{tmp_path}/inner"),
        pb.Mount(container_path="/m", host_path=f"{tmp_path}/top"),
        pb.Mount(container_path="/dev/shm/inner", host_path=f"{tmp_path}/inner"),
        pb.Mount(container_path="/etc", host_path=f"{tmp_path}/etc"),
        image_mount("/m/a/image", sub="conf"),
    ]
    box = await run(cri, pod, *mounts)
    assert await cri.sh(box, "ls /m/t /m/a/i /dev/shm/inner/i /etc/own; cat /m/a/b/f /m/a/image/app.ini") == (
        "/dev/shm/inner/i\n/etc/own\n/m/a/i\n/m/t\nfile\ncolour=blue"
    )
    assert "volumes" in await cri.sh(box, "cat /etc/hostname")


async def test_masked_paths_stay_masked_under_a_mount_of_the_pod(cri: Cri, pod: Pod) -> None:
    config = cri.container_config(
        "sleep", "1000", mounts=[pb.Mount(container_path="/sys", host_path="/sys", readonly=True)]
    )
    config.linux.security_context.masked_paths.append("/sys/kernel")
    box = await pods.create_container(cri.connection, pod, config)
    await cri.start(box)
    assert await cri.sh(box, "ls /sys/kernel") == ""
    assert os.listdir("/sys/kernel")


# places in the container


@pytest.fixture
def target() -> Iterator[Path]:
    """A directory of the host that an escaping mount would hit."""
    path = Path("/tmp") / f"crib-target-{os.getpid()}"
    path.mkdir()
    yield path
    assert os.listdir(path) == []
    path.rmdir()


async def test_cve_2024_45310_nothing_is_made_on_the_host_behind_a_link_of_the_image(
    cri: Cri, pod: Pod, tmp_path: Path, target: Path
) -> None:
    (tmp_path / "here").touch()
    mounts = [pb.Mount(container_path=f"/escape/{target.name}/made", host_path=str(tmp_path))]
    box = await run(cri, pod, *mounts, image=HOSTILE)
    assert await cri.sh(box, f"ls /tmp/{target.name}/made") == "here"


async def test_cve_2021_30465_a_link_in_a_shared_volume_does_not_lead_a_mount_out(
    cri: Cri, pod: Pod, tmp_path: Path, target: Path
) -> None:
    volume, inner = tmp_path / "volume", tmp_path / "inner"
    volume.mkdir()
    inner.mkdir()
    (inner / "here").touch()
    (volume / "link").symlink_to(f"../../../../../../../..{target}")
    mounts = [
        pb.Mount(container_path="/vol", host_path=str(volume)),
        pb.Mount(container_path="/vol/link/made", host_path=str(inner)),
    ]
    with contextlib.suppress(ClientError):  # crun does not go there at all
        box = await run(cri, pod, *mounts, image=HOSTILE)
        assert "here" in await cri.sh(box, f"ls {target}/made /vol/link/made")
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert not [path for path in mounted if path.startswith(str(target))]


@pytest.mark.parametrize("place", ["/proc", "/proc/self/attr", "/x", "/x/sys"])
async def test_cve_2019_16884_no_volume_takes_the_place_of_proc(
    cri: Cri, pod: Pod, tmp_path: Path, place: str
) -> None:
    (tmp_path / "self" / "attr").mkdir(parents=True)
    mounts = [pb.Mount(container_path=place, host_path=str(tmp_path))]
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.container_path.*proc"):
        await run(cri, pod, *mounts, image=HOSTILE)


async def test_the_nodes_own_proc_may_be_mounted(cri: Cri, pod: Pod) -> None:
    box = await run(cri, pod, pb.Mount(container_path="/host/proc", host_path="/proc", readonly=True))
    assert await cri.sh(box, "cat /host/proc/1/comm")


async def test_the_nodes_dev_may_be_mounted_and_the_pods_shm_stays_its_own(cri: Cri, pod: Pod) -> None:
    before = below_dev()
    box = await run(cri, pod, pb.Mount(container_path="/dev", host_path="/dev"))
    assert await cri.sh(box, "echo x > /dev/null && touch /dev/shm/mine && ls /dev/shm") == "mine"
    assert not Path("/dev/shm/mine").exists()
    assert below_dev() == before


def below_dev() -> list[str]:
    """What the node has mounted there."""
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith("/dev") and "/shm/" not in place]


async def test_only_a_privileged_container_may_write_to_its_cgroups(cri: Cri, handler: str) -> None:
    config = cri.pod_config("powers")
    config.linux.security_context.privileged = True
    pod = await pods.run_sandbox(cri.connection, config, handler)
    wanted = cri.container_config("sleep", "1000", name="powerful")
    wanted.linux.security_context.privileged = True
    powerful = await pods.create_container(cri.connection, pod, wanted)
    await cri.start(powerful)
    plain = await run(cri, pod)
    script = "grep ' /sys/fs/cgroup' /proc/mounts | grep -v tmpfs | cut -d' ' -f4 | cut -d, -f1 | sort -u"
    assert (await cri.sh(powerful, script), await cri.sh(plain, script)) == ("rw", "ro")


async def test_an_image_volume_may_be_asked_for_as_recursively_read_only(cri: Cri, pod: Pod) -> None:
    box = await run(cri, pod, image_mount("/v", sub="conf", recursive_read_only=True))
    assert (await cri.execute(box, "touch", "/v/new")).code != 0
    assert (await cri.status(box)).mounts[0].recursive_read_only
