#!/usr/bin/env python3
"""A node plugin: a pod's annotation `open-files.example.com/CONTAINER` sets how many files a container may
open.
"""

from crib import nri

PREFIX = "open-files.example.com/"


class OpenFiles(nri.NodePlugin):
    """Adjusts containers while they are made."""

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container, changes: nri.NewContainerChanges
    ) -> None:
        if limit := int(pod.annotations.get(PREFIX + container.name, 0)):
            changes.adjust.add_rlimit("RLIMIT_NOFILE", limit, limit)


if __name__ == "__main__":
    nri.run(OpenFiles())
