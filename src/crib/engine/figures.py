"""What the verbs count, for whoever watches the daemon (`crib.observe`)."""

from __future__ import annotations

from crib.model.tallies import Operations, Tally


class VerbFigures:
    """Of one node, since its daemon began."""

    def __init__(self) -> None:
        self.stages = Operations()
        """Of pods' starts, by name."""
        self.network = Operations()
        """What pods' networks were asked for: attach, detach, resume, check, repair, sweep."""
        self.volumes = Operations()
        """What kinds of volumes did, by kind and step: create, stage, publish, and what undoes them."""
        self.pulls = Operations()
        """By registry; those that were joined count once."""
        self.pulled = Tally()
        """Bytes of layers as the registry keeps them, by registry."""
        self.exits = Tally()
        """Containers that ended, by reason."""
        self.teardown_failures = Tally()
        """By what could not be taken away whole: stop (of a pod), pod, container."""
        self.recoveries = Operations()
        """What was recovered after the start, by kind: container, pod, network, sweep."""
