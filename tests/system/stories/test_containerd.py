"""The command line with Debian's containerd: what people see of it, and pods that crib keeps up there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images import busybox_image
from tests.system.labs.containerd import Containerd, running_containerd
from tests.system.labs.daemon import COMMAND_SECONDS, IMAGE

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.nightly]

SOURCE = Path(__file__).parents[3] / "src"


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with running_containerd([busybox_image(name=IMAGE)]) as found:
        yield found


def begun(containerd: Containerd, directory: Path, *words: str) -> subprocess.Popen[str]:
    where = ["-e", containerd.endpoint, "--pods-dir", str(directory / "pods")]
    return subprocess.Popen(
        [sys.executable, "-c", "from crib.cli.app import main; main()", *where, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )


def crib(containerd: Containerd, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    with begun(containerd, directory, *words) as process:
        out, err = process.communicate(timeout=COMMAND_SECONDS)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def manifest(directory: Path, kind: str, script: str, **spec: Any) -> str:
    """A Pod, or a Job whose spec has these fields."""
    container = {"name": "app", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    pod = {"terminationGracePeriodSeconds": 5, "containers": [container]}
    if kind == "Job":
        spec["template"] = {"spec": {**pod, "restartPolicy": "Never"}}
    else:
        spec = {**pod, **spec}
    path = directory / "web.yaml"
    version = "batch/v1" if kind == "Job" else "v1"
    path.write_text(
        json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec})
    )
    return str(path)


def test_usage_is_shown_as_a_table_and_as_a_document(containerd: Containerd, tmp_path: Path) -> None:
    path = manifest(tmp_path, "Pod", "trap exit TERM; while :; do :; done")
    assert crib(containerd, tmp_path, "run", path).returncode == 0
    try:
        for words in (("top", "--once", "--interval", "0.5"), ("stats",)):
            done = crib(containerd, tmp_path, *words)
            assert (done.returncode, done.stderr) == (0, ""), words
            assert "default/web" in done.stdout
            assert "app" in done.stdout
        (pod,) = json.loads(crib(containerd, tmp_path, "top", "--json", "--interval", "0.5").stdout)["pods"]
        (app,) = pod["containers"]
        assert app["cpuCores"] > 0
        assert app["memoryBytes"] > 0
        assert "default/web" in crib(containerd, tmp_path, "ps").stdout
        missing = crib(containerd, tmp_path, "exec", "web", "--", "nosuch")
        assert missing.returncode == 127
        detached = crib(containerd, tmp_path, "exec", "--detach", "web", "--", "true")
        assert detached.returncode == 125
        assert "does not offer ExecDetached" in detached.stderr
    finally:
        assert crib(containerd, tmp_path, "rm", "--force", "web").returncode == 0


def test_a_pod_is_kept_up_in_the_foreground_until_ctrl_c(containerd: Containerd, tmp_path: Path) -> None:
    script = "echo up; [ -e /been ] || { touch /been; sleep 0.2; exit 3; }; sleep 1000"
    path = manifest(tmp_path, "Pod", script)
    with begun(containerd, tmp_path, "run", "--foreground", path) as shown:
        assert shown.stdout is not None
        assert [shown.stdout.readline() for _ in range(2)] == ["app | up\n"] * 2
        shown.send_signal(signal.SIGINT)
        _, err = shown.communicate(timeout=COMMAND_SECONDS)
    assert shown.returncode == 130
    assert "container app was started again (restart 1)" in err
    assert crib(containerd, tmp_path, "down", path).stdout == "removed default/web\n"
    assert crib(containerd, tmp_path, "pods", "-q").stdout == ""


def test_a_job_is_run_to_its_end_in_the_foreground(containerd: Containerd, tmp_path: Path) -> None:
    path = manifest(tmp_path, "Job", "echo done", completions=3, parallelism=2)
    done = crib(containerd, tmp_path, "run", "--foreground", path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"web-{number}/app | done" for number in range(3)]
    assert crib(containerd, tmp_path, "down", path).stdout == "removed default/web\n"
    assert crib(containerd, tmp_path, "pods", "-q").stdout == ""
