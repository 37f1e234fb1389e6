"""KnownContainers by Docker's Engine: one kind of handler, behind `DockerHandler`.

The Engine makes its own roots and specs from what it is told over its socket. Begin with `handler`, whose
ports are in `lives` (containers), `streams` and `statistics`. What they work with are the `tools`:

* `api` makes calls, `hijacked` is a connection that one has turned into streams. `link` knows whether the
  Engine is there, and what it is. `nouns` has what it says in our words, `known` finds our containers in it.
* `translate` is pure: an OCI spec in the Engine's words. `mounts` and `refusals` are its parts.
* `containers` makes and unmakes them, `images` brings their layers, `infra` is the pod's own container.
  `exits` listens to the Engine's events. `strays` belong to nobody, `environment` is found at the opening.
* `logs` copies output, `log_positions` is how far it has come. `exec` with `command_streams` runs commands,
  `attach` attaches.
"""
