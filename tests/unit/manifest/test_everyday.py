"""Manifests as people write them: each of them comes to pods, and nothing in it is a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.manifest.documents import ManifestText
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, Plans, Site

DIRECTORY = Path(__file__).parents[2] / "data" / "manifests"
SITE = Site(Dirs("/c/pods"), memory=8 << 30, cpus=4, node="node-1", addresses=("192.0.2.7",))
PODS = {
    "cronjob": ["default/backup"],
    "daemonset": ["kube-system/fluentd"],
    "exported": ["prod/api-7d9c"],
    "hardened": ["default/hardened"],
    "hosts": ["default/hosts"],
    "indexed-job": ["default/shards-0", "default/shards-1", "default/shards-2"],
    "init-containers": ["default/ordered"],
    "job": ["default/pi"],
    "nginx": ["default/nginx-0", "default/nginx-1"],
    "private-registry": ["default/private"],
    "projected": ["default/all-in-one"],
    "redis-env-from": ["default/redis"],
    "sidecar": ["default/with-sidecar"],
    "statefulset": ["default/db-0", "default/db-1"],
    "wordpress": ["default/wordpress"],
}


def read(name: str) -> Plans:
    path = DIRECTORY / f"{name}.yaml"
    numbers = iter(range(100))
    return read_plans([ManifestText(str(path), path.read_text())], SITE, lambda: f"uid-{next(numbers)}")


def test_all_of_them_are_known_here() -> None:
    assert {path.stem for path in DIRECTORY.glob("*.yaml")} == {*PODS, "downward-api"}


@pytest.mark.parametrize("name", sorted(PODS))
def test_an_everyday_manifest_comes_to_its_pods(name: str) -> None:
    assert [plan.label for plan in read(name).pods] == PODS[name]


@pytest.mark.parametrize("name", sorted(PODS))
def test_what_is_kept_of_it_comes_to_the_same_pods(name: str) -> None:
    for plan in read(name).pods:
        (again,) = read_plans(plan.document, SITE, lambda: "never").pods
        assert (again.sandbox, again.containers, again.volumes) == (
            plan.sandbox,
            plan.containers,
            plan.volumes,
        )


def test_a_generated_name_has_its_prefix() -> None:
    (plan,) = read("downward-api").pods
    assert plan.name.startswith("self-")
    assert plan.sandbox.annotations["build"] == "2026-01-31"
