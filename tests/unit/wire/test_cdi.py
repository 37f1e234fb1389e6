from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crib.wire import oci_hooks
from crib.wire.cdi import decode, split_name

DOCUMENT: dict[str, object] = {
    "cdiVersion": "0.7.0",
    "kind": "vendor.com/net-device",
    "annotations": {"a": "b"},
    "containerEdits": {"env": ["COMMON=1"]},
    "devices": [
        {
            "name": "gpu:0",
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "type": "c", "fileMode": 432}],
                "mounts": [{"hostPath": "/opt/x", "containerPath": "/x", "options": ["ro"], "type": "bind"}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/h", "timeout": 3}],
                "additionalGids": [5],
                "intelRdt": {"closID": "x"},
            },
        }
    ],
}
YAML = b"""
cdiVersion: "0.5.0"
kind: vendor.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      fileMode: 0660
"""


def test_a_document_is_read_whole() -> None:
    document = decode(json.dumps(DOCUMENT).encode())
    (device,) = document.devices
    assert (document.kind, device.name) == ("vendor.com/net-device", "gpu:0")
    assert device.container_edits.device_nodes[0].host_path == "/dev/null"
    assert device.container_edits.hooks[0].hook_name == "createContainer"
    assert device.container_edits.additional_gids == (5,)


def test_yaml_says_the_same() -> None:
    (device,) = decode(YAML, yaml=True).devices
    assert device.container_edits.device_nodes[0].file_mode == 0o660


def edit(**edits: object) -> dict[str, object]:
    return {**DOCUMENT, "devices": [{"name": "a", "containerEdits": edits}]}


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({**DOCUMENT, "cdiVersion": "2.0.0"}, "cdiVersion"),
        ({**DOCUMENT, "kind": "gpu"}, "VENDOR/CLASS"),
        ({**DOCUMENT, "kind": "../x/gpu"}, "VENDOR/CLASS"),
        ({**DOCUMENT, "new": 1}, "new"),
        ({**DOCUMENT, "devices": [{"name": "a", "containerEdits": {}}] * 2}, "twice"),
        (edit(env=["=x"]), "NAME=VALUE"),
        (edit(deviceNodes=[{"path": "dev/x"}]), "absolute"),
        (edit(deviceNodes=[{"path": "/dev/../x"}]), "absolute"),
        (edit(deviceNodes=[{"path": "/dev/x", "type": "p"}]), "type"),
        (edit(deviceNodes=[{"path": "/dev/x", "permissions": "rx"}]), "r, w and m"),
        (edit(mounts=[{"hostPath": "/x", "containerPath": "/"}]), "absolute"),
        (edit(mounts=[{"hostPath": "", "containerPath": "/x"}]), "hostPath"),
        (edit(hooks=[{"hookName": "whenever", "path": "/x"}]), "whenever"),
        (edit(hooks=[{"hookName": "prestart", "path": "x"}]), "absolute"),
        (edit(additionalGids=[0]), "additionalGids"),
    ],
)
def test_what_is_wrong_is_refused_with_the_place(document: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize("text", [b"a: &x [1]\nb: *x\n", b"a: [", b"\xff", b"- 1", b"[" * 5000])
def test_yaml_that_is_wrong_or_grows_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text, yaml=True)


def test_names_are_split_or_refused() -> None:
    assert split_name("vendor.com/class=gpu:0") == ("vendor.com/class", "gpu:0")
    for bad in ("vendor.com/class", "class=x", "vendor.com/class=", "v/c=a b", "1v/c=a"):
        with pytest.raises(ValueError, match="VENDOR"):
            split_name(bad)


def test_hook_files_are_read_strictly(tmp_path: Path) -> None:
    good = {"version": "1.0.0", "hook": {"path": "/bin/x"}, "when": {"always": True}, "stages": ["prestart"]}
    assert oci_hooks.decode(json.dumps(good).encode()).when.always
    wrong: tuple[dict[str, Any], ...]
    wrong = ({"version": "0.1.0"}, {"stages": ["never"]}, {"when": {"cmd": "x"}}, {"hook": {}})
    for change in wrong:
        with pytest.raises(ValueError):
            oci_hooks.decode(json.dumps({**good, **change}).encode())
