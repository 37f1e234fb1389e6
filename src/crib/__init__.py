"""crib: a Kubernetes container runtime.

The floors, from the ground up: `model` (our nouns), `wire` (others' formats), `host` (Linux, thinly) and
`stubs` (generated) know nothing of each other's work; `ocispec` is the pure recipe of a container;
`engine` holds the verbs and `backends` the hands, blind to each other and joined by `ports`; `api` is the
door; `daemon` wires all of it. `client`, `cli`, `supervisor` and `bench` are programs outside the daemon.

Begin with `ports`, then `engine/containers/create.py`.
"""

__version__ = "0.1.0"
