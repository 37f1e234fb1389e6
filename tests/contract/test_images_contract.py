"""The port `Images`: in memory, and the layer store with its worker, a registry on loopback, real mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from crib.backends.images.probe import probe_mounting
from crib.backends.images.store import LayerStore
from crib.model.errors import InvalidRequest, NotFound
from crib.model.ids import Digest
from crib.model.image import (
    ExportedImage,
    FetchedImage,
    ImageConfig,
    ImageRecord,
    Layer,
    Progress,
    PullOrder,
    SuspectImage,
    parse_reference,
)
from crib.model.image_settings import ImageSettings
from crib.model.paths import Paths
from crib.ports.images import Images
from tests import images as built
from tests.fakes.images import FakeImages, digest_of, made_image
from tests.fakes.world import bounded
from tests.registry import running_registry


@dataclass
class ImageLab:
    """An image port, and ways to put images where it finds them. Layers are named by words."""

    images: Images
    host: str
    directory: Path
    url: str = ""

    def name(self, repository: str) -> str:
        return f"{self.host}/{repository}:1"

    def publish(self, repository: str, *layers: str) -> None:
        if isinstance(self.images, FakeImages):
            self.images.publish(self.name(repository), made_image(repository, *layers, config=CONFIG))
        else:
            built.push(self.url, self._build(repository, layers), repository, "1")

    def save(self, *repositories: str) -> str:
        """An archive of images with one layer each, named docker.io/library/REPOSITORY:1."""
        names = [f"docker.io/library/{repository}:1" for repository in repositories]
        path = self.directory / "saved.tar"
        if isinstance(self.images, FakeImages):
            self.images.archives[str(path)] = tuple(
                replace(made_image(repository, repository), names=(name,))
                for repository, name in zip(repositories, names, strict=True)
            )
            path.write_bytes(b"")
        else:
            made = [
                replace(self._build(repository, [repository]), names=(name,))
                for repository, name in zip(repositories, names, strict=True)
            ]
            built.write_oci_archive(path, made)
        return str(path)

    def _build(self, repository: str, layers: Sequence[str]) -> built.BuiltImage:
        tars = tuple(
            built.BuiltLayer(built.layer_tar([built.Entry(f"{word}.txt", word.encode() * 5000)]))
            for word in layers
        )
        config = {"Cmd": ["sleep", "60"], "StopSignal": "SIGINT", "Labels": {"name": repository}}
        return built.BuiltImage(tars, config, architecture=built.machine_architecture())

    def order(self, repository: str) -> PullOrder:
        return PullOrder(parse_reference(self.name(repository)))

    async def pull(self, repository: str, seen: list[Progress] | None = None) -> FetchedImage:
        async with bounded():
            return await self.images.pull(self.order(repository), ([] if seen is None else seen).append)

    def damage(self, layer: Layer) -> None:
        """Change what is on disk of a layer, as a rotten block would."""
        if isinstance(self.images, FakeImages):
            self.images.damaged.add(layer.diff_id)
        else:
            path = self.directory / "d" / "layers" / f"{layer.diff_id.removeprefix('sha256:')}.erofs"
            with path.open("r+b") as file:
                file.seek(5000)
                byte = file.read(1)
                file.seek(5000)
                file.write(bytes([byte[0] ^ 1]))

    def lose(self, layer: Layer) -> None:
        """Take a layer off the disk."""
        if isinstance(self.images, FakeImages):
            self.images.layers.discard(layer.diff_id)
        else:
            path = self.directory / "d" / "layers" / f"{layer.diff_id.removeprefix('sha256:')}.erofs"
            path.unlink()


PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""
"""P-256's base point: a valid key that signs nothing here."""
CONFIG = ImageConfig(cmd=("sleep", "60"), stop_signal="SIGINT")


