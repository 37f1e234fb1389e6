"""Pod networks by CNI plugins.

`network` is the port. `conf_dir` finds networks and `choice` chooses, `plugins` runs one command and
`commands` a network's, `kept_results` keeps what DEL needs, `ready` waits, `gc` and `host_local` release what
nobody holds, `views` says what there is.
"""
