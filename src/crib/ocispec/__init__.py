"""The recipe: a container's configs and facts become its OCI spec. Pure: no file, no clock, no randomness.

Begin with `container`, which places the parts, and `inputs`, which says what they are made from. Each part
has one author, which is asked once and never corrected afterwards:

* what runs: `process`, `user`, `init_system` (systemd as a container's command), `infra` (a pod's own
  process).
* what it sees: `mounts`, `devices`, `namespaces`.
* what it may do: `security`, `seccomp` with `syscalls`, `selinux`.
* what it may use: `resources`, with `classes` (block I/O, RDT), over `limits` (a cgroup's files) and
  `unit_properties` (systemd).
* what the node gives, and what others read: `defaults`, `annotations`.

Below and above what the authors say are two layers:

1. Below: the handler's base spec (`base_spec`). Its fields hold where nothing else says anything. What a
   pod's request decides is not taken from it at all.
2. Above: edits (`edits`), which add to a field or replace an entry of the same name. CDI devices come first,
   in the order of the request; then hook files by name, where the spec so far meets their conditions
   (`inputs.HookRule`); then the edits that come with the request for the create, in their order.

`edits_resources` has what they make of limits, and `edits_checks` what this host and the handler cannot do.
`adjust` makes the answers of several node plugins into edits, and `adjust_owners` knows which plugin has set
what: two may not set the same. `adjust_rules` is the built-in validator of what they have set.

Edits are the only way in for whoever changes a container without being an author of its spec, and each edit
carries its origin. `origins` finds where each field came from, by way of `variants` of the inputs.
"""
