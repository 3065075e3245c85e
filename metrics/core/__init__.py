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
| `views`       | what processes last said for the detail screens                    |
| `steps`       | the last thousand steps of each scheduler, and what bounded them   |
| `arena`       | pools, tiers, prefixes and holders, with models and rates          |
| `endpoints`   | doors of all processes, with rates                                 |
| `pace`        | step times of workers, and skew of ranks                           |
| `sheet`       | models as served, and where the memory went                        |
| `rules`       | what is wrong now, and the catalogue of alarms                     |
| `judge`       | all rules over all that is known                                   |
| `findings`    | what an operator should know, with hysteresis                      |
| `notes`       | what operators said of findings                                    |
| `exemplars`   | for each latency bucket, the last request in it                     |
| `traces`      | spans of a request, made of its timeline                           |
| `ceilings`    | how close steps come to what the host can do                       |
| `costs`       | what computing costs                                               |
| `collector`   | all of the above behind one object                                 |
| `instruments` | help texts and public names                                        |
"""
