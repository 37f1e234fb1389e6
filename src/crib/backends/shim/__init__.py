"""Containers by a shim of containerd's kind (runtime v2): one kind of handler, behind `ShimHandler`.

A shim is a program that stays while its containers are there, and speaks ttrpc on a socket. Begin with
`handler`, whose ports are in `pods`, `lives` (containers), `streams` and `statistics`. What they work with
are the `tools`:

* `shims`: which pod or container has which shim, started, found again and ended. `bootstrap` has its command
  lines and answers, `options` what the administrator gives it, `shim_notes` how the next daemon finds it,
  `processes` the shim as a process, `shim_log` what it says, `events` what it sends.
* `container_shims`: whose shim a container has. `tasks` is a shim's task service in the words of `nouns`,
  `task_client` the same through ttrpc, and `sandbox_service` makes pods where a shim does that itself.
* `containers` makes and unmakes them, `exits` waits for their ends. `infra` is what runs for a pod itself.
  `strays` belong to nobody, `environment` is found when the handler is opened.
* `container_io` is what these need of those who carry bytes, on the files that `fifos` names: `fifo_ends`,
  `first_processes` with `outputs`, `inputs` and `chunks`, `attach`, and for commands `exec` with
  `command_streams` and `earlier_commands`.
"""
