"""The disk tier: what leaves the arena stays in files, and comes back when that is cheaper than computing it.

`record` says how pages lie in a file, `index` which page is where. Pure. `log` writes segments and reads them again
after a kill, `reader` brings one page back, `place` is the directory, `threads` does all of that beside the loop.
`tier` is the process's part: it carries out what `kv.spills` and `kv.fills` decide.

    segments, oldest first:   closed │ closed │ closed │ open ◄── pages that nobody holds, as soon as the disk is idle
                                 ▲                        the oldest goes, whole, when the limit is reached
                                 └── read back, verified, when a scheduler asks
"""
