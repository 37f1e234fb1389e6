"""`crib pull`, `crib registry explain`, `crib image`: what they ask of the runtime, and what people see."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import images, options, progress
from crib.cli.forms import Format
from crib.cli.session import CliSession, CommandError
from crib.client.errors import NotFound, NotOffered, RuntimeFailure
from crib.stubs.node.v1.node_pb2 import CheckProgress, ExplainRegistryResponse, RegistryHost
from tests.unit.client.fake_runtime import World, serve


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


@pytest.fixture
async def other(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    """A runtime without crib's Node service."""
    server = await serve(f"{tmp_path}/other", world, node=False)
    yield CliSession(f"unix://{tmp_path}/other", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


async def test_a_pull_without_a_terminal_tells_host_layers_and_end_in_lines(
    session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    await images.pull(session, options.PullOptions(["reg/a:1"], platform="linux/arm64"))
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[:5] == [
        "pulling reg/a:1 for linux/arm64",
        "  from mirror.example:5000",
        "  ef  present 40 B of 40 B",
        "  ab  done    10 B of 10 B",
        "  cd  done    20 B of 20 B",
    ]
    assert lines[5].startswith("pulled reg/a:1 in ")
    assert lines[5].endswith(" s, 30 B from mirror.example:5000")
    assert said.out.startswith("sha256:")


async def test_credentials_come_from_standard_input(
    session: CliSession, other: CliSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "secret\r\n")
    await images.pull(session, options.PullOptions(["reg/a:1"], user="me", password_stdin=True))
    given = world.progress_requests[0].credentials
    assert (given.username, given.password) == ("me", "secret")
    type_in(monkeypatch, "token")
    await images.pull(other, options.PullOptions(["reg/b:1"], identity_token_stdin=True))
    assert world.pull_requests[0].auth.identity_token == "token"


async def test_a_typed_password_is_not_echoed(
    session: CliSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt}")
    await images.pull(session, options.PullOptions(["reg/a:1"], user="me", password_stdin=True))
    assert world.progress_requests[0].credentials.password == "typed at password of me: "


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n", "standard input has no identity token"), ("x" * (1 << 17), "is longer than 65536 characters")],
)
def test_an_empty_or_endless_secret_is_refused(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, text)
    with pytest.raises(CommandError, match=message):
        images.credentials(options.PullOptions(["a"], identity_token_stdin=True))


def test_a_secret_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    with pytest.raises(CommandError, match="is not UTF-8 text"):
        images.credentials(options.PullOptions(["a"], identity_token_stdin=True))


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("nginx", "docker.io"),
        ("library/nginx", "docker.io"),
        ("localhost/a", "localhost"),
        ("r:5000/a", "r:5000"),
        ("r.example/a/b:1", "r.example"),
    ],
)
def test_the_registry_of_a_name_is_its_first_part_if_that_is_a_host(name: str, host: str) -> None:
    assert images.registry_of(name) == host


async def test_a_platform_is_refused_where_the_runtime_would_not_heed_it(
    other: CliSession, world: World
) -> None:
    with pytest.raises(NotOffered, match="takes no platform: it pulls for its own"):
        await images.pull(other, options.PullOptions(["reg/a:1"], platform="linux/arm64"))
    assert not world.pull_requests


