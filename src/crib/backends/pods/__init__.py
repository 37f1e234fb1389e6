"""What a pod has of its own, for any kind of handler that runs its containers.

Begin with `pods`, which makes and removes all of it, also the process that holds a shared pid namespace:

* `files`: hosts, hostname, resolv.conf. `namespaces`: those that are pinned.
* `cgroup_names`: where its cgroup is, and those of its containers. `slices`: the same by systemd. `updates`:
  their limits. `usage` and `oom`: what their counters say. `oom_causes`: whose limit was hit.
  `layer_sizes`: what containers keep on disk.
* `losses`: pods that lose any of this. `strays`: what belongs to no pod and no container.
* `running` is the port of pods over all of this, `statistics` that of usage. `signals` reach a container's
  processes, and `endings` says why a container ended;
  `filed_exits` keeps that on file. `contained`: commands with a cgroup of their own.
* `opening`: what is found and made when a handler is opened.
"""
