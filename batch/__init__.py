"""The batch process: files of lines, and batches that answer them when nothing else wants to be answered.

| module      | what it is                                                                   |
|-------------|------------------------------------------------------------------------------|
| `core/`     | decides and is pure: states, lines of a file, who is sent next, what is tried again |
| `database`  | everything that must outlive a death: files, batches, lines, answers (SQLite) |
| `vault`     | the files' bytes, in the state directory                                     |
| `requests`  | what clients ask, as what is done with the two                               |
| `course`    | what each batch is at, and what follows                                      |
| `stages`    | the long work of a batch: its file is checked, its results are written       |
| `runner`    | its lines, as calls to the ingresses                                         |
| `ingresses` | the links that they go by                                                    |
| `service`   | the life of the process: its door, its clock                                 |

A line is answered once. Its call carries a key that is made of batch and line, so an ingress that is asked again, by
this process or by its next incarnation, has the answer that it gave. An answer is in the database before the line is
counted, and results are written from there, in the order of the lines.
"""
