"""The hands: the ports, done with programs, files, the kernel and databases.

Begin with the port that you are after (`crib.ports`), then go where it is done:

* `handlers`: the kinds of handler in one table. `oci` is the first: pods and containers by crun or runc and
  conmon. `shim` has them run by a shim of containerd's kind, `docker` by Docker's Engine, and `vm` makes of
  each pod a virtual machine, by a shim of ours. Whichever kind runs it, `bundle` is what a container is made
  from on this host, `pods` what a pod has of its own, `container_bundles` makes a container's bundle in its
  pod, `container_deletes` takes it away, `streams` carries its bytes, and `explanations` says where the
  fields of its spec come from. `pod_handlers` has what these kinds share, and by `handler_notes` one that
  was taken out of the configuration is found.
* `images`: the store of layers, their mounts, and the worker without privileges that talks to registries.
* `network`: the built-in bridge, or CNI plugins.
* `records`: rows of sandboxes, containers and images, and the journal, in SQLite.
* `volumes`: kinds of volumes for pods that run without a kubelet.
* `nri`: node plugins, which see pods and containers and change them.
* `keeping`: pods that are kept up without a kubelet, and the process that does it.

For all of them: `failures` turns what goes wrong into errors of the model, in threads too, `together`
asks many questions in one step, `known_processes` says whether a process that a record names still lives,
`programs` whether one can be run, `runtime_probe` what a runtime can do, and `runtime_words` what it means.
`new_files` writes what somebody names a path for, `confined_programs` runs those of ours that read what
others made, and `tar_nodes` makes links and FIFOs of their archives.
`environment` is what all parts of a handler are given, `locks` keeps a second cribd away, `host_facts` finds
out what the host can do, and `cgroup_options` has its cgroup tree mounted as the settings say. `extensions`
loads what other projects add.
"""
