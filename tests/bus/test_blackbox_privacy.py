"""What the flight recorder keeps of every message type there is: no prompt, no token, no key."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from messages_catalogue import message_types, sample

from bus.blackbox.privacy import CONTENT, KEYS, hidden, length_of
from bus.messages.accounts import Directory
from bus.messages.clients import Call
from bus.messages.control import AccountsHeld, AddKey, ReplaceSecret
from bus.messages.requests import Sampling, Submit

PLANTED: Final = b"\xde\xad\xbe\xef" * 3
KEY: Final = "sk-a-key-that-nobody-may-see"

# Fields of bytes that are no content: pages, slots, counts, request ids, names of models. A new one is listed here, or
# hidden in `bus.blackbox.privacy`.
PLAIN: Final = {
    "AdapterFacts.digest", "AdapterNow.digest", "AdapterSource.digest", "AdapterState.digest", "Submit.adapter",
    "Deltas.counts", "Deltas.requests", "Deltas.starts", "Exposition.text", "Found.generations", "Found.pages",
    "Leased.generations", "Leased.pages", "ModelFacts.root", "ModelSheet.digest", "OpenPool.root",
    "PagesReply.map", "PagesReply.map_used", "PagesView.map", "PagesView.map_used", "PoolStats.root",
    "WorkerView.digest",
    "Reassert.lease_generations", "Reassert.leases", "Reassert.pin_generations", "Reassert.pins", "Reasserted.lost",
    "Registered.stop_ids", "Registered.weights_digest", "Release.generations", "Release.pages", "Seal.generations",
    "Seal.pages", "Sealed.codes", "Sealed.generations", "Sealed.pages", "SlotOpen.generations", "SlotOpen.pages",
    "StepFailed.slots", "StepPlan.closes", "StepPlan.counts", "StepPlan.drafts", "StepPlan.fold_generations",
    "StepPlan.fold_slots", "StepPlan.folds", "StepPlan.forgets",
    "StepPlan.page_generations", "StepPlan.page_slots", "StepPlan.pages", "StepPlan.samples", "StepPlan.slots",
    "StepPlan.starts", "StepResult.drafted", "StepResult.drawn", "StepResult.slots",
    "Thought.closing", "Thought.vocabulary",
}  # fmt: skip


def planted(value: Any, where: str = "") -> Any:
    """The same message with content in every field of bytes that is not plain, and keys where keys are."""
    if isinstance(value, msgspec.Struct):
        name = type(value).__name__
        return type(value)(**{f: planted(getattr(value, f), f"{name}.{f}") for f in value.__struct_fields__})
    if isinstance(value, tuple):
        return tuple(planted(item, where) for item in value)
    if isinstance(value, bytes):
        return value if where in PLAIN else PLANTED
    return KEY if where.endswith(".authorization") else value


def kept(message: msgspec.Struct, rules: dict[type, Any]) -> bytes:
    hide = rules.get(type(message))
    return msgspec.msgpack.encode(message if hide is None else hide(message))


@pytest.mark.parametrize(("channel", "kind"), message_types(), ids=lambda it: getattr(it, "__name__", it))
def test_no_content_is_kept_of_any_message(channel: str, kind: type[msgspec.Struct]) -> None:
    del channel
    data = kept(planted(sample(kind)), CONTENT)
    assert PLANTED not in data, f"hide it in bus.blackbox.privacy, or list the field in {__file__}"
    assert KEY.encode() not in data
    assert type(msgspec.msgpack.decode(data, type=kind)) is kind, "what is left of it still decodes"


DIGESTS = {AddKey, ReplaceSecret, AccountsHeld, Directory}  # of keys' secrets: they are hidden like the keys


@pytest.mark.parametrize(("channel", "kind"), message_types(), ids=lambda it: getattr(it, "__name__", it))
def test_no_key_is_kept_where_content_is(channel: str, kind: type[msgspec.Struct]) -> None:
    del channel
    message = planted(sample(kind))
    data = kept(message, KEYS)
    assert KEY.encode() not in data
    if kind not in DIGESTS:
        assert (PLANTED in data) == (PLANTED in msgspec.msgpack.encode(message))


def test_lengths_stay() -> None:
    submit = Submit(1, bytes(4 * 700), Sampling(logit_bias=((5, 1.0),), suppress=bytes(8)), 10, digests=bytes(16 * 43))
    left = CONTENT[Submit](submit)
    assert (length_of(left.prompt), length_of(left.digests), left.emitted) == (2800, 688, b"")
    assert left.sampling == Sampling(suppress=hidden(bytes(8)))
    assert (left.request, left.max_tokens) == (1, 10)
    assert CONTENT[Call](Call(1, "models", b"{}", KEY)) == Call(1, "models", hidden(b"{}"), "")
