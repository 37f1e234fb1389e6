"""Kubernetes Pod manifests to CRI requests, strictly and without I/O on the node.

`load.read_plans` is the way in: text of one or more YAML documents to `PodPlan` values, which `crib.cli.run`
carries out. A field that Kubernetes does not know is refused with its path and the nearest known name; a
field that would change what the pod does and that only a kubelet can honour is refused too; a field that has
no effect on one node is accepted with a note. Begin with `shapes.py`: the tables of what is known.
"""

from __future__ import annotations

from crib.cli.manifest.fields import ManifestError
from crib.cli.manifest.load import read_plans
from crib.cli.manifest.plan import ContainerPlan, Dirs, PodPlan, VolumePlan

__all__ = ["ContainerPlan", "Dirs", "ManifestError", "PodPlan", "VolumePlan", "read_plans"]
