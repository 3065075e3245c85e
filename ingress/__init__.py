"""The ingress process: it speaks to clients and is the home of their requests.

`main` builds it, `service` runs it, `engine` is what the fronts (`api`: HTTP, `door`: ZeroMQ) talk to, `conversation`
is the other side, towards one scheduler. `text` turns text into token ids and back. The cores (`generation`, `text`,
`replay`) know neither sockets nor clocks.
"""
