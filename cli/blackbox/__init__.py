"""`headrace blackbox`: what processes recorded of themselves, for people and for programs.

| module      | what is there                                             |
|-------------|-----------------------------------------------------------|
| `entries`   | a recorded moment as plain data: what `--json` prints     |
| `following` | which moments concern one request                         |
| `telling`   | an entry in one line                                      |
| `deaths`    | who died, how, and what it said last                      |
| `command`   | the command                                               |

What a recording is and how it is read is `bus.blackbox`'s.
"""
