"""What is wrong, as rules over what was collected: numbers go in, conditions come out. Pure.

| module      | judges                                                        |
|-------------|---------------------------------------------------------------|
| `catalogue` | nothing: every alarm, how long it must hold, what to do       |
| `processes` | processes, by their samples or the lack of them               |
| `models`    | models, by what their schedulers measure                      |
| `pages`     | the page arena and its disk                                   |
| `host`      | the machine, and who uses it                                  |
| `accounts`  | whether what must be written down is                          |

Since when a condition holds, and whether that is long enough to say so, is `metrics.core.findings`' to tell. Rules are
tuned to be silent where all is well: a start, load, a drain, a restart and idleness are none of them a condition
(`tests/metrics/test_healthy.py` replays one).
"""
