"""The library at the bottom: everything that processes say to each other, and how.

Here live the message structs (`bus.messages`, one module per conversation), the codec
(`bus.wire`), typed endpoints over ZeroMQ and over Unix sockets, liveness, telemetry
instruments, configuration, and the life that every process shares (`bus.actor`).

Here never lives a decision about serving: nothing of the scheduler, the page server,
a model or a client API. `bus` imports nothing else of the project.
"""
