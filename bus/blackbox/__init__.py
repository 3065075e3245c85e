"""The flight recorder: what a process last heard, said and did, in memory that outlives it.

| module     | what is there                                                       |
|------------|---------------------------------------------------------------------|
| `ring`     | checked records in a stretch of bytes; pure                         |
| `form`     | what a file of the recorder looks like: its head, and a record      |
| `privacy`  | which parts of which messages are not recorded                      |
| `recorder` | the writing side: a process has one, its endpoints and log write it |
| `files`    | which files there are, and which are let go                         |
| `reading`  | the reading side: recordings of the dead and of the living          |
| `crashes`  | which crash reports there are, by their names                       |

A record is two copies of some hundred bytes and a check sum; nothing is flushed, nothing waits. Reading needs nothing
from the process: what it was writing when it died is told by its check sum. What is made of records for people is not
here (`cli.blackbox`).
"""
