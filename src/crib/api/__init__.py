"""The door: CRI in, CRI out, and crib's own Node service on the same socket. It translates and nothing else.

A request becomes a value of `model` in `translate` and ends there; the engine's verbs never see a message.
Begin with `calls`, which says what a call is made of. Then:

* `runtime_service`, `image_service`, `node_service` and `health_service` list theirs, `reflection_service`
  tells what there is; `stream_calls` has Exec, Attach and PortForward, `stats_calls` and
  `metrics_calls` those that ask for usage, `checkpoint_calls` those about checkpoints.
* `interceptors`: what every call passes through (request id, readiness, errors, log). `open_calls`: what is
  counted of it. `requests`: how many bytes of them are held at once. `errors`: our errors as gRPC codes.
* `daemon_calls`: looks into the daemon, its log and its settings. `kept_calls`: pods that are kept up without
  a kubelet. `plugin_calls`: node plugins. `volume_calls`: volumes of pods. `driver_calls`: storage drivers.
* `changes`: which calls change something, what they are about, and what an auditor is told.
* `list_replies` and `metric_replies` join replies from parts that are encoded already, with `encoded_fields`.
* `server` puts all of it on the socket, and asks itself whether it still answers.
"""

import os

# before anything imports grpc: its fork handlers would stop the world at every process that we start, and we
# never fork without exec
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
