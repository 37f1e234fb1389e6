"""The pure recipe: what a container is asked to be, and what its host is like, made into its OCI spec.

`inputs` is all that it is made from, read beforehand; `container` places the parts. Each field has one
author, which is asked once and is never corrected afterwards: `process`, `user`, `security` with `seccomp`,
`selinux` and `syscalls`, `resources` with `limits` and `devices`, `mounts`, `namespaces` and `userns`,
`annotations`, `init_system`. Over and below what they say there are layers, in this order:

1. Below: the handler's base spec (`base_spec`). Its fields hold where nothing else says anything, and what a
   pod's request decides is not taken from it at all.
2. The authors' spec.
3. Over it: edits (`edits`), which add to it or take the place of what has the same name. CDI devices come
   first, in the order in which they are asked for; then hook files, by their names, if the spec so far meets
   their conditions (`hooks`); then the edits that come with the request for the create, in their order.

Edits are the only way in for somebody who changes a container without being its author, and each carries its
origin. `origins` tells of any field who is behind it, by taking inputs away (`variants`).

`pod_security` is the confinement of a pod's own process; `defaults` reads the node's words.
"""
