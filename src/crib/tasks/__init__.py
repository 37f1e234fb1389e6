"""Who starts and holds tasks in the daemon, and the loop that they run on.

* `keeper`: what outlives the call that began it. `TaskKeeper` holds verbs and services and can list them;
  `HANDS` is the one for backends.
* `groups`: what ends with the block that began it. `Group` for tasks that fail together, `Beside` for those
  that are no longer needed once the block is left, `all_of` for the results of several.
* `calls`: the call that a task works for, and `spans`: where it is in its caller's trace.
* `lanes`: the loop itself, on which calls go before verbs.

Nobody else in the daemon starts a task (`tests/architecture/test_tasks.py`). Each has a name, with the id of
its owner where there is one, and bounds of its own: a keeper ends tasks and does not time them. Begin with
`keeper`.
"""
