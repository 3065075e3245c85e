"""The OpenAI-compatible API: what a request may say, and how an answer looks, over any transport.

`schema_*` are the wire shapes, `validate` checks what types cannot, `jobs` turns a request into work for the engine,
`render_*` turn what the engine says into bodies, `pipeline` puts these together. `http`, `sse`, `server` and `openapi`
are the HTTP front; the ZeroMQ front is `ingress.door`. Tokens, templates and schedulers are not here: `ingress.engine`.
"""
