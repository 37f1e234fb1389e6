"""crictl itself against cribd: each of its verbs does what its users expect."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images import Entry, busybox_image, push
from tests.registry import running_registry
from tests.system.labs.daemon import COMMAND_SECONDS, IMAGE, Cribd, running_cribd

CRICTL = shutil.which("crictl") or ""
pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(not CRICTL, reason="crictl is not installed"),
]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


class Crictl:
    """The program, with its answers."""

    def __init__(self, cribd: Cribd, directory: Path) -> None:
        config = directory / "crictl.yaml"
        endpoint = f"unix://{cribd.socket}"
        config.write_text(f"runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 60\n")
        self.words = (CRICTL, "--config", str(config))

    def __call__(self, *words: str, code: int = 0) -> str:
        """What it writes to standard output, or if it is to fail to standard error."""
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        assert done.returncode == code, (words, done)
        return (done.stderr if code else done.stdout).strip()

    def begun(self, *words: str) -> subprocess.Popen[str]:
        """One that goes on."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self.words, *words], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def crictl(cribd: Cribd, tmp_path: Path) -> Crictl:
    return Crictl(cribd, tmp_path)


@pytest.fixture
def configs(cribd: Cribd, tmp_path: Path) -> tuple[str, str]:
    """Of a pod and of a container."""
    pod, container = tmp_path / "pod.json", tmp_path / "container.json"
    metadata = {"name": "web", "namespace": "default", "uid": "crictl-1"}
    pod.write_text(json.dumps({"metadata": metadata, "log_directory": str(cribd.logs), "linux": {}}))
    container.write_text(
        json.dumps(
            {
                "metadata": {"name": "box"},
                "image": {"image": IMAGE},
                "command": ["sh", "-c", "echo $A; exec cat"],
                "envs": [{"key": "A", "value": "begins"}],
                "log_path": "box.log",
                "stdin": True,
                "stdin_once": True,
                "linux": {},
            }
        )
    )
    return str(pod), str(container)


def test_pods_and_containers(crictl: Crictl, configs: tuple[str, str]) -> None:
    pod_config, container_config = configs
    pod = crictl("runp", pod_config)
    box = crictl("create", "--no-pull", pod, container_config, pod_config)
    assert crictl("ps", "-a", "-q", "--no-trunc", "--state", "created") == box
    assert box in crictl("start", box)
    assert (crictl("ps", "-q", "--no-trunc"), crictl("pods", "-q", "--no-trunc")) == (box, pod)
    assert json.loads(crictl("inspect", box))["status"]["state"] == "CONTAINER_RUNNING"
    assert json.loads(crictl("inspectp", pod))["status"]["metadata"]["name"] == "web"
    assert crictl("exec", "-s", box, "echo", "sync") == "sync"
    for transport in ("spdy", "websocket"):
        assert crictl("exec", "-r", transport, box, "echo", "streamed") == "streamed"
    assert "7" in crictl("exec", "-s", box, "sh", "-c", "exit 7", code=1)
    crictl("update", "--memory", str(64 << 20), box)
    limits = json.loads(crictl("inspect", box))["status"]["resources"]["linux"]
    assert limits["memoryLimitInBytes"] == str(64 << 20)
    assert box[:12] in crictl("stats", box)
    assert "web" in crictl("statsp")
    assert json.loads(crictl("metricsp"))["podMetrics"]
    assert json.loads(crictl("metricdescs"))["descriptors"]
    with crictl.begun("attach", "-i", box) as attached:
        out, _ = attached.communicate("typed\n", COMMAND_SECONDS)
    assert "typed" in out
    assert crictl("logs", box).splitlines()[0] == "begins"
    assert "not" in crictl("checkpoint", "--export", "/tmp/none.tar", box, code=1)
    crictl("stop", box)
    crictl("rm", box)
    crictl("stopp", pod)
    assert pod in crictl("rmp", pod)


def test_events_are_streamed(crictl: Crictl, configs: tuple[str, str]) -> None:
    with crictl.begun("events") as events:
        assert events.stdout is not None
        pod = crictl("runp", configs[0])
        crictl("rmp", "-f", pod)
        # perhaps it was late for the first one: pods come until it has seen one
        seen: list[str] = []
        reader = threading.Thread(target=lambda: seen.append(events.stdout.readline()))  # type: ignore[union-attr]
        reader.start()
        for _ in range(100):
            if seen:
                break
            crictl("rmp", "-f", crictl("runp", configs[0]))
        events.terminate()
        reader.join(COMMAND_SECONDS)
    assert seen[0].startswith("{"), seen


def test_a_container_with_its_pod_in_one_call_and_a_forwarded_port(
    crictl: Crictl, configs: tuple[str, str]
) -> None:
    pod_config, container_config = configs
    box = crictl("run", "--no-pull", container_config, pod_config)
    pod = crictl("pods", "-q", "--no-trunc")
    assert crictl("ps", "-q", "--no-trunc", "--pod", pod) == box
    with crictl.begun("port-forward", pod, "0:80") as forwarding:
        assert forwarding.stdout is not None
        line = ""
        while "Forwarding from" not in line:
            line = forwarding.stdout.readline()
            assert line, "it ended"
        forwarding.terminate()
    crictl("rmp", "-f", pod)
    assert crictl("pods", "-q") == ""


def test_images_and_the_runtime(crictl: Crictl, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as url:
        push(url, busybox_image([Entry("app", b"1")]), "app", "1")
        name = f"{url.removeprefix('http://')}/app:1"
        assert "up to date" in crictl("pull", name)
    assert json.loads(crictl("inspecti", name))["status"]["repoTags"] == [name]
    assert len(crictl("images", "-q").splitlines()) == 2
    assert name in crictl("rmi", name)
    assert "imageFilesystems" in json.loads(crictl("imagefsinfo"))["status"]
    assert "RuntimeName:  crib" in crictl("version")
    assert json.loads(crictl("info"))["status"]["conditions"][0]["status"] is True
    assert "cgroupfs" in crictl("runtime-config").lower()
    crictl("update-runtime-config", "--pod-cidr", "")
