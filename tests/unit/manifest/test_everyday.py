"""Manifests as people write them: each of them comes to pods, and nothing in it is a fault."""

# ruff: noqa: PT017  # any other outcome is fine

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.manifest.documents import ManifestText
from crib.manifest.faults import ManifestError
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


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a document."""
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


DOCUMENTS = {
    name: list(yaml.safe_load_all((DIRECTORY / f"{name}.yaml").read_text())) for name in sorted(PODS)
}
PLACES = [(name, path) for name, documents in DOCUMENTS.items() for path in places(documents)]
NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 1 << 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "a/../b", "$(X)", "\0", "1e999", "0", "..", "/", "Ä", "a" * 300]),
    st.sampled_from([[], {}, [[]], [{}], [None], [1], {"name": 1}, {"": ""}, {"a": {}}]),
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), NONSENSE), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_nothing_but_faults_comes_of_nonsense_in_an_everyday_manifest(
    changes: list[tuple[tuple[str, tuple[str | int, ...]], object]],
) -> None:
    name = changes[0][0][0]
    documents = copy.deepcopy(DOCUMENTS[name])
    for (other, path), value in changes:
        target: Any = documents
        try:
            for key in path[:-1]:
                target = target[key]
            if other == name:
                target[path[-1]] = value
        except (LookupError, TypeError):
            continue  # an earlier change took it away
    text = yaml.safe_dump_all(documents)
    try:
        found = read_plans([ManifestText("a.yaml", text)], SITE, lambda: "uid-1")
    except ManifestError as error:
        assert all("\n" not in str(fault) for fault in error.faults)
        assert all(fault.place.line for fault in error.faults if fault.place.path)
    else:
        assert all(plan.name and plan.namespace for plan in found.pods)
