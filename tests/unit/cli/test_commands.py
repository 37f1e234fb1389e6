"""The commands against a fake runtime: what they ask of it, what they write, what they leave on the node."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC230, E501  # waits are bounded, files are small

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import (
    execute,
    image_listing,
    image_options,
    images,
    inspection,
    lifecycle,
    lifecycle_options,
    listing,
    listing_options,
    log_options,
    logs,
    options,
    run,
)
from crib.cli.forms import Format
from crib.cli.session import CliSession, CommandError
from crib.cli.workload_options import RunCommandOptions
from crib.client import pods
from crib.client.errors import ClientError, NotFound, PodFailure
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve

CRIB = [sys.executable, "-c", "from crib.cli.app import main; main()"]

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 4
  initContainers:
  - {name: page, image: "localhost/demo:1", command: [exit, "INIT"], volumeMounts: [{name: www, mountPath: /www}]}
  containers:
  - {name: server, image: "localhost/demo:1", command: [COMMAND]}
  volumes: [{name: www, emptyDir: {}}]
"""


@pytest.fixture
def world() -> World:
    world = World()
    world.add_image("localhost/demo:1")
    return world


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    return write(tmp_path)


def write(tmp_path: Path, init: int = 0, command: str = "sleep", image: str = "localhost/demo:1") -> str:
    path = tmp_path / "web.yaml"
    text = POD.replace("INIT", str(init)).replace("COMMAND", command).replace("localhost/demo:1", image)
    path.write_text(text)
    return str(path)


