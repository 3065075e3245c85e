"""Decisions of the scheduler: events in, actions out. No socket, clock or thread lives here.

| module      | noun                                                                      |
|-------------|---------------------------------------------------------------------------|
| `events`    | everything that can happen, and everything that can be asked for          |
| `core`      | the state machine: one event, then admit, plan, tell kv                   |
| `state`     | all that is known, in one place                                           |
| `account`   | where the time of one request goes, as it happens                         |
| `request`   | one request from submission to its end                                    |
| `submit`    | a submission taken, refused or recognised; an abort                       |
| `gate`      | how fast the queue drains: Retry-After                                    |
| `fairness`  | what each tenant has been served                                          |
| `queue`     | those that wait: tenants in turn, by priority with ageing within one       |
| `admission` | who leaves the queue, for which replica; prefixes looked up and waited for|
| `handover`  | prefill in one replica, decode in another                                 |
| `pages`     | pages leased from kv and not yet given to anyone                          |
| `pageless`  | what stands in their place for a model that keeps no KV                   |
| `prefix`    | sealed pages by digest; who computes and who asks for which block         |
| `ledger`    | which pages a request holds: referencing, sealing, giving back            |
| `windows`   | which of its pages a request lets go of while it runs                     |
| `replica`   | the slots of one replica as struct of arrays; its steps in flight         |
| `cost`      | how long a step will take                                                 |
| `speculation` | how many draft tokens rows may have                                     |
| `plan`      | the next step of a replica                                                |
| `bounds`    | why a step has no more in it                                              |
| `steplog`   | the steps of late, as an onlooker sees them                               |
| `apply`     | what a step's result means for the columns                                |
| `encoded`   | the same for an encoder: vectors                                          |
| `results`   | what it means for requests and ingresses                                  |
| `pressure`  | what gives way when pages run out                                         |
| `failure`   | failed steps, lost replicas, lost pages, hangs                            |
| `budget`    | classes of errors, and how many a replica may have                        |
| `watch`     | whether a step hangs                                                      |
| `standing_still` | why replicas do not answer, and work in hand does not get on         |
| `suspects`  | who may have caused a failure; the batch is bisected                      |
| `trials`    | suspects moved: detained, tried, condemned                                |
| `view`      | the requests in hand as an onlooker sees them                             |
| `overview`  | queues, limits, replicas and hot prefixes, likewise                       |
| `hot`       | which prefixes are found again and again                                  |
"""
