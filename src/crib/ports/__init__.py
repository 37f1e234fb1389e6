"""The seams: what the verbs (engine) need of the hands (backends), a page for each.

* `handler`: runs pods and containers of one RuntimeClass handler.
* `networks`: attaches pods to their network.
* `images`: keeps images, and fetches them.
* `records`: keeps the rows.
* `clocks`: tells the time; times a stage of a pod's start.

The ends of a stream, which doors make as well, are in `crib.ends`.

Each port has a fake under tests/fakes that passes the same contract suite as the real thing. An
implementation turns whatever goes wrong into a `CribError` that names what was tried. Every removing or
stopping method is idempotent: what is not there counts as removed.
"""
