"""Node plugins (NRI) in the verbs.

* `gate`: while a plugin learns what there is, nothing is made and nobody is told anything.
* `telling`: the moments at which verbs ask and tell plugins.
* `wishes`: what plugins want done: other limits for containers, evictions; and what they learn when they come.
"""
