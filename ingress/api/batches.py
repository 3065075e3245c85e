"""Operations on files and batches: checked here, done by the batch process.

What a client may ask is the same over HTTP and ZeroMQ; files themselves go over HTTP only (`files`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

from bus.messages.batches import BatchRef, BatchRequest, FileRef, ListQuery, Whose
from bus.messages.clients import Operation
from ingress.api import validate
from ingress.api.answer import encode
from ingress.api.jobs import Caller
from ingress.api.schema_batch import PURPOSES
from ingress.batches import BatchLink, new_number
from ingress.errors import invalid_request, not_found
from ingress.gate import refusals

BODIES: Final[dict[Operation, type]] = {
    "files.list": ListQuery,
    "files.retrieve": FileRef,
    "files.delete": FileRef,
    "batches.create": BatchRequest,
    "batches.list": ListQuery,
    "batches.retrieve": BatchRef,
    "batches.cancel": BatchRef,
}
_CHANGES: Final[frozenset[Operation]] = frozenset({"files.delete", "batches.create", "batches.cancel"})
_QUERIES: Final[dict[Operation, frozenset[str]]] = {
    "files.list": frozenset({"after", "limit", "order", "purpose"}),
    "batches.list": frozenset({"after", "limit"}),
}
_MOST: Final[dict[Operation, int]] = {"files.list": 10_000, "batches.list": 100}


class Batches:
    """The operations.

    Args:
        link: to the batch process; None where there is none.
    """

    def __init__(self, link: BatchLink | None) -> None:
        self._link = link
        self.operations: dict[Operation, Callable[[bytes, Caller], Awaitable[bytes]]] = {
            operation: partial(self._ask, operation) for operation in BODIES
        }

    @property
    def link(self) -> BatchLink:
        """To the batch process.

        Raises:
            ApiError: 404, there is none.
        """
        if self._link is None:
            raise not_found("There are no files and batches here: [batch] enabled is false.", code="batch_disabled")
        return self._link

    def whose(self, caller: Caller) -> Whose:
        """On whose behalf."""
        return Whose(caller.tenant, caller.key)

    def may_change(self, caller: Caller) -> Whose:
        """The same, for those who may make and remove something.

        Raises:
            ApiError: 403.
        """
        if caller.grantee is not None and caller.grantee.key.role == "reader":
            raise refusals.forbidden("This API key may look, and change nothing.", code="role_not_allowed")
        return self.whose(caller)

    async def _ask(self, operation: Operation, body: bytes, caller: Caller) -> bytes:
        validate.decode(body, BODIES[operation])
        link = self.link
        whose = self.may_change(caller) if operation in _CHANGES else self.whose(caller)
        return await link.ask(operation, body, whose, _number(operation, body, caller))


def reference(operation: Operation, id: str, body: bytes) -> bytes:
    """The call's body for an operation whose path names a file or batch.

    Raises:
        ApiError: 400, there is something in the body.
    """
    if body.strip() not in (b"", b"{}", b"null"):
        raise invalid_request("Nothing is expected in the body.", code="invalid_type")
    return encode({"file_id" if operation.startswith("files.") else "batch_id": id})


def page(operation: Operation, query: str) -> bytes:
    """The call's body for a list.

    Raises:
        ApiError: 400, a parameter is unknown or wrong.
    """
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=32, errors="strict")
    except ValueError as error:
        raise invalid_request(f"The query string cannot be read: {error}.") from None
    wanted: dict[str, Any] = {}
    for name, value in given:
        if name not in _QUERIES[operation]:
            raise invalid_request(f"Unknown parameter: {name!r}.", param=name[:256], code="unknown_parameter")
        if name == "limit":
            if not (value.isascii() and value.isdigit()) or not 1 <= int(value[:9]) <= _MOST[operation]:
                raise invalid_request(f"limit is a number from 1 to {_MOST[operation]}.", param="limit")
            wanted[name] = int(value)
        elif name == "order" and value not in ("asc", "desc"):
            raise invalid_request("order is asc or desc.", param="order")
        elif name == "purpose" and value not in PURPOSES:
            raise invalid_request(f"purpose is one of {', '.join(PURPOSES)}.", param="purpose")
        elif not value:
            raise invalid_request(f"{name} is empty.", param=name)
        else:
            wanted[name] = value
    return encode(wanted)


def _number(operation: Operation, body: bytes, caller: Caller) -> str:
    """Of what a call makes. With an `Idempotency-Key` the same call is the same thing; with another body it is another
    call, as everywhere."""
    if operation != "batches.create":
        return ""
    if not caller.once:
        return new_number()
    digest = hashlib.blake2b(digest_size=16, person=b"headrace batch")
    for part in (caller.once.encode(), caller.tenant.encode(), body):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
