"""The small parts: names, block digests, packed numbers, instruments, catalogue, keys."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from bus import blocks, catalogue, curve, names
from bus.messages.telemetry import Sample
from bus.packed import pack_u32, pack_u64, unpack_u32, unpack_u64
from bus.telemetry import Histogram, Telemetry
from bus.wire import Codec

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=70)


# --- names


@given(st.from_regex(names.MODEL_NAME, fullmatch=True), st.integers(0, 99), st.integers(0, 7))
def test_worker_names_survive_dots_in_models(model: str, replica: int, rank: int) -> None:
    process = names.parse_process(names.worker_name(model, replica, rank))
    assert process.role == "worker"
    assert names.parse_worker(process.instance) == (model, replica, rank)


@pytest.mark.parametrize("bad", ["worker", "worker@", "chef@host", "kv@a/b", "kv@" + "x" * 65, "@0"])
def test_other_names_are_refused(bad: str) -> None:
    with pytest.raises(names.InvalidName):
        names.parse_process(bad)


def test_a_socket_path_that_the_kernel_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="HEADRACE_RUN"):
        names.socket_path("kv@host", "pages", tmp_path / ("x" * 100))


# --- blocks


@given(TOKENS, TOKENS)
def test_digests_of_a_common_prefix_are_common(one: list[int], other: list[int]) -> None:
    """Two prompts share exactly the digests of the full blocks that they share."""
    page = 4
    common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    first, second = (blocks.chain(b"r" * 16, pack_u32(tokens), page) for tokens in (one, other))
    shared = common // page * 16
    assert first[:shared] == second[:shared]
    assert len(first) == len(one) // page * 16
    if len(first) > shared and len(second) > shared:
        assert first[shared : shared + 16] != second[shared : shared + 16]


def test_roots_keep_models_tenants_and_shapes_apart() -> None:
    root = blocks.root_digest(b"w", "float32", "page-first", 16)
    roots = {
        root,
        blocks.root_digest(b"w", "bfloat16", "page-first", 16),
        blocks.root_digest(b"w", "float32", "page-first", 64),
        blocks.root_digest(b"wf", "loat32", "page-first", 16),
        blocks.salted_root(root),
        blocks.salted_root(root, b"tenant"),
        blocks.salted_root(root, b"tenan", b"t"),
    }
    assert len(roots) == 7


# --- packed


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_packing_u32(values: list[int]) -> None:
    assert unpack_u32(pack_u32(values)).tolist() == values


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_packing_u64(values: list[int]) -> None:
    assert unpack_u64(pack_u64(np.array(values, dtype=np.uint64))).tolist() == values


# --- instruments


def test_a_gauge_says_numbers_whatever_it_is_set_to() -> None:
    telemetry = Telemetry()
    telemetry.gauge("usable", "help").set(True)
    codec: Codec[Sample] = Codec("telemetry", Sample)
    sample = Sample("kv@host", "kv", 1, 1, "ready", 0, 0, False, 0.0, 0, telemetry.series())
    _, decoded = codec.decode(codec.encode(sample, "kv@host", 1, 1))
    assert decoded.series[0].value == 1.0


@given(st.lists(st.floats(0, 100)))
def test_histogram_buckets_are_cumulative_and_complete(values: list[float]) -> None:
    histogram = Histogram("h", (), (1.0, 10.0))
    for value in values:
        histogram.observe(value)
    series = histogram.series()
    expected = (sum(v <= 1 for v in values), sum(v <= 10 for v in values), len(values))
    assert series.buckets == expected
    assert series.value == pytest.approx(sum(values))


def test_an_instrument_is_one_per_name_and_labels() -> None:
    telemetry = Telemetry()
    telemetry.counter("c", "help", model="a").add(2)
    telemetry.counter("c", "help", model="a").add()
    telemetry.counter("c", "help", model="b").add()
    assert {series.labels: series.value for series in telemetry.series()} == {
        (("model", "a"),): 3.0,
        (("model", "b"),): 1.0,
    }


# --- catalogue


def test_every_entry_has_a_source_and_a_hash() -> None:
    for entry in catalogue.catalogue().values():
        hashes = [each.sha256 for each in entry.files] or [entry.sha256]
        assert all(len(each) == 64 for each in hashes)
        assert entry.bytes == sum(each.bytes for each in entry.files) or not entry.files
        assert entry.packages or entry.hub
        assert entry.bytes > 1 << 20


def test_missing_models_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MODELS", str(tmp_path))
    with pytest.raises(catalogue.ModelMissing, match="headrace pull smollm2-135m-instruct"):
        catalogue.locate("catalog:smollm2-135m-instruct")
    with pytest.raises(catalogue.ModelMissing, match="headrace pull hf:org/repo"):
        catalogue.locate("hf:org/repo")
    with pytest.raises(catalogue.ModelMissing, match="it has all-minilm"):
        catalogue.locate("catalog:gpt-5")
    (tmp_path / "x.gguf").touch()
    assert catalogue.locate(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"
    entry = msgspec.structs.replace(catalogue.catalogue()["gemma-3-270m"], unsupported="it has three heads")
    monkeypatch.setattr(catalogue, "catalogue", lambda: {entry.name: entry})
    with pytest.raises(catalogue.ModelMissing, match="cannot be served: it has three heads"):
        catalogue.locate("catalog:gemma-3-270m")


# --- keys


def test_tcp_lets_in_the_holders_of_a_known_key_and_nobody_else(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for name in ("host", "friend", "stranger"):
        curve.write_pair(tmp_path / name, name, curve.generate())
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "friend.public").write_text((tmp_path / "friend" / "friend.public").read_text())
    server_keys = curve.CurveServer(context, tmp_path / "host" / "host.secret", allowed)
    server = context.socket(zmq.ROUTER)
    server_keys.protect(server)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    heard = {}
    clients: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    clients.setsockopt(zmq.LINGER, 0)  # a refused client holds its message for ever
    for name in ("stranger", "friend"):
        client = clients.socket(zmq.DEALER)
        curve.CurveClient(tmp_path / name / f"{name}.secret", tmp_path / "host" / "host.public").protect(client)
        client.connect(f"tcp://127.0.0.1:{port}")
        client.send(name.encode())
        heard[name] = bool(server.poll(3000 if name == "friend" else 500))
    plain = clients.socket(zmq.DEALER)
    plain.connect(f"tcp://127.0.0.1:{port}")
    plain.send(b"no key at all")
    assert server.recv_multipart()[1] == b"friend"
    assert not server.poll(300)
    assert heard == {"stranger": False, "friend": True}
    clients.destroy(linger=0)
    server_keys.close()
    context.destroy(linger=0)


def test_key_files_that_leak_or_lie_are_refused(tmp_path: Path) -> None:
    secret, public = curve.write_pair(tmp_path, "host", curve.generate())
    assert secret.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        curve.write_pair(tmp_path, "host", curve.generate())
    with pytest.raises(curve.BadKeyFile, match="not a key pair"):
        curve.read_keys(public, secret=True)
    secret.chmod(0o644)
    with pytest.raises(curve.BadKeyFile, match="chmod 600"):
        curve.read_keys(secret, secret=True)
