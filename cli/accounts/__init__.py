"""`headrace keys` and `headrace projects`: who may use the API, and how much. The accounts process holds it; here it is
asked and told."""
