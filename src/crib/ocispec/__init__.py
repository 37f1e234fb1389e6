"""The recipe: a container's configs and facts become its OCI spec. Pure: no file, no clock, no randomness.

Begin with `container`, which places the parts, and `inputs`, which says what they are made from. Each part
has one author:

* what runs: `process`, `user`, `init_system` (systemd as a container's command), `infra` (a pod's own
  process).
* what it sees: `mounts`, `devices`, `namespaces`, `userns`.
* what it may do: `security`, `pod_security`, `seccomp` with `syscalls`, `selinux`.
* what it may use: `resources`, over `limits` (a cgroup's files) and `unit_properties` (systemd).
* the administrator's part: `defaults`, `base_spec`, `hooks`, `cdi`; and `annotations`.

`origins` finds where each field came from, by way of `variants` of the inputs.
"""
