"""What `headrace --help` lists: a module for each group; `base` is the application that they belong to.

A command imports what it needs when it is called, so that help answers at once; the work is done elsewhere in `cli`.
"""
