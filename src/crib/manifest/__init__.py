"""Kubernetes Pod manifests to CRI requests, strictly and without I/O on the node.

`load.read_plans` is the way in. It turns the text of one or more YAML documents into `PodPlan` values, which
`crib.client.workloads` carries out. It refuses a field that Kubernetes does not know, with its path and the
nearest known name. It also refuses a field that would change what the pod does and that only a kubelet can
honour. It accepts a field without effect on a single node, with a note. Begin with `shapes`: the tables of
known fields.
"""
