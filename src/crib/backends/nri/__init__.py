"""Node plugins by the Node Resource Interface (NRI): the port `NodePlugins`, spoken over ttrpc.

https://github.com/containerd/nri, pkg/adaptation and pkg/api/api.proto. Begin with `plugins`: the port, in
which all plugins are one.

* `awaited`: the same while there is no plugin.
* who is there: `members`, with `listening` (the socket) and `installed` (programs that the daemon starts).
* one plugin: `plugin` (its life and its calls) over `link` (its connection); `joining` takes it in, with the
  messages of `synchronizing`; `runtime_calls` is what it may call, and `orders` has done what it wants.
* pure: `lives` (states and names), `moments` (events and their calls), `requests` (what goes with each).
* messages and nouns: `translate` shows pods and containers (`translate_parts` what is in a spec), and
  `translate_validation` what validators are to judge. `translate_answers` reads what plugins answer, with
  `translate_adjustment` for what they make of a container and `translate_limits` for limits;
  `translate_checks` refuses what cannot be.
"""
