"""The local supervisor: starts the processes of one configuration, keeps them alive, and outlives none of them.

`core` decides (pure), `plan` derives what should run, `service` does it. Processes do not die with the supervisor:
the next one adopts them.
"""