@pytest.fixture(scope="module", params=["fake", pytest.param("store", marks=pytest.mark.root)])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a real registry answers; empty for the fake, which needs none."""
    if request.param == "fake":
        yield ""
        return
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
async def lab(registry: str, private_root: Path) -> AsyncIterator[ImageLab]:
    if not registry:
        yield ImageLab(FakeImages(), "registry.test", private_root)
        return
    paths = Paths(f"{private_root}/d", f"{private_root}/s")
    for path in (paths.data, paths.state):
        Path(path).mkdir()
    settings = ImageSettings()
    store = LayerStore(paths, settings, probe_mounting(paths, settings.store))
    yield ImageLab(store, registry.removeprefix("http://"), private_root, registry)
    await store.close()
    await store.dismantle()


def diff_ids(image: FetchedImage) -> list[Digest]:
    return [layer.diff_id for layer in image.layers]


async def test_a_pulled_image_has_config_layers_and_the_digest_of_its_manifest(lab: ImageLab) -> None:
    lab.publish("app", "base", "top")
    image = await lab.pull("app")
    assert image.id.startswith("sha256:")
    assert (image.config.cmd, image.config.stop_signal) == (("sleep", "60"), "SIGINT")
    assert len(set(diff_ids(image))) == 2
    assert all(layer.size > 0 for layer in image.layers)
    assert image.manifest_digest is not None
    async with bounded():
        again = await lab.images.pull(
            PullOrder(parse_reference(f"{lab.host}/app@{image.manifest_digest}")), lambda progress: None
        )
    assert (again.id, again.manifest_digest, diff_ids(again)) == (
        image.id,
        image.manifest_digest,
        diff_ids(image),
    )


async def test_progress_is_told_for_each_layer_until_it_is_done(lab: ImageLab) -> None:
    lab.publish("app", "base", "top")
    seen: list[Progress] = []
    await lab.pull("app", seen)
    assert {progress.stage for progress in seen} <= {
        "resolving",
        "waiting",
        "downloading",
        "writing",
        "present",
        "done",
    }
    done = {progress.layer for progress in seen if progress.stage == "done"}
    assert len(done) == 2
    assert all(progress.done <= progress.total for progress in seen if progress.total)


async def test_a_layer_that_is_here_is_not_fetched_again(lab: ImageLab) -> None:
    lab.publish("app", "base")
    lab.publish("child", "base", "top")
    first = await lab.pull("app")
    seen: list[Progress] = []
    second = await lab.pull("child", seen)
    assert diff_ids(second)[0] == diff_ids(first)[0]
    if isinstance(lab.images, FakeImages):
        assert len(lab.images.downloaded) == 2
    else:
        fetched = {progress.layer for progress in seen if progress.stage == "downloading" and progress.done}
        assert len(fetched) <= 1


async def test_an_image_that_is_not_in_the_registry_is_not_found(lab: ImageLab) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await lab.pull("nowhere")


async def test_a_sweep_takes_the_layers_that_are_not_kept(lab: ImageLab) -> None:
    lab.publish("app", "base", "top")
    image = await lab.pull("app")
    base, top = diff_ids(image)
    async with bounded():
        assert list(await lab.images.sweep({base})) == [top]
        assert list(await lab.images.sweep({base})) == []
        assert list(await lab.images.sweep(set())) == [base]
    assert diff_ids(await lab.pull("app")) == [base, top]


async def test_an_archive_gives_its_images_with_their_names(lab: ImageLab) -> None:
    path = lab.save("one", "two")
    async with bounded():
        found = await lab.images.import_archive(path, lambda progress: None)
    assert {image.names for image in found} == {
        ("docker.io/library/one:1",),
        ("docker.io/library/two:1",),
    }
    assert all(len(image.layers) == 1 for image in found)


async def test_an_archive_that_is_not_there_is_the_callers_fault(lab: ImageLab) -> None:
    with pytest.raises(InvalidRequest, match=r"nothing\.tar"):
        await lab.images.import_archive(f"{lab.directory}/nothing.tar", lambda progress: None)


async def test_a_layer_is_checked_and_one_that_is_damaged_is_fetched_anew(lab: ImageLab) -> None:
    lab.publish("app", "base", "top")
    image = await lab.pull("app")
    base, top = image.layers
    async with bounded():
        assert [await lab.images.check(layer) for layer in image.layers] == ["", ""]
        lab.damage(base)
        assert "digest" in await lab.images.check(base)
        assert await lab.images.check(top) == ""
        order = replace(lab.order("app"), again=frozenset({base.diff_id}))
        again = await lab.images.pull(order, lambda progress: None)
        assert [await lab.images.check(layer) for layer in (again.layers[0], top)] == ["", ""]


async def test_a_layer_that_was_lost_is_missed(lab: ImageLab) -> None:
    lab.publish("app", "base")
    (base,) = (await lab.pull("app")).layers
    lab.lose(base)
    async with bounded():
        assert await lab.images.check(base) != ""


async def test_layers_that_are_on_disk_are_told_and_a_lost_one_is_fetched_by_the_next_pull(
    lab: ImageLab,
) -> None:
    lab.publish("app", "base", "top")
    image = await lab.pull("app")
    async with bounded():
        assert set(await lab.images.present()) == set(diff_ids(image))
        lab.lose(image.layers[0])
        assert set(await lab.images.present()) == {image.layers[1].diff_id}
        await lab.pull("app")
        assert set(await lab.images.present()) == set(diff_ids(image))


async def test_a_new_archive_is_written_and_an_old_one_never(lab: ImageLab) -> None:
    lab.publish("app", "base", "top")
    image = await lab.pull("app")
    record = ImageRecord(image.id, image.config, image.layers)
    exported = ExportedImage(record, image.documents, (lab.name("app"),))
    path = f"{lab.directory}/out.tar"
    for archive_format in ("oci", "docker"):
        async with bounded():
            assert await lab.images.export(f"{path}.{archive_format}", [exported], archive_format) > 0
    Path(path).write_text("mine")
    with pytest.raises(InvalidRequest, match=r"out\.tar"):
        await lab.images.export(path, [exported], "oci")
    assert Path(path).read_text() == "mine"


async def test_who_would_be_asked_ends_with_the_registry_itself(lab: ImageLab) -> None:
    async with bounded():
        hosts = await lab.images.hosts(lab.order("app"))
    assert (hosts[-1].is_origin, hosts[-1].repository) == (True, "app")
    assert hosts[-1].url.endswith(f"{lab.host}/v2")


async def test_an_image_without_signatures_is_not_signed(lab: ImageLab) -> None:
    key = lab.directory / "key.pub"
    key.write_text(PUBLIC_KEY)
    digest = digest_of("manifest")
    suspect = SuspectImage(lab.order("app").reference, digest, (), keys=(str(key),))
    async with bounded():
        assert await lab.images.verify(suspect) != ""
        assert await lab.images.verify(replace(suspect, keys=())) == ""


async def test_the_space_of_the_file_system_is_told(lab: ImageLab) -> None:
    async with bounded():
        space = await lab.images.space()
    assert 0 <= space.free <= space.total
    assert space.total > 0


async def test_usage_grows_with_the_layers(lab: ImageLab) -> None:
    lab.publish("app", "base")
    async with bounded():
        before = await lab.images.usage()
        await lab.pull("app")
        after = await lab.images.usage()
    assert after.used_bytes > before.used_bytes
    assert after.inodes_used > before.inodes_used


async def test_where_no_container_is_writable_layers_take_nothing(lab: ImageLab) -> None:
    async with bounded():
        assert (await lab.images.writable_usage()).used_bytes == 0


async def test_how_layers_are_mounted_is_told(lab: ImageLab) -> None:
    assert lab.images.mounting.method in ("file", "loop")
    assert lab.images.mounting.block_size in (512, 4096)


async def test_closing_and_dismantling_twice_is_fine(lab: ImageLab) -> None:
    lab.publish("app", "base")
    await lab.pull("app")
    async with bounded():
        for _ in range(2):
            await lab.images.close()
            await lab.images.dismantle()


async def test_an_image_can_be_looked_at_without_its_layers(lab: ImageLab) -> None:
    lab.publish("app", "base")
    async with bounded():
        seen = await lab.images.resolve(lab.order("app"), lambda progress: None)
        assert await lab.images.sweep(set()) == []
    image = await lab.pull("app")
    assert (seen.id, seen.manifest_digest, seen.layers) == (image.id, image.manifest_digest, ())
    with pytest.raises(NotFound, match="nowhere"):
        await lab.images.resolve(lab.order("nowhere"), lambda progress: None)


async def test_each_layer_has_its_size_on_disk(lab: ImageLab) -> None:
    lab.publish("sized", "base", "more")
    image = await lab.pull("sized")
    stored = await lab.images.stored()
    assert all(stored.layers[layer] > 0 for layer in diff_ids(image))
    assert set(stored.layers) == set(await lab.images.present())
