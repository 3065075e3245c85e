"""`headrace bench`: a load with real lengths against any OpenAI-compatible endpoint, and what it measured.

`load` makes the requests (pure, by seed), `http` sends them, `drive` paces them, `report` does the sums.
"""