async def test_watching_ends_with_the_pull_and_says_when_there_is_none(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = options.PullOptions(["reg/a:1"], watch=True)
    with pytest.raises(CommandError, match="no pull of reg/a:1 is in progress"):
        await images.pull(session, wanted)
    world.running_pulls.add("reg/a:1")
    await images.pull(session, wanted)
    said = capsys.readouterr()
    assert said.out.strip() in world.images
    assert said.err.splitlines()[-1] == "pulled reg/a:1, 30 B from mirror.example:5000"


def host(url: str, **fields: object) -> RegistryHost:
    values: dict[str, object] = {"repository": "library/a", "resolves": True, "pulls": True, **fields}
    return RegistryHost(url=url, connect_timeout=10, **values)  # type: ignore[arg-type]  # the message's own


async def test_explain_is_a_table_of_hosts_in_their_order(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = host(
        "https://mirror.example/v2",
        resolves=False,
        authorities=1,
        client_certificates=2,
        headers=["X-A", "X-B"],
    )
    mirror.reason, mirror.credential, mirror.username = "hosts.toml", "auth.json", "me"
    world.explained = ExplainRegistryResponse(
        image="docker.io/library/a:1",
        policy="accept",
        hosts=[mirror, host("https://registry.example/v2", origin=True, skip_verify=True)],
    )
    await images.explain(session, options.ExplainOptions("a"))
    lines = [" | ".join(line.split("   ")) for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line.split(" | ") if cell.strip()] for line in lines]
    assert cells[:2] == [["image docker.io/library/a:1"], ["policy accept"]]
    assert cells[2] == ["#", "HOST", "REPOSITORY", "ASKED FOR", "CREDENTIAL", "TLS", "TIMEOUT", "WHY"]
    assert cells[3][1:4] == ["https://mirror.example/v2", "library/a", "digests"]
    assert cells[3][4:] == ["me, auth.json", "1 CA of its own, 2 client certificates", "10 s", "hosts.toml"]
    assert cells[4][3:] == ["tags, digests", "anonymous", "not verified", "10 s", "the registry itself"]
    assert cells[5] == ["1 is also sent the headers X-A, X-B"]
    await images.explain(session, options.ExplainOptions("a", Format.JSON))
    assert json.loads(capsys.readouterr().out)["hosts"][0]["clientCertificates"] == 2


@pytest.mark.parametrize(("url", "text"), [("http://a/v2", "none"), ("https://a/v2", "verified")])
def test_plain_http_is_seen(url: str, text: str) -> None:
    assert images.tls(host(url)) == text


async def test_a_check_tells_what_is_damaged_and_fails_while_damage_remains(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    image_id = world.add_image("reg/a:1", 0xABC << 240)
    world.checked = [
        CheckProgress(layer_digest="sha256:aa", images=["reg/a:1"]),
        CheckProgress(layer_digest="sha256:bb", images=["reg/a:1", "reg/b:1"], problem="data differs"),
        CheckProgress(
            layer_digest="sha256:cc", problem="no file", repair_error="no\x1b registry", images=["reg/b:1"]
        ),
        CheckProgress(layer_digest="sha256:dd", images=["reg/b:1"], problem="torn", repaired=True),
        CheckProgress(finished=True, layers=4, damaged=2),
    ]
    short = image_id.removeprefix("sha256:")[:12]
    assert await images.check(session, options.CheckOptions(["reg/a:1", short], repair=True)) == 1
    assert list(world.check_requests[0].images) == ["reg/a:1", image_id]
    assert capsys.readouterr().out.splitlines() == [
        "sha256:bb  damaged, of reg/a:1, reg/b:1: data differs",
        "sha256:cc  damaged, of reg/b:1: no file; not repaired: no? registry",
        "sha256:dd  repaired, of reg/b:1: torn",
        "4 layers checked, 1 repaired, 2 damaged",
    ]
    with pytest.raises(NotFound, match="there is no image 'nothing'"):
        await images.check(session, options.CheckOptions(["nothing"]))


async def test_a_check_without_damage_succeeds(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.checked = [CheckProgress(layer_digest="sha256:aa"), CheckProgress(finished=True, layers=1)]
    assert await images.check(session, options.CheckOptions()) == 0
    assert capsys.readouterr().out == "1 layer checked, none damaged\n"
    assert await images.check(session, options.CheckOptions(output=Format.JSON)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["checked"], found["damaged"], len(found["layers"])) == (1, 0, 1)
    world.checked = []
    with pytest.raises(RuntimeFailure, match="ended without a result"):
        await images.check(session, options.CheckOptions())


async def test_an_export_names_its_archive_and_overwrites_nothing(
    session: CliSession, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.add_image("reg/a:1")
    path = f"{tmp_path}/out.tar"
    await images.export(session, options.ExportOptions(path, ["reg/a:1"], options.ArchiveFormat.DOCKER))
    assert capsys.readouterr().out == f"exported reg/a:1 to {path} (2.0 KiB)\n"
    asked = world.export_requests[0]
    assert (asked.path, list(asked.images), asked.format) == (path, ["reg/a:1"], "docker")
    with pytest.raises(CommandError, match="exists; an export does not overwrite files"):
        await images.export(session, options.ExportOptions(path, ["reg/a:1"]))


def test_layers_are_counted_on_a_terminal_and_nothing_is_shown_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.counter("layers checked") as counted:
        counted()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.counter("layers checked") as counted:
        counted()


def test_a_waiting_layer_counts_without_a_bar() -> None:
    shown = progress.RichBars("a")
    with shown:
        shown.stage("fetching", "reg")
        shown.layer("sha256:ab", "downloading", 512, 1024)
        shown.layer("sha256:cd", "waiting", 0, 3072)
        shown.layer("sha256:ab", "downloading", 1024, 1024)
    amounts = [task.fields["amount"] for task in shown._progress.tasks]
    assert len(amounts) == 2
    assert amounts[0].startswith("1.0 KiB of 4.0 KiB")


def test_a_host_that_the_name_tells_is_not_told_twice() -> None:
    shown = progress.RichBars("reg:5000/a")
    with shown:
        shown.stage("fetching", "reg:5000")
        assert shown._progress.tasks[0].description == "reg:5000/a  fetching"
        shown.stage("fetching", "mirror")
        assert shown._progress.tasks[0].description == "reg:5000/a  fetching from mirror"


def test_a_host_that_takes_over_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.PlainBars()
    with shown:
        for name in ("", "one", "one", "two"):
            shown.stage("fetching", name)
        shown.layer("sha256:ab", "failed", 5, 10)
    assert capsys.readouterr().err.splitlines() == ["  from one", "  from two", "  ab  failed  5 B of 10 B"]
