"""Reading what the processes of a host said: from their log files, or from the journal. For screens and commands.

| module     | what                                                            |
|------------|-----------------------------------------------------------------|
| `records`  | a line as a record: time, level, process, text, request; pure    |
| `query`    | which records are wanted; pure                                   |
| `files`    | a source: the log files of `headrace up`                         |
| `journald` | a source: `journalctl`, a process of its own behind a bounded pipe |
| `source`   | which of the two a host has                                      |
"""
