"""The page server: owner of the host's page arena.

`layout` says where things are in the arena, `arena` maps it, `headers` reads and writes page headers, `witness` the
table of writers. The core is pure and decides: `pool` (pages of one shape: states, index), `lru` (who is evicted next),
`slabs` (which pool has which memory), `owners` (sessions, leases, fencing), `spills` and `fills` (what goes to disk and
comes from there), `core` (messages in, replies out), `audit` (whether all of that fits together).
`service` and `main` are the process, `disk` its files. `client` is all that other folders may import.

    free ──Lease──► leased ──Seal──► sealed, pinned n>0 ◄──► cached, n=0 ──evict──► free
                      │ owner died
                      └──► quarantined ──every writer dead or Fenced──► free
"""
