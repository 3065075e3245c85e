"""The proof: any process of a running stack may be killed at any moment, and every accepted request completes exactly.

| module        | noun                                                                                |
|---------------|-------------------------------------------------------------------------------------|
| `catalogue`   | the fixed requests that the load is drawn from                                      |
| `answer`      | what is compared of an answer, put together from a body, from chunks, or from pieces|
| `undisturbed` | the answers when nothing dies                                                       |
| `outcome`     | what came of one request                                                            |
| `http_door`   | a request over HTTP, kept up as the client rule says                                |
| `zmq_door`    | a request through `headrace_client`                                                 |
| `load`        | which requests are made, by which door and with what manners; so many at a time     |
| `schedule`    | who is struck when, and how: drawn from a seed                                      |
| `killer`      | carries the schedule out                                                            |
| `checker`     | outcomes against undisturbed answers: violations                                    |
| `audit`       | what is left when it is quiet: pages, processes, descriptors, memory                |
| `layouts`     | the stacks that it is done to                                                       |
| `slices`      | one stack from start to end: rounds of load and kills, an audit after each          |
| `report`      | slices added up: the table of kills, pauses and violations                          |
| `soak`        | load for long, with a kill now and then: nothing grows                              |

`catalogue`, `answer`, `schedule`, `checker` and `report` are pure. `make test-chaos KILLS=1000` runs `python -m chaos`.
"""
