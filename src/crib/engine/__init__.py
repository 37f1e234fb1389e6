"""The verbs: what the CRI asks for, in five beats, through the ports.

Every verb is: look up → check the state (`model.lifecycle`) → record the intent → act through ports →
record the result and tell. Who has read `sandboxes/run.py` has read all of them. Five things to know:

* `core.Core` is what the verbs share: tables, locks, ports, events. `node.Node` is the front that the
  doors see.
* `tables.Table` holds frozen records in memory and writes each change to `Records` first.
* `joins.Joins` makes a retry wait for the work that is already running, and keeps a caller's deadline
  from ever cancelling a verb.
* Each noun has one teardown (`sandboxes/teardown.py`, `containers/teardown.py`), run by the failed verb,
  by stop and remove, and by recovery.
* `keeper.TaskKeeper` owns every task.

This room knows no program, no SQL, no protobuf and no socket.
"""
