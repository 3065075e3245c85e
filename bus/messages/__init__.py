"""Messages, one module per conversation. Structs only: no behaviour, no I/O.

| module      | conversation                       | carried by                        |
|-------------|------------------------------------|-----------------------------------|
| `common`    | hello, heartbeat, refusal          | every ROUTER/DEALER channel       |
| `clients`   | client <-> ingress                 | ROUTER/DEALER                     |
| `requests`  | ingress <-> scheduler              | ROUTER/DEALER                     |
| `steps`     | scheduler <-> worker               | ROUTER/DEALER                     |
| `pages`     | scheduler, worker <-> kv           | Unix SEQPACKET (passes the arena) |
| `telemetry` | everyone -> metrics                | PUB/SUB                           |
| `vitals`    | the same, for detail screens       | PUB/SUB                           |
| `observe`   | anyone <-> metrics, metrics feed   | ROUTER/DEALER, PUB/SUB            |
| `details`   | the same, asked for by screens     | ROUTER/DEALER                     |
| `usage`     | what requests used, within observe | ROUTER/DEALER                     |
| `adapters`  | adapters, within `requests`, `steps` and `control` | ROUTER/DEALER |
| `control`   | operator <-> every process         | ROUTER/DEALER                     |

Tags are unique within a channel; the first ten belong to `common`. Arrays of numbers travel packed
(`bus.packed`). Fields are appended with defaults, never reordered.
"""
