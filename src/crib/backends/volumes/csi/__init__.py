"""Volumes of drivers of the Container Storage Interface (CSI 1.x), over their unix sockets.

* `volumes`: the kind of volume.
* `controller`, `node`: what the two halves of a driver are asked for it.
* `driver`: one driver; repeated calls, and what a status means. `driver_facts`: who it is and what it can.
* `requests`: a record in the interface's words. `calls`: its calls by name. `channel`: one call.
* `errands`: time and secrets of one piece of work. `notes`: what was asked and may have to be asked again.
* `places`: the paths that a driver is given.

Nobody else imports the messages of the interface. All of it is imported when there are drivers.
"""
