"""Containers by an OCI runtime (crun, runc) and conmon: one kind of handler, all of it behind `OciHandler`.

Begin with `handler` and the ports that it offers (that of containers is in `lives`). They hand their work to
the `parts`, of which `containers` makes and unmakes. A container's traces are found by its id alone: its
bundle (with a note of what was made, see `bundles`), its writable layer, its cgroup, its exit file. So the
one teardown needs no record that is complete, and the sweep needs none at all. Monitors stay in the daemon's
own cgroup: it lies outside every pod's, and so a pod's limits never hold up the one who reads its output
(CVE-2019-14891).
"""
