"""Whose annotations reach an OCI runtime, which obeys some of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.settings import HandlerSettings
from crib.ocispec.container import container_spec
from crib.ocispec.defaults import passes
from crib.ocispec.inputs import ContainerInputs
from tests.unit.ocispec.inputs_for_tests import with_config

SYSTEMD = "org.systemd.property.ExecStartPre"
CGROUP = "io.kubernetes.cri-o.UnifiedCgroup.box"
WEAKER = "run.oci.keep_original_groups"


def asking(annotations: dict[str, str], *patterns: str) -> ContainerInputs:
    """A container and its pod, both with these annotations, of a handler that lets the patterns through."""
    made = with_config(annotations=annotations)
    config = replace(made.sandbox.config, annotations=annotations)
    return replace(
        made,
        sandbox=replace(made.sandbox, config=config),
        options=HandlerSettings(annotations=patterns),
    )


@pytest.mark.parametrize("key", [SYSTEMD, CGROUP, WEAKER])
def test_cve_2024_3154_no_annotation_of_a_user_reaches_the_runtime_unlisted(key: str) -> None:
    spec = container_spec(asking({key: "('exec', ['/bin/sh'])"}))
    assert key not in spec.annotations
    assert all(name.startswith("io.kubernetes.cri.") for name in spec.annotations)


def test_cve_2023_6476_an_annotation_does_not_lift_limits_even_when_it_is_listed() -> None:
    plain = container_spec(asking({}))
    spec = container_spec(asking({CGROUP: "memory.max=max"}, "io.kubernetes.cri-o.*"))
    assert spec.annotations[CGROUP] == "memory.max=max"
    assert spec.linux == plain.linux


@pytest.mark.parametrize("key", [SYSTEMD, WEAKER, "org.criu.config", "module.wasm.image/variant"])
def test_a_pattern_that_is_only_wide_enough_lets_nothing_through_that_a_runtime_obeys(key: str) -> None:
    for pattern in ("*", "r*", "org.*", key[:4] + "*"):
        assert not passes(key, (pattern,))
    assert passes(key, (key,))
    assert passes(key, ("other", key[: key.rindex(".") + 1] + "*"))


def test_listed_keys_pass_the_containers_over_the_pods_and_ours_over_both() -> None:
    made = asking(
        {"a.example/x": "pod", "io.kubernetes.cri.container-name": "other", "b": "no"}, "a.*", "io.*"
    )
    made = replace(made, config=replace(made.config, annotations={"a.example/x": "container"}))
    spec = container_spec(made)
    assert spec.annotations["a.example/x"] == "container"
    assert spec.annotations["io.kubernetes.cri.container-name"] == "nginx"
    assert "b" not in spec.annotations


def test_a_pattern_is_no_regular_expression() -> None:
    assert not passes("axb", ("a.b",))
    assert passes("a\nb", ("a*b",))
