"""The ports: what the verbs (engine) need from the backends, a page for each port.

A handler runs pods and containers of one RuntimeClass. It is a port that offers six others, so that a verb
takes only what it uses, and a new handler can borrow ports of another one:

* `handler`: the handler itself: its facts, and what is done for all of its pods together.
* `pods`: what a pod has of its own.
* `containers`: a container's life.
* `streams`: exec, attach, and connections into a pod.
* `logs`: where containers' output is kept.
* `checkpoints`: running containers written down; not every kind of handler does.
* `statistics`: what pods and containers use.

The node has one of each of these:

* `networks`: attaches pods to their network.
* `images`: keeps images, and fetches them.
* `records`: keeps the rows.
* `journal`: remembers what happened, for longer than the rows.
* `kept`: keeps pods up without a kubelet.
* `volumes`: what volumes are made of, a kind each.
* `extensions`: lifecycle hooks and image verifiers of other projects.
* `plugins`: node plugins (NRI), which are asked about containers and told about pods.
* `insight`: shows what the daemon itself is at, and how much of it is logged.
* `configuration`: tells the settings, and reads them again.
* `clocks`: the clock, and the timer for a stage of a pod's start.

The ends of a stream are in `crib.ends`, because the doors make them too.

Each port has a fake under tests/fakes that passes the same contract suite as the real thing. An
implementation turns every failure into a `CribError` that names what was tried. Every method that removes or
stops something is idempotent: what does not exist counts as removed.
"""
