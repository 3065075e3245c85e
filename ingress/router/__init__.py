"""Which model answers a call: decisions only, pure. No socket, no clock, no task lives here.

`decide` puts a call's models in order; the others are what it decides by:

    candidate    what is known of a model, and of a call
    fitness      whether a model can answer a call at all
    rules        the operator's conditions
    weights      parts of conversations, by consistent hashing
    pins         which model a conversation was with, and what leaving it costs
    score        how probable it is that the small model will do
    cascade      whether an answer passes, or another model is asked
    breaker      whether an upstream is asked at all

`ingress.routing` carries out what is decided; `ingress.upstreams` speaks to models elsewhere.
"""
