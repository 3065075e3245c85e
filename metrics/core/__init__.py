"""What the metrics process knows and concludes. Pure: messages and the time go in, snapshots and updates come out.

| module        | holds                                                              |
|---------------|--------------------------------------------------------------------|
| `histograms`  | arithmetic on cumulative buckets: sums, differences, quantiles     |
| `series`      | every instrument of every process, across incarnations; windows    |
| `fleet`       | the latest sample of each process; who is late, gone, restarting   |
| `timelines`   | events of the last N requests; the list of finished ones           |
| `live`        | requests in schedulers' hands                                      |
| `loads`       | one line per model, and the pages, out of the series               |
| `findings`    | what an operator should know, with hysteresis                      |
| `exemplars`   | for each latency bucket, the last request in it                     |
| `traces`      | spans of a request, made of its timeline                           |
| `ceilings`    | how close steps come to what the host can do                       |
| `costs`       | what computing costs                                               |
| `collector`   | all of the above behind one object                                 |
| `instruments` | help texts and public names                                        |
"""
