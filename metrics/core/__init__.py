"""What the metrics process knows and concludes. Pure: messages and the time go in, snapshots and updates come out.

| module        | holds                                                              |
|---------------|--------------------------------------------------------------------|
| `histograms`  | arithmetic on cumulative buckets: sums, differences, quantiles     |
| `series`      | every instrument of every process, across incarnations; windows    |
| `fleet`       | the latest sample of each process; who is late, gone, restarting   |
| `timelines`   | events of the last N requests; the list of finished ones           |
| `step_ring`   | the recent steps of each model                                     |
| `explain`     | why one request took as long as it did                             |
| `live`        | requests in schedulers' hands                                      |
| `loads`       | one line per model, and the pages, out of the series               |
| `rules`       | what is wrong now, and the catalogue of alarms                     |
| `judge`       | all rules over all that is known                                   |
| `findings`    | what an operator should know, with hysteresis                      |
| `collector`   | all of the above behind one object                                 |
| `instruments` | help texts and public names                                        |
"""
