"""`crib bench`: what pods and pulls cost on this node, for any CRI runtimes, side by side in one run.

`app.py` has the commands, `options.py` their arguments, `session.py` the order of things, `lives.py` one
pod's life with a stopwatch, `floors.py` the same work by crun and conmon alone, `memory.py` many pods at once
and what processes take, `pulls.py` the order of `crib bench pull`, `pull_round.py` an image's pulls and
removals, `crowd.py` the order of `crib bench crowd`, `callers.py` its processes of callers, `turns.py` what
all share, `figures.py` medians and noise, `report.py` table and JSON. Everything that is made is removed,
also after Ctrl-C. Bench goes through `crib.client` alone, so that every runtime is asked in the same way.
"""
