"""Pods from manifests, made through a runtime's CRI: what a kubelet would make for them on this node.

`start.PodStart` carries out a plan of `crib.manifest`, `images` brings what its containers run, and
`files` makes and removes volumes, log directories and bound parts of volumes.
"""

DEFAULT_PODS_DIR = "/var/lib/crib/pods"
"""Where the files of pods are: volumes and logs."""
PODS_DIR_VARIABLE = "CRIB_PODS_DIR"
"""Environment variable with another directory."""
