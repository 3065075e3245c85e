"""headrace under systemd: units for a configuration, and a hand on them once they run.

    placement.py  which cores, memory and GPU each rank gets; pure
    units.py      configuration and host -> the files; pure
    host.py       what this host has
    install.py    the files put in place, and taken away
    exposure.py   the files judged by systemd-analyze
    running.py    what systemd says of the units that run; restarts
    ends.py       how units ended, as they write it down; which end is worth a report
    telling.py    what systemd and the journal tell a report
    command.py    `headrace systemd …`

The files themselves are in `deploy/systemd/`, as systemd reads them.
"""
