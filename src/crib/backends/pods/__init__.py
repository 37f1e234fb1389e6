"""What a pod has of its own, whichever kind of handler runs its containers.

Begin with `pods`, which makes all of it and takes it away:

* `files`: hosts, hostname, resolv.conf. `namespaces`: those that are pinned.
* `cgroup_names`: where its cgroup is, and those of its containers. `slices`: the same by systemd. `updates`:
  their limits. `usage` and `oom`: what their counters say. `layer_sizes`: what containers keep on disk.
* `infra`: the process that holds a shared pid namespace, run by whoever runs the containers.
* `losses`: pods that lose any of this.
"""
