"""`crib bench`: what pods and pulls cost on this node, for any CRI runtimes, side by side in one run.

* `app` has the commands, `options` their arguments.
* `session` is the order of `crib bench`; `lives` is one pod's life with a stopwatch, `floors` the same work
  by crun, conmon and CNI plugins alone, `memory` many pods at once and what processes take.
* `pulls` is `crib bench pull`. `streams` is the order of `crib bench streams`, `stream_pod` and `flows` its
  work. `crowd` is the order of `crib bench crowd`, `callers` its processes. `day` is `crib bench day`.
* `turns` is what all share: endpoints, rounds, warnings. `figures` has medians, noise, table and JSON.
  `target` is one runtime under test, `image` the image of its pods.

Everything that a bench makes is removed, even after Ctrl-C. Bench goes through `crib.client` alone, so that
every runtime is asked in the same way.
"""
