"""`headrace batch` and `headrace batches`: over HTTP, as any client of the API.

`api` speaks it, `receipt` is what is kept beside a file while its batch is under way, `follow` goes from file to
results, `listing` shows what there is.
"""
