"""headrace's Python client, over ZeroMQ.

    from headrace_client import Client

    with Client() as client:
        print(client.chat("Name three colours.").text)
        for piece in client.chat("Tell me a story.", stream=True):
            print(piece.text, end="", flush=True)

`AsyncClient` has the same methods as coroutines. Parameters are those of OpenAI's API, by name. An answer that has
begun is completed: when its server dies, the client goes on at another one and gives the rest, no token twice.

Exceptions:

    HeadraceError
    ├── ConnectionFailed        no server could be reached, or it was lost and none could go on
    ├── CallTimeout             nothing was heard of a call for `timeout` seconds
    ├── StreamBroken            the rest of an answer does not fit what was received of it
    └── ApiStatusError          the server refused or failed: status, type, code, param
        ├── BadRequest          400, 410, 413, 422 and other 4xx
        ├── Unauthorized        401, 403
        ├── NotFound            404
        ├── Overloaded          429: retry_after seconds
        ├── Unavailable         503: retry_after seconds
        └── ServerFault         other 5xx

This package needs msgspec, pyzmq and `bus`'s messages; never numpy or torch.
"""

from headrace_client._answers import Answer, Choice, Model, Piece, Ranked, Usage
from headrace_client._async import AsyncClient, AsyncStream
from headrace_client._errors import (
    ApiStatusError,
    BadRequest,
    CallTimeout,
    ConnectionFailed,
    HeadraceError,
    NotFound,
    Overloaded,
    ServerFault,
    StreamBroken,
    Unauthorized,
    Unavailable,
)
from headrace_client._sync import Client, Stream

__all__ = [
    "Answer",
    "ApiStatusError",
    "AsyncClient",
    "AsyncStream",
    "BadRequest",
    "CallTimeout",
    "Choice",
    "Client",
    "ConnectionFailed",
    "HeadraceError",
    "Model",
    "NotFound",
    "Overloaded",
    "Piece",
    "Ranked",
    "ServerFault",
    "Stream",
    "StreamBroken",
    "Unauthorized",
    "Unavailable",
    "Usage",
]
