"""The metrics process: what every process says about itself, collected, judged and handed on.

`main.py` builds the process, `service.py` owns its sockets, `exposition.py` writes the Prometheus text, `answers.py`
what detail screens ask for; `core/` decides, with neither socket nor clock; `host/` reads the machine. Nothing here can
slow a request: telemetry is droppable and arrives by PUB/SUB.
"""
