"""Frames: what is encoded decodes to the same, old bytes stay readable, and no bytes whatever end a process."""

from __future__ import annotations

import contextlib
import json
import os
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages_catalogue import UNIONS, message_types, sample, strategy

from bus.messages import requests
from bus.messages.common import Hello, Nack, Welcome
from bus.messages.control import FromProcess, ToProcess
from bus.wire import ANY_PROTOCOL, PROTOCOLS, BadFrame, Channel, Codec, Protocols

GOLDEN = Path(__file__).parent / "golden.json"


def _key(channel: Channel, kind: type[msgspec.Struct]) -> str:
    return f"{channel}.{kind.__name__}"


def _encoded() -> dict[str, str]:
    encoder = msgspec.msgpack.Encoder()
    return {_key(channel, kind): encoder.encode(sample(kind)).hex() for channel, kind in message_types()}


def test_golden_bytes_of_every_message() -> None:
    """A change of these bytes is a change of the protocol: append fields with defaults, or raise `PROTOCOLS.newest`.

    After an append: HEADRACE_GOLDEN=write pytest tests/bus/test_wire.py
    """
    if os.environ.get("HEADRACE_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(_encoded(), indent=1) + "\n")
    assert _encoded() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(("channel", "union"), [(c, u) for c, unions in UNIONS.items() for u in unions])
def test_tags_are_unique_within_a_conversation(channel: Channel, union: object) -> None:
    tags = [kind.__struct_config__.tag for kind in typing.get_args(union) or (union,)]  # type: ignore[union-attr]
    assert len(tags) == len(set(tags)), f"{channel}: {tags}"


@pytest.mark.parametrize(("channel", "kind"), message_types())
def test_round_trip(channel: Channel, kind: type[msgspec.Struct]) -> None:
    """decode(encode(m)) == m, for any m, with its header."""
    codec: Codec[msgspec.Struct] = Codec(channel, kind)

    protocols = st.sampled_from([ANY_PROTOCOL, *PROTOCOLS])

    @settings(max_examples=25)
    @given(strategy(kind), st.text(max_size=30), st.integers(0, 2**63), st.integers(0, 2**63), protocols)
    def law(message: msgspec.Struct, source: str, epoch: int, seq: int, protocol: int) -> None:
        header, body = codec.decode(codec.encode(message, source, epoch, seq, protocol))
        assert body == message
        assert (header.source, header.epoch, header.seq, header.protocol) == (source, epoch, seq, protocol)

    law()


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_is_a_bad_frame_and_nothing_else(frames: list[bytes]) -> None:
    """For any bytes: a message, or BadFrame. Never another exception."""
    codec: Codec[object] = Codec("requests", requests.ToScheduler)
    try:
        codec.decode(frames)
    except BadFrame as bad:
        assert bad.reason in ("frames", "size", "header", "protocol", "channel", "body")  # noqa: PT017


@settings(max_examples=300)
@given(st.data())
def test_damaged_messages_are_bad_frames_or_messages(data: st.DataObject) -> None:
    """Flip, cut or insert bytes of a real message: the decoder answers, it does not break."""
    channel, kind = data.draw(st.sampled_from(message_types()))
    union = next(u for u in UNIONS[channel] if kind in (typing.get_args(u) or (u,)))
    codec: Codec[object] = Codec(channel, union)
    frames = codec.encode(sample(kind), "kv@host", 3, 9)
    which = data.draw(st.integers(0, 1))
    damaged = bytearray(frames[which])
    at = data.draw(st.integers(0, len(damaged) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if change == "flip":
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del damaged[at:]
    else:
        damaged[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    frames[which] = bytes(damaged)
    with contextlib.suppress(BadFrame):
        codec.decode(frames)


def test_other_protocols_and_channels_are_told_apart() -> None:
    here: Codec[object] = Codec("requests", requests.ToScheduler)
    there: Codec[object] = Codec("steps", requests.ToScheduler)
    frames = here.encode(requests.Abort(1, "client"), "ingress@0", 1, 1)
    with pytest.raises(BadFrame, match="channel"):
        there.decode(frames)
    future = msgspec.msgpack.encode([PROTOCOLS.newest + 1, 2, "ingress@0", 1, 1])
    with pytest.raises(BadFrame, match="protocol"):
        here.decode([future, frames[1]])


RANGES = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda ends: Protocols(min(ends), max(ends)))


@given(RANGES, RANGES)
def test_two_sides_agree_on_the_newest_protocol_that_both_know(ours: Protocols, theirs: Protocols) -> None:
    common = set(range(ours.oldest, ours.newest + 1)) & set(range(theirs.oldest, theirs.newest + 1))
    assert ours.agree(theirs) == theirs.agree(ours) == max(common, default=None)


def test_what_is_read_before_a_protocol_is_agreed_on_never_changes() -> None:
    """Bytes of the first release. Do not write them anew: whatever comes later must read them."""
    hello = ["950007a5636c6940310501", "9700010ca3302e31a3636c69cd30d8a57265616479"]
    welcome = ["950007a76b7640686f73740601", "9401a3302e31cd30d8a57265616479"]
    nack = ["950007a76b7640686f73740602", "9403a870726f746f636f6cac6e6f7468696e6720676f657301"]
    asked: Codec[object] = Codec("control", ToProcess)
    answered: Codec[object] = Codec("control", FromProcess)
    said = asked.decode([bytes.fromhex(part) for part in hello])
    assert said[1] == Hello(1, 12, "0.1", "cli", 12504, "ready")
    assert answered.decode([bytes.fromhex(part) for part in welcome])[1] == Welcome("0.1", 12504, "ready", 1)
    assert answered.decode([bytes.fromhex(part) for part in nack])[1] == Nack("protocol", "nothing goes", 1)


def test_an_old_decoder_skips_new_fields_and_a_new_one_fills_missing() -> None:
    codec: Codec[requests.Abort] = Codec("requests", requests.Abort)
    header, _ = codec.encode(requests.Abort(5, "stop", 3), "ingress@0", 1, 1)
    longer = msgspec.msgpack.encode([11, 5, "stop", 3, 0, "a field of the future"])
    shorter = msgspec.msgpack.encode([11, 5, "stop"])
    assert codec.decode([header, longer])[1] == requests.Abort(5, "stop", 3)
    assert codec.decode([header, shorter])[1] == requests.Abort(5, "stop", 0)


def test_nothing_on_the_bus_can_unpickle() -> None:
    """No module of the product imports a deserialiser that runs code."""
    root = Path(__file__).parents[2]
    folders = ["bus", "ingress", "scheduler", "workers", "kv", "metrics", "admin_tui", "cli", "headrace_client"]
    banned = ("import pickle", "import marshal", "cloudpickle", "recv_pyobj", "send_pyobj", "import dill")
    offenders = [
        f"{path.relative_to(root)}: {word}"
        for folder in folders
        for path in (root / folder).rglob("*.py")
        for word in banned
        if word in path.read_text()
    ]
    assert offenders == []
