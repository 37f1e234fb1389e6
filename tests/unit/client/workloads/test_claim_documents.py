"""Volumes as a manifest has them again: what is generated of them asks for the same."""

from __future__ import annotations

import json

import pytest

from crib.client.workloads.claim_documents import claim_document, volume_source
from crib.client.workloads.pod_volumes import spec_of
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, Site
from crib.stubs.node.v1.node_pb2 import Volume, VolumeSpec, VolumeUse


@pytest.mark.parametrize(
    "spec",
    [
        VolumeSpec(storage_class="fast", capacity=9, access_modes=["ReadWriteOncePod"], labels={"a": "b"}),
        VolumeSpec(storage_class="disks", block=True, access_modes=["ReadWriteOnce"]),
        VolumeSpec(storage_class="fast", capacity=5, access_modes=["ReadWriteOnce"], owner="u1"),
        VolumeSpec(kind="local", capacity=1 << 20, owner="u1"),
        VolumeSpec(kind="csi", driver="d.e", inline=True, owner="u1", parameters={"a": "b"}, fs_type="xfs"),
    ],
    ids=["claim", "device", "ephemeral", "limited directory", "inline"],
)  # fmt: skip
def test_what_is_generated_of_a_volume_asks_for_it_again(spec: VolumeSpec) -> None:
    volume = Volume(namespace="default", name="web-v" if spec.owner else "data", spec=spec)
    source = volume_source(volume, VolumeUse(volume="v"))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "uid": "u1"},
        "spec": {"containers": [{"name": "a", "image": "i"}], "volumes": [{"name": "v", **source}]},
    }
    documents = [pod] if spec.owner else [pod, claim_document(volume)]
    text = "\n---\n".join(map(json.dumps, documents))
    plan = read_plans(text, Site(Dirs("/pods"), memory=1 << 30)).pods[0]
    claim = plan.volumes[0].claim
    assert claim is not None
    assert claim.name == volume.name
    assert spec_of(claim, plan.uid, "/secrets") == spec
