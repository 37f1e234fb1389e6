"""The verbs: what the CRI asks for, in five beats, through the ports.

Every verb is: look up → check the state (`model.lifecycle`) → record the intent → act through ports →
record the result and report it. Begin with `sandboxes/run.py`: the other verbs are built like it. Then:

* `core`: what the verbs share. `locks` are those of nouns, and know who holds them. `tables` holds frozen
  records in memory and writes each change to the records first; `events` goes to subscribers, `timeline`
  times the stages of a pod, and `timelines` keeps them, `beforehand` those that come before a
  pod has a sandbox; `history` keeps the node's events (`transitions`:
  those of rows), `notices` what is wrong with it.
* `handlers`: what runs pods, by name; a reload adds some and withdraws others.
* `node`: the front that the doors see. `figures` are what the verbs count, `gauges` how much there is now.
* `joins` and `identity`: a retry waits for the work that is already running, and a caller's deadline never
  cancels a verb. `admission`: who may make something, and in which turn. Tasks are those of `crib.tasks`.
* `sandboxes` and `containers`: the verbs of each noun. Each has one teardown, run by the failed verb, by
  stop and remove, and by recovery. `losses`: pods that come to an end by themselves.
  `endings` keeps why containers have ended, `why` tells it; `host_end` ends them when the host shuts down.
  `hooks` calls what others do around the verbs.
* `plugins`: the moments at which node plugins (NRI) are asked and told; `plugin_wishes`: what they want.
* `volumes`: those of pods without a kubelet, which the daemon keeps.
* `images`, `networks`, `streams`, `stats` with `cpu_rates`, `metrics`, `disk`, `status`, `explain`: the other
  nouns, and the questions.
* `recovery` after a start, `retries` of what could not be taken away, `abandon` for what hangs, `checks`
  with `mending` and `wipe` for whoever repairs a node.

This room knows no program, no SQL, no protobuf and no socket.
"""
