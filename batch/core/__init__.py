"""Decisions of the batch process. No socket, clock, file or thread lives here.

| module    | noun                                                              |
|-----------|-------------------------------------------------------------------|
| `state`   | a batch, and the states that it goes through                      |
| `lines`   | lines of an input file, and what is wrong with them               |
| `window`  | how many lines of a batch are asked for at once, and from when on |
| `verdict` | whether an answer is the line's, or it is tried again             |
| `desk`    | which line is next                                                |
"""
