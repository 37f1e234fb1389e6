"""CDI devices, hooks, base specs, annotations and devices, with the real runtimes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from crib.model.container import ContainerConfig, ContainerSecurity, Device
from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import NamespaceMode, NamespaceOptions, SandboxRecord
from crib.model.settings import HandlerSettings
from tests.system.labs.oci_pods import assert_nothing_left, config, run_to_end
from tests.system.labs.oci_setup import STAGE, OciLab, oci_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

OWN_PIDS = NamespaceOptions(pid=NamespaceMode.CONTAINER)
PRIVILEGED = ContainerSecurity(namespaces=OWN_PIDS, privileged=True)


@pytest.fixture(params=["crun", "runc"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def pod(lab: OciLab, **fields: object) -> AsyncIterator[SandboxRecord]:
    record = lab.sandbox(**fields)  # type: ignore[arg-type]
    try:
        await lab.handler.pods.prepare(record, STAGE)
        yield record
    finally:
        await lab.handler.pods.remove(record)
        assert_nothing_left(lab)


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_cdi_device_brings_all_that_its_file_says(program: str, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_text("from the device\n")
    marker = tmp_path / "hooked"
    hook = executable(tmp_path / "hook", f'cat > /dev/null; echo "$EXTRA" > {marker}')
    edits = {
        "env": ["CDI_DEVICE=yes"],
        "deviceNodes": [
            {"path": "/dev/mine", "hostPath": "/dev/loop-control", "permissions": "r"},
            {"path": "/dev/own", "hostPath": "/dev/full", "uid": 5, "gid": 6, "fileMode": 0o640},
        ],
        "mounts": [{"hostPath": f"{tmp_path}/volume", "containerPath": "/opt/driver", "options": ["ro"]}],
        "hooks": [{"hookName": "createRuntime", "path": hook, "args": ["hook"], "env": ["EXTRA=env"]}],
        "additionalGids": [4242],
    }
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi" / "v.json").write_text(
        json.dumps(
            {
                "cdiVersion": "0.7.0",
                "kind": "vendor.com/gpu",
                "devices": [{"name": "0", "containerEdits": edits}],
            }
        )
    )
    script = (
        "echo $CDI_DEVICE; sh -c ': < /dev/mine' && echo readable; stat -c '%u %g %a' /dev/mine /dev/own;"
        " cat /opt/driver/file; touch /opt/driver/x || echo refused; id -G;"
        " sh -c ': > /dev/mine' || echo read-only"
    )
    user = ContainerSecurity(namespaces=OWN_PIDS, run_as_user=1000, run_as_group=1001)
    async with oci_lab(program, cdi_spec_dirs=(f"{tmp_path}/cdi",)) as lab, pod(lab) as sandbox:
        wanted = config("sh", "-c", script, cdi_devices=("vendor.com/gpu=0",), security=user)
        found, log = await run_to_end(lab, sandbox, wanted)
        assert found.code == 0
        lines = [line for line in log.splitlines() if ": " not in line]
        assert lines[:4] == ["yes", "readable", "1000 1001 666", "5 6 640"]
        assert {"from the device", "refused", "read-only"} <= set(lines)
        assert "4242" in next(line for line in lines if line.startswith("1001")).split()
        assert marker.read_text() == "env\n"
        by_annotation = config("true", annotations={"cdi.k8s.io/plugin": "vendor.com/gpu=0"})
        assert (await run_to_end(lab, sandbox, by_annotation))[0].code == 0
        record = lab.container(sandbox, config("true", cdi_devices=("vendor.com/gpu=1",)))
        with pytest.raises(InvalidRequest, match=f"vendor.com/gpu=1 is not in {tmp_path}/cdi"):
            await lab.create(record, sandbox)
        await lab.handler.containers.delete(record)


async def test_hooks_are_run_from_the_first_to_the_last_moment(program: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    hook = executable(tmp_path / "hook", f"cat > /dev/null; echo $1 >> {marks}")
    directory = tmp_path / "hooks.d"
    directory.mkdir()
    for stage in ("prestart", "poststart", "poststop"):
        document = {
            "version": "1.0.0",
            "hook": {"path": hook, "args": ["hook", stage]},
            "when": {"annotations": {"^example\\.com/hooked$": "yes"}},
            "stages": [stage],
        }
        (directory / f"{stage}.json").write_text(json.dumps(document))
    options = HandlerSettings(annotations=("example.com/*",))
    async with oci_lab(program, options, oci_hooks_dirs=(str(directory),)) as lab, pod(lab) as sandbox:
        await run_to_end(lab, sandbox, config("true"))
        assert not marks.exists()
        await run_to_end(lab, sandbox, config("true", annotations={"example.com/hooked": "yes"}))
        assert marks.read_text().split() == ["prestart", "poststart", "poststop"]
        executable(tmp_path / "hook", "echo no >&2; exit 3")
        record = lab.container(sandbox, config("true", annotations={"example.com/hooked": "yes"}))
        with pytest.raises(Broken):
            await lab.create(record, sandbox)
        await lab.handler.containers.delete(record)
        os.unlink(tmp_path / "hook")
        (directory / "poststop.json").touch()
        record = lab.container(sandbox, config("true"))
        with pytest.raises(Broken, match=r"OCI hook .*post.*\.json cannot be used"):
            await lab.create(record, sandbox)
        await lab.handler.containers.delete(record)


async def test_a_base_spec_and_listed_annotations_reach_the_container(program: str, tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    base.write_text(
        json.dumps(
            {
                "process": {
                    "rlimits": [{"type": "RLIMIT_CORE", "hard": 4096, "soft": 2048}],
                    "args": ["false"],
                },
                "linux": {"sysctl": {"net.ipv4.ip_default_ttl": "77"}},
                "mounts": [
                    {"destination": "/base", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}
                ],
            }
        )
    )
    options = HandlerSettings(base_spec=str(base), annotations=("example.com/*",))
    script = "ulimit -c; cat /proc/sys/net/ipv4/ip_default_ttl; grep -c ' /base ' /proc/mounts"
    annotations = {"example.com/a": "1", "run.oci.keep_original_groups": "1"}
    async with oci_lab(program, options) as lab, pod(lab, annotations={"example.com/b": "2"}) as sandbox:
        record = lab.container(sandbox, config("true", annotations=annotations))
        await lab.create(record, sandbox)
        document = json.loads(Path(lab.paths.container(record.id), "config.json").read_bytes())
        assert document["annotations"]["example.com/a"] == "1"
        assert document["annotations"]["example.com/b"] == "2"
        assert "run.oci.keep_original_groups" not in document["annotations"]
        await lab.handler.containers.delete(record)
        found, log = await run_to_end(lab, sandbox, config("sh", "-c", script))
        assert (found.code, log.split()) == (0, ["4", "77", "1"])
        base.write_text("{")
        with pytest.raises(Broken, match=f"base_spec {base}"):
            async with oci_lab(program, options):
                pass


async def test_a_privileged_container_is_given_no_device_that_its_handler_withholds(program: str) -> None:
    script = "test -e /dev/loop-control && echo there; head -c 1 /dev/mine | wc -c"
    wanted = config("sh", "-c", script, security=PRIVILEGED, devices=(Device("/dev/mine", "/dev/zero"),))
    for withhold in (False, True):
        options = HandlerSettings(privileged_without_host_devices=withhold)
        async with oci_lab(program, options) as lab, pod(lab) as sandbox:
            _found, log = await run_to_end(lab, sandbox, wanted)
            assert log.split() == (["1"] if withhold else ["there", "1"])


async def test_devices_are_opened_as_far_as_their_permissions_go_and_belong_to_the_user(
    program: str, tmp_path: Path
) -> None:
    (tmp_path / "by-id").mkdir()
    os.symlink("/dev/loop-control", tmp_path / "by-id" / "disk")
    devices = (Device("/dev/w", "/dev/loop0", "w"), Device("/dev/set", f"{tmp_path}/by-id", "r"))
    user = ContainerSecurity(namespaces=OWN_PIDS, run_as_user=1000, run_as_group=1001)
    script = (
        "stat -c '%u %g' /dev/w /dev/set/disk; sh -c ': < /dev/set/disk' && echo read;"
        " sh -c ': > /dev/w' && echo written; sh -c ': < /dev/w' || echo no;"
        " sh -c ': > /dev/set/disk' || echo no"
    )
    wanted: ContainerConfig = config("sh", "-c", script, devices=devices)
    for owned in (False, True):
        async with oci_lab(program, device_ownership_from_security_context=owned) as lab, pod(lab) as sandbox:
            if owned:
                wanted = replace(wanted, security=user)
            _found, log = await run_to_end(lab, sandbox, wanted)
            found = [os.stat(path) for path in ("/dev/loop0", "/dev/loop-control")]
            owners = ["1000 1001"] * 2 if owned else [f"{one.st_uid} {one.st_gid}" for one in found]
            lines = [line for line in log.splitlines() if line and ": " not in line]
            assert lines == [*owners, "read", "written", "no", "no"]
