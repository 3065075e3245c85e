"""The usage ledger: one row for each request that has ended, sums by hour and by day, and what the host cost meanwhile.

| module     | holds                                                                          |
|------------|--------------------------------------------------------------------------------|
| `database` | the SQLite file: what is written in one transaction, and what is never again   |
| `queries`  | answers to `GetUsage` out of it                                                |
| `keeper`   | the thread that alone touches the file, so that a slow disk makes nobody wait  |

What costs what is `metrics.core.costs`.
"""
