"""Classes of block I/O and RDT: which annotation counts, and what is refused by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.errors import InvalidRequest
from crib.ocispec.classes import block_io, intel_rdt
from crib.ocispec.container import container_spec
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HANDLER, inputs

CLASSES = {name: oci.BlockIo(weight=weight) for name, weight in (("own", 10), ("one", 20), ("all", 30))}
POD = "blockio.resources.beta.kubernetes.io/pod"
CONTAINER = "blockio.resources.beta.kubernetes.io/container.app"
OWN = "io.kubernetes.cri.blockio-class"


def annotated(own: dict[str, str], **pod: str) -> ContainerInputs:
    made = inputs(blockio_classes=CLASSES, rdt_classes=frozenset({"gold"}))
    names = {"pod": POD, "container": CONTAINER, "rdt": "rdt.resources.beta.kubernetes.io/pod"}
    given = {names[key]: value for key, value in pod.items()}
    config = replace(made.sandbox.config, annotations=given)
    return replace(
        made,
        config=replace(made.config, name="app", annotations=own),
        sandbox=replace(made.sandbox, config=config),
    )


def test_the_nearest_annotation_counts_and_an_empty_one_says_no_class() -> None:
    assert block_io(annotated({})) is None
    assert block_io(annotated({}, pod="all")) == CLASSES["all"]
    assert block_io(annotated({}, pod="all", container="one")) == CLASSES["one"]
    assert block_io(annotated({OWN: "own"}, pod="all", container="one")) == CLASSES["own"]
    assert block_io(annotated({OWN: ""}, pod="all")) is None
    spec = container_spec(annotated({OWN: "own"}))
    assert spec.linux.resources is not None
    assert spec.linux.resources.block_io == CLASSES["own"]


def test_a_class_that_the_node_has_not_is_refused_by_its_annotation() -> None:
    with pytest.raises(InvalidRequest, match=r"no block I/O class 'fast' \(it has all, one, own\)") as caught:
        block_io(annotated({}, container="fast"))
    assert caught.value.field == f"annotations[{CONTAINER!r}]"
    with pytest.raises(InvalidRequest, match="no RDT class 'tin'"):
        intel_rdt(annotated({}, rdt="tin"))
    with pytest.raises(InvalidRequest, match="nothing is mounted at /sys/fs/resctrl"):
        intel_rdt(replace(annotated({}, rdt="gold"), rdt_classes=frozenset()))


def test_an_rdt_class_needs_a_runtime_that_knows_them() -> None:
    asked = annotated({}, rdt="gold")
    assert intel_rdt(asked) == oci.IntelRdt(clos_id="gold")
    assert container_spec(asked).linux.intel_rdt == oci.IntelRdt(clos_id="gold")
    old = replace(asked, handler=replace(HANDLER, unknown_fields=frozenset({"rdt"})))
    with pytest.raises(InvalidRequest, match=r"handler crun .* knows no RDT classes"):
        intel_rdt(old)
