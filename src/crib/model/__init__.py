"""Our nouns: frozen values that all other rooms use, and nothing else.

This room imports only the standard library and does no I/O. Times are integers in nanoseconds since the
epoch unless a name says otherwise; sizes are bytes. Begin with `sandbox` and `container` (what the CRI asks
for, and what we keep of it), then `lifecycle` (which moves are legal) and `errors` (the one tree of
failures that leaves the daemon). The rest:

* `ids` and `paths`: how things are called, and where they are.
* `image` and `registry`, `network`, `streams`, `stats`, `disk`, `events`, `signals`: the other nouns.
* `metrics`: of pods and containers, all of them in `metric_families`.
* `caller`: who made a call, and what it is about. `ends`: why a container has ended.
* `log_rule`: what is logged for a while, and the parts of a dump.
* `kept`: a pod that is kept up without a kubelet. `volumes`: what the daemon keeps for such pods,
  with `volume_lifecycle`. `driver_status`: what is known of the CSI drivers that make and mount some of them.
* `edits`: what CDI devices, hook files and plugins change in a container.
* `plugins`: what node plugins are shown, and want done; `resource_change`: other limits that they want, and
  `plugin_limits` what the CRI calls them. `plugin_status`: how each plugin is, and what is counted of it.
* `settings` with `image_settings`, `checkpoint_settings`, `nri_settings`, `shim_settings`, `vm_settings`,
  `docker_settings` and `volume_settings`, the bounds beside them by `keys`; `facts`: what the administrator
  decided, and what the host is. `configuration`: how settings are shown, and what a reload makes of them.
* `extension`: what lifecycle hooks and other extensions are given.
* `tallies`: what is counted while the daemon runs.
* `explanation` and `finding`: answers for people.
"""
