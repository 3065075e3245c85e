"""`headrace capacity`: how many pages, how many streams, how much memory, before anything runs.

`counting` is the arithmetic, from a configuration and the shapes of its models; `command` gets the shapes and prints.
"""
