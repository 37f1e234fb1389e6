"""Node plugins (NRI) in the verbs.

* `gate`: while a plugin learns what there is, nothing is made and nobody is told anything.
* `telling`: the moments at which verbs ask and tell plugins.

What plugins themselves want done is in `engine.plugin_wishes`.
"""
