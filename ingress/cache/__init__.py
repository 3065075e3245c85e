"""Answers that are kept: a call that was answered before is answered again without a model.

| module       | holds                                                                                          |
|--------------|------------------------------------------------------------------------------------------------|
| `directives` | what a call says of caching: `Cache-Control`, and `cache` in its body                          |
| `spaces`     | which namespace a call belongs to, and what holds there                                        |
| `policy`     | which calls may be answered from the cache, and which answers may be kept                      |
| `keys`       | everything that determines an answer, as one digest                                            |
| `entry`      | an answer as it is stored, and as a stream again                                               |
| `store`      | the file that the ingresses of a host share                                                    |
| `flight`     | one generation for all calls that ask for the same at the same time                            |
| `costs`      | what computing an answer took, so that a hit can say what it saved                             |
| `front`      | all of it, between the input guards and the dispatch                                           |
| `semantic`   | answers to questions that mean the same                                                        |

`directives`, `spaces`, `policy`, `keys` and `entry` are pure.
"""
