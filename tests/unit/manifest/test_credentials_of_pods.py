"""imagePullSecrets: which registry gets which credential, and what is wrong with those that are none."""

# ruff: noqa: E501  # a message is compared as one line

from __future__ import annotations

import base64
import json

import pytest

from crib.manifest.credentials import credential_for
from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, PodPlan, Site

SITE = Site(Dirs("/c/pods"), memory=8 << 30)


def auth(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:pass".encode()).decode()}


CONFIG = json.dumps({"auths": {"reg.example:5000": auth("a"), "https://index.docker.io/v1/": auth("hub")}})
OLD = json.dumps({"reg.example:5000/team": auth("team")})


def pod(*secrets: tuple[str, str, str]) -> PodPlan:
    """Secrets as type, key and text."""
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web"},
            "spec": {
                "imagePullSecrets": [{"name": f"s{n}"} for n in range(max(1, len(secrets)))],
                "containers": [{"name": "app", "image": "reg.example:5000/team/app:1"}],
            },
        }
    ]
    documents += [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"s{n}"},
            "type": kind,
            "stringData": {key: text},
        }
        for n, (kind, key, text) in enumerate(secrets)
    ]
    return read_plans("\n---\n".join(map(json.dumps, documents)), SITE).pods[0]


def test_each_registry_gets_the_credential_that_is_for_it() -> None:
    found = pod(
        ("kubernetes.io/dockercfg", ".dockercfg", OLD),
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", CONFIG),
    ).credentials
    users = {
        image: entry.username
        for image in (
            "reg.example:5000/team/app:1",
            "reg.example:5000/other@sha256:0",
            "nginx",
            "me/app:2",
            "quay.io/x",
        )
        if (entry := credential_for(image, found))
    }
    assert users == {
        "reg.example:5000/team/app:1": "team",
        "reg.example:5000/other@sha256:0": "a",
        "nginx": "hub",
        "me/app:2": "hub",
    }
    assert "pass" not in repr(pod(("kubernetes.io/dockercfg", ".dockercfg", OLD)))


def test_a_pull_secret_that_is_not_there_is_noted() -> None:
    assert pod().notes == (
        "spec.imagePullSecrets[0]: left out: there is no Secret 's0' here; the daemon's own credentials count",
    )


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        (
            ("Opaque", "password", "hunter2"),
            "Secret s0 is of type Opaque, not one of kubernetes.io/dockerconfigjson, kubernetes.io/dockercfg",
        ),
        (("kubernetes.io/dockercfg", "x", "{}"), "Secret s0 has no key .dockercfg"),
        (("kubernetes.io/dockercfg", ".dockercfg", "hunter2"), "Secret s0: .dockercfg is not JSON"),
    ],
)
def test_a_pull_secret_that_is_none_is_refused_without_its_content(
    secret: tuple[str, str, str], told: str
) -> None:
    with pytest.raises(ManifestError) as wrong:
        pod(secret)
    assert str(wrong.value) == f"spec.imagePullSecrets[0].name: {told}"
