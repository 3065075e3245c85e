"""The accounts process: organisations, projects and keys, and what each of them may use.

`core/` decides and is pure: `directory` knows who there is, `book` gives leases of limits and budgets to ingresses,
`periods` knows when a budget begins anew. `database` is the file, `service` the sockets, `orders` what operators
change.
"""
