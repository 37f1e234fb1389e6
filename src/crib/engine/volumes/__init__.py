"""Volumes of pods that run without a kubelet: the verbs over the kinds of `ports.volumes`.

* `specs`: what a volume is to be: classes, what a kind cannot, what differs. Pure. `access`: who may use it.
* `shelf`: the records, and calls of kinds with their locks and limits.
* `making`: create and remove, with the one teardown. `publishing`: a pod's volumes, to it and from it.
* `changes`: resize and usage. `snapshots`. `copies`: export and import.
* `recovery`: after a start. `upkeep`: check and prune. `parts`: what both work with.
* `verbs`: all of them, as the node offers them.

A row is there before the work: CREATING, STAGING and PUBLISHING say what may exist, and the same teardown
undoes it from a failed verb, from a removal and from recovery. What lasts in the data directory without a row
is never removed by itself: it may be what a person needs.
"""
