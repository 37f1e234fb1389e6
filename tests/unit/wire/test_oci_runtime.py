from __future__ import annotations

import json

import pytest

from crib.wire import oci_runtime as oci


def test_names_are_as_the_specification_has_them_and_defaults_are_left_out() -> None:
    process = oci.Process(
        user=oci.User(uid=0, gid=0, additional_gids=(1,)), args=("a",), cwd="/", oom_score_adj=0
    )
    assert json.loads(oci.encode(process)) == {
        "user": {"uid": 0, "gid": 0, "additionalGids": [1]},
        "args": ["a"],
        "cwd": "/",
        "oomScoreAdj": 0,
    }


def test_device_rules_are_written_whole() -> None:
    rule = json.loads(oci.encode(oci.DeviceRule(allow=False)))
    assert rule == {"allow": False, "access": "rwm", "type": "a", "major": None, "minor": None}


def test_state_and_features_are_read() -> None:
    state = oci.decode_state(b'{"ociVersion":"1.0.0","id":"x","status":"running","pid":5,"rootfs":"/"}')
    assert (state.status, state.pid) == ("running", 5)
    features = oci.decode_features(
        b'{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0","mountOptions":["rro"],'
        b'"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}'
    )
    assert features.mount_options == ("rro",)
    assert features.linux is not None
    assert features.linux.mount_extensions is not None
    assert features.linux.mount_extensions.idmap.enabled


def test_text_that_is_not_unicode_is_an_error() -> None:
    with pytest.raises(ValueError):
        oci.encode(oci.Process(user=oci.User(uid=0, gid=0), args=("\udcff",), cwd="/"))