async def test_run_makes_the_pod_in_order_and_says_so(
    session: CliSession, world: World, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    assert world.calls == [
        "RunPodSandbox",
        "CreateContainer page",
        "StartContainer page",
        "CreateContainer server",
        "StartContainer server",
    ]
    out = capsys.readouterr().out
    assert out.startswith("pod default/web is running (")
    assert "10.0.0.7" in out
    pod = next(iter(world.configs.values()))
    directory = Path(session.pods_dir, pod.metadata.uid)
    assert (directory / "volumes/www").stat().st_mode & 0o777 == 0o777
    assert (directory / "logs/server").is_dir()
    config = next(c for c in world.container_configs.values() if c.metadata.name == "server")
    assert config.image.image == next(iter(world.images))
    assert config.image.user_specified_image == "localhost/demo:1"
    assert config.linux.security_context.run_as_user.value == 0


async def test_run_in_json_gives_ids(
    session: CliSession, world: World, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([manifest], output=Format.JSON))
    found = json.loads(capsys.readouterr().out)
    assert found[0]["id"] in world.pods
    assert set(found[0]["containers"]) == {"page", "server"}


async def test_a_failing_init_container_ends_the_run_with_its_code_and_last_lines(
    session: CliSession, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PodFailure, match="pod default/web: init container page exited with 3"):
        await run.run(session, RunCommandOptions([write(tmp_path, init=3)]))
    assert "  page: something is wrong?[2J?\n" in capsys.readouterr().err
    assert not world.pods
    assert os.listdir(session.pods_dir) == []


async def test_a_container_that_cannot_start_is_named_and_the_pod_taken_back(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    with pytest.raises(ClientError, match="container server: crun start: no such file"):
        await run.run(session, RunCommandOptions([write(tmp_path, command="fail")]))
    assert not world.pods
    assert os.listdir(session.pods_dir) == []


async def test_keep_leaves_a_failed_pod(
    session: CliSession, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClientError):
        await run.run(session, RunCommandOptions([write(tmp_path, command="fail")], keep=True))
    assert len(world.pods) == 1
    assert "kept pod default/web" in capsys.readouterr().err


async def test_a_name_that_is_taken_is_refused_unless_replaced(
    session: CliSession, world: World, manifest: str
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    first = next(iter(world.pods))
    with pytest.raises(PodFailure, match=r"pod default/web \(.*\) is still up; remove it with crib rm"):
        await run.run(session, RunCommandOptions([manifest]))
    await run.run(session, RunCommandOptions([manifest], replace=True))
    assert list(world.pods) != [first]
    assert len(world.pods) == 1
    assert world.stop_timeouts[0] == 4
    assert len(os.listdir(session.pods_dir)) == 1


@pytest.mark.parametrize(
    ("image", "more", "words"),
    [
        ("reg/missing:2", "", "no such image in the registry"),
        ("localhost/demo:1", "  securityContext: {runAsNonRoot: true}\n", "the image runs as root"),
        (
            "localhost/demo:1",
            "  - {name: h, hostPath: {path: /none/such, type: File}}\n",
            "/none/such does not exist",
        ),
    ],
)
async def test_a_pod_runs_on_untouched_when_what_is_to_replace_it_cannot_be_had(
    session: CliSession, world: World, tmp_path: Path, image: str, more: str, words: str
) -> None:
    await run.run(session, RunCommandOptions([write(tmp_path)]))
    pods_before, files = dict(world.pods), os.listdir(session.pods_dir)
    world.calls.clear()
    path = Path(write(tmp_path, image=image))
    path.write_text(
        path.read_text().replace(
            "  volumes: [{name: www, emptyDir: {}}]\n", "  volumes:\n  - {name: www, emptyDir: {}}\n"
        )
        + more
    )
    with pytest.raises(ClientError, match=words):
        await run.run(session, RunCommandOptions([str(path)], replace=True))
    assert world.pods == pods_before
    assert next(iter(world.pods.values())).state == cri.SANDBOX_READY
    assert not [call for call in world.calls if not call.startswith("PullImage")]
    assert os.listdir(session.pods_dir) == files


async def test_a_pod_that_is_replaced_may_have_the_same_uid(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    path = Path(write(tmp_path))
    path.write_text(path.read_text().replace("{name: web}", "{name: web, uid: the-same}"))
    await run.run(session, RunCommandOptions([str(path)]))
    await run.run(session, RunCommandOptions([str(path)], replace=True))
    assert [pod.metadata.uid for pod in world.pods.values()] == ["the-same"]


async def test_a_missing_image_is_pulled_unless_the_policy_is_never(
    session: CliSession, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([write(tmp_path, image="reg/new:1")]))
    err = capsys.readouterr().err
    assert err.count("pulling reg/new:1") == 1
    assert "pulled reg/new:1 in " in err
    path = tmp_path / "never.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  containers:\n"
        "  - {name: a, image: 'reg/absent:1', imagePullPolicy: Never}\n"
    )
    with pytest.raises(
        PodFailure, match="container a: image reg/absent:1 is not on this node and its policy is Never"
    ):
        await run.run(session, RunCommandOptions([str(path)]))


async def test_a_pod_pulls_with_the_credentials_of_its_own_secrets(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  imagePullSecrets: [{name: s}]\n"
        "  containers:\n  - {name: a, image: 'reg.example/new:1'}\n"
    )
    secret = tmp_path / "secret.yaml"
    secret.write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/dockercfg\n"
        'stringData: {.dockercfg: \'{"reg.example": {"username": "me", "password": "hunter2"}}\'}\n'
    )
    await run.run(session, RunCommandOptions([str(path)], extra=[str(secret)]))
    (request,) = world.progress_requests
    assert (request.credentials.username, request.credentials.password) == ("me", "hunter2")


async def test_run_as_non_root_is_checked_against_the_image(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  securityContext: {runAsNonRoot: true}\n"
        "  containers:\n  - {name: a, image: 'localhost/demo:1'}\n"
    )
    with pytest.raises(PodFailure, match="container a: runAsNonRoot: the image runs as root"):
        await run.run(session, RunCommandOptions([str(path)]))
    assert not world.pods


async def test_a_host_path_of_the_wrong_type_is_refused_before_anything_is_made(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n"
        "  containers:\n  - {name: a, image: 'localhost/demo:1'}\n"
        f"  volumes: [{{name: h, hostPath: {{path: {path}, type: Directory}}}}]\n"
    )
    with pytest.raises(PodFailure, match=f"volume h: {path} is not a Directory"):
        await run.run(session, RunCommandOptions([str(path)]))
    assert not world.calls
    assert not Path(session.pods_dir).exists()


async def test_a_dry_run_shows_the_requests_and_makes_nothing(
    session: CliSession, world: World, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([manifest], dry_run=True, output=Format.JSON))
    found = json.loads(capsys.readouterr().out)
    assert found[0]["containers"][0]["metadata"]["name"] == "server"
    assert not world.calls


SECRET = """
apiVersion: v1
kind: Pod
metadata: {name: b}
spec:
  containers:
  - name: a
    image: localhost/demo:1
    args: [$(P), $(IP)]
    env:
    - {name: P, valueFrom: {secretKeyRef: {name: s, key: p}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, secret: {secretName: s}}]
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {p: hunter2}
"""


@pytest.mark.parametrize("shown", [False, True])
async def test_a_dry_run_hides_secrets_unless_they_are_asked_for(
    session: CliSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], shown: bool
) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(SECRET)
    wanted = RunCommandOptions([str(path)], dry_run=True, show_secrets=shown, output=Format.JSON)
    await run.run(session, wanted)
    out = capsys.readouterr().out
    (container,) = json.loads(out)[0]["containers"]
    assert container["args"] == ["hunter2" if shown else "<secret s: p>", "<pod-ip>"]
    assert json.loads(out)[0]["volumes"] == [
        {"name": "v", "kind": "files", "files": {"p": "hunter2" if shown else "<secret s: p>"}}
    ]


@pytest.mark.root
async def test_a_containers_own_address_is_filled_in_before_it_is_made(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(SECRET)
    await run.run(session, RunCommandOptions([str(path)]))
    (config,) = world.container_configs.values()
    assert list(config.args) == ["hunter2", "10.0.0.7"]
    await lifecycle.remove(session, lifecycle_options.RmOptions(["b"], force=True))


async def test_stop_uses_the_pods_grace_period_and_rm_removes_its_files(
    session: CliSession, world: World, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    with pytest.raises(ClientError, match=r"is running \(1 of 1 containers\); stop it first, or use --force"):
        await lifecycle.remove(session, lifecycle_options.RmOptions(["web"]))
    with pytest.raises(CommandError, match="2 of 2 were not removed"):
        await lifecycle.remove(session, lifecycle_options.RmOptions(["web", "db"]))
    assert "there is no pod or container 'db'" in capsys.readouterr().err
    await lifecycle.stop(session, lifecycle_options.StopOptions(["web"]))
    assert world.stop_timeouts == [4]
    await lifecycle.remove(session, lifecycle_options.RmOptions(["default/web"]))
    assert not world.pods
    assert os.listdir(session.pods_dir) == []


async def test_rm_all_with_force_removes_everything(session: CliSession, world: World, manifest: str) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    with pytest.raises(CommandError, match="name the pods to remove"):
        await lifecycle.remove(session, lifecycle_options.RmOptions())
    await lifecycle.remove(session, lifecycle_options.RmOptions(force=True, every=True))
    assert not world.pods


async def test_a_pods_own_uid_cannot_lead_rm_out_of_its_directory(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    async with session.connect() as crib:
        metadata = cri.PodSandboxMetadata(name="evil", uid="../victim", namespace="default")
        await pods.run_sandbox(crib, cri.PodSandboxConfig(metadata=metadata))
    await lifecycle.remove(session, lifecycle_options.RmOptions(["evil"], force=True))
    assert victim.is_dir()


async def test_pods_and_ps_are_tables_or_documents(
    session: CliSession, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    capsys.readouterr()
    await listing.pods(session, listing_options.PodsOptions())
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "POD",
        "NAMESPACE",
        "NAME",
        "STATE",
        "RUNNING",
        "RESTARTS",
        "IP",
        "AGE",
        "HANDLER",
    ]
    assert row.split()[1:7] == ["default", "web", "Ready", "1/1", "0", "10.0.0.7"]
    await listing.containers(session, listing_options.PsOptions())
    assert "page" not in capsys.readouterr().out
    await listing.containers(session, listing_options.PsOptions("web", every=True))
    assert "Exited (0)" in capsys.readouterr().out
    await listing.pods(session, listing_options.PodsOptions(output=Format.JSON))
    assert json.loads(capsys.readouterr().out)[0]["state"] == "SANDBOX_READY"
    await listing.pods(session, listing_options.PodsOptions(namespace="other"))
    assert len(capsys.readouterr().out.splitlines()) == 1


async def test_images_are_listed_pulled_imported_and_removed(
    session: CliSession, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await image_listing.images(session, image_options.ImagesOptions(digests=True))
    assert "localhost/demo:1" in capsys.readouterr().out
    await images.pull(session, options.PullOptions(["reg/a:1"]))
    assert capsys.readouterr().out.strip() in world.images
    archive = tmp_path / "a.tar"
    with pytest.raises(CommandError, match=r"archive .* does not exist"):
        await images.import_archive(session, options.ImportOptions(str(archive)))
    archive.write_text("")
    await images.import_archive(session, options.ImportOptions(str(archive), ["localhost/x:1"]))
    assert capsys.readouterr().out.split()[1] == "localhost/x:1"
    with pytest.raises(CommandError, match="1 of 2 images could not be removed"):
        await images.remove(session, image_options.RmiOptions(["localhost/x:1", "nothing"]))
    assert not [i for i in world.images.values() if "localhost/x:1" in i.repo_tags]


async def test_exec_with_a_time_out_writes_both_streams_and_gives_the_code(
    session: CliSession, world: World, manifest: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    capfdbinary.readouterr()
    world.exec_reply = cri.ExecSyncResponse(stdout=b"out\xff", stderr=b"err", exit_code=7)
    code = await execute.execute(session, options.ExecOptions("web", ["ls", "-l"], "server", 5))
    assert code == 7
    assert capfdbinary.readouterr() == (b"out\xff", b"err")
    assert list(world.exec_requests[0].cmd) == ["ls", "-l"]
    assert world.exec_requests[0].timeout == 5


async def test_logs_of_a_container_that_has_ended_follow_nothing(
    session: CliSession, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    await run.run(session, RunCommandOptions([write(tmp_path)]))
    capfdbinary.readouterr()
    await logs.logs(session, log_options.LogsOptions(["web"], "page", follow=True))
    assert capfdbinary.readouterr() == (b"", b"something is wrong\x1b[2J\xc2\x9b\n")
    await logs.logs(session, log_options.LogsOptions(["web"], "page", timestamps=True))
    assert (
        capfdbinary.readouterr().err == b"2026-01-02T03:04:05.000000001Z something is wrong\x1b[2J\xc2\x9b\n"
    )
    with pytest.raises(NotFound, match="has no container 'x'"):
        await logs.logs(session, log_options.LogsOptions(["web"], "x"))


async def test_following_a_log_ends_when_the_container_exits(
    session: CliSession, world: World, manifest: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    server = next(c for c, s in world.containers.items() if s.metadata.name == "server")
    Path(world.log_path(server)).write_text("2026-01-02T03:04:05Z stdout F first\n")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(logs.logs(session, log_options.LogsOptions(["web"], "server", follow=True)))
        subscribed = len(world.subscribers)
        while len(world.subscribers) == subscribed:
            await asyncio.sleep(0)
        with open(world.log_path(server), "a", encoding="utf-8") as log:
            log.write("2026-01-02T03:04:06Z stdout F last\n")
        world.exited(server, 0)
    assert capfdbinary.readouterr().out.endswith(b"first\nlast\n")


async def test_inspect_opens_the_json_of_info(
    session: CliSession, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run.run(session, RunCommandOptions([manifest]))
    capsys.readouterr()
    await inspection.inspect(session, options.InspectOptions("web", output=Format.JSON))
    assert json.loads(capsys.readouterr().out)["info"] == {"info": {"runtime": "fake"}}
    await inspection.inspect(session, options.InspectOptions("web", "server"))
    assert "CONTAINER_RUNNING" in capsys.readouterr().out
    await inspection.inspect(session, options.InspectOptions("localhost/demo:1"))
    assert "repoTags" in capsys.readouterr().out
    with pytest.raises(NotFound, match="there is no pod, container or image 'nothing'"):
        await inspection.inspect(session, options.InspectOptions("nothing"))


async def test_info_shows_conditions_without_control_characters(
    session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    await inspection.info(session, options.InfoOptions(verbose=True))
    out = capsys.readouterr().out
    assert "NetworkReady" in out
    assert "no: NoConfig no ?[31mnetwork" in out
    assert "kernel.release" in out


async def test_info_says_first_whether_the_node_is_ready_and_why_not(
    session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    await inspection.info(session, options.InfoOptions())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ready", "no"]
    assert lines[1].split(maxsplit=1) == ["NetworkReady", "NoConfig: no ?[31mnetwork"]
    assert len(lines) < 16
    assert not [line for line in lines if "kernel.release" in line]


async def test_info_of_another_runtime_is_what_the_cri_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await serve(f"{tmp_path}/other", World(), node=False)
    await inspection.info(CliSession(f"{tmp_path}/other"), options.InfoOptions())
    await server.stop(None)
    assert "fake 1.0 at unix:" in capsys.readouterr().out


async def crib(session: CliSession, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CRIB_ENDPOINT": session.endpoint, "CRIB_PODS_DIR": session.pods_dir}
    return await asyncio.to_thread(
        subprocess.run,
        [*CRIB, *words],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_the_program_ends_with_the_right_code_and_one_line(
    session: CliSession, world: World, manifest: str, tmp_path: Path
) -> None:
    done = await crib(session, "run", manifest)
    assert (done.returncode, done.stderr) == (0, "")
    world.exec_reply = cri.ExecSyncResponse(exit_code=42)
    assert (
        await crib(session, "exec", "--timeout", "5", "web", "-c", "server", "--", "false")
    ).returncode == 42
    done = await crib(session, "logs", "nothing")
    assert (done.returncode, done.stderr) == (1, "crib: there is no pod or container 'nothing'\n")
    done = await crib(session, "pods", "--nonsense")
    assert (done.returncode, done.stderr) == (2, "crib: No such option: --nonsense (see crib pods --help)\n")
    done = await crib(session, "run", "-", stdin="apiVersion: v1\nkind: Pod\nmetadata: {nam: x}\nspec: {}\n")
    assert done.returncode == 1
    assert done.stderr == (
        "crib: -:3:12: metadata.nam: unknown field; the nearest known name is name\n"
        "crib: -:4:1: spec.containers: needs at least one container\n"
        "crib: 2 faults in -; nothing was done\n"
    )
    done = await crib(session, "-e", f"unix://{tmp_path}/none", "info")
    assert done.returncode == 1
    assert done.stderr == (
        f"crib: no runtime answers at unix://{tmp_path}/none: "
        "no such socket; is cribd running? (--endpoint, CRIB_ENDPOINT)\n"
    )


async def test_an_interrupted_run_takes_the_pod_back(
    session: CliSession, world: World, tmp_path: Path
) -> None:
    path = write(tmp_path).replace("web.yaml", "hang.yaml")
    text = POD.replace('[exit, "INIT"]', "[sleep]").replace("COMMAND", "sleep")
    Path(path).write_text(text)
    env = {**os.environ, "CRIB_ENDPOINT": session.endpoint, "CRIB_PODS_DIR": session.pods_dir}
    with subprocess.Popen([*CRIB, "run", path], env=env, stderr=subprocess.PIPE, text=True) as program:
        async with asyncio.timeout(120):
            await world.calls.heard("StartContainer page")
            program.send_signal(signal.SIGINT)
            code = await asyncio.to_thread(program.wait)
        assert program.stderr is not None
        assert program.stderr.read() == ""
    assert code == 130
    assert not world.pods
    assert os.listdir(session.pods_dir) == []


async def test_help_is_fast_enough_to_type(session: CliSession) -> None:
    done = await crib(session, "--help")
    assert done.returncode == 0
    for name in ("run", "logs", "exec", "import", "timeline", "bench"):
        assert f" {name} " in done.stdout
    code = (
        "import sys; import crib.cli.app; "
        "print([m for m in ('grpc', 'yaml', 'google.protobuf', 'asyncio') if m in sys.modules][:3])"
    )
    loaded = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "grpc" not in loaded.stdout
    assert "yaml" not in loaded.stdout


async def test_the_client_room_knows_no_terminal() -> None:
    code = (
        "import sys; from crib.client import pods, images, logs, events, lookup, Connection; "
        "sys.exit(any(m in sys.modules for m in ('rich', 'typer', 'yaml')))"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True)


def test_bars_show_layers_and_their_sum() -> None:
    from crib.cli.progress import RichBars

    shown = RichBars("reg/[bold]a")
    with shown:
        shown.stage("fetching from reg")
        shown.layer("sha256:ab", "downloading", 512, 2048)
        shown.layer("sha256:cd", "present", 0, 4096)
        shown.layer("sha256:ab", "done", 0, 2048)
    amounts = [task.fields["amount"] for task in shown._progress.tasks]
    assert amounts[0].startswith("2.0 KiB of 2.0 KiB")
    assert amounts[1:] == ["2.0 KiB of 2.0 KiB", "4.0 KiB of 4.0 KiB"]
