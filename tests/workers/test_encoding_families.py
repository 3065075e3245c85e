"""Every family of encoders against transformers, in float32; MiniLM against sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minilm import Reference
from tiny_encoders import VOCABULARY, hidden_of, modules, save

from bus.catalogue import ModelMissing, locate
from bus.encoders import FAMILIES, kind_of, read_facts
from workers.encoding.encoder import Encoder
from workers.encoding.packing import SHARE, SLACK, groups
from workers.encoding.weights import load_weights
from workers.weights.source import WeightsError

LENGTHS = [60, 59, 41, 40, 22, 9, 9, 3, 1]


def rows_of(lengths: list[int], seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def encode(encoder: Encoder, rows: list[list[int]], segments: list[list[int]] | None = None) -> torch.Tensor:
    flat = torch.tensor([token for row in rows for token in row])
    kinds = torch.tensor([each for row in segments for each in row]) if segments else torch.zeros_like(flat)
    with torch.inference_mode():
        return encoder(flat, kinds, [len(row) for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    model, rows = save(tmp_path, family), rows_of(LENGTHS)
    encoder = Encoder(load_weights(tmp_path, torch.float32))
    flat = torch.tensor([token for row in rows for token in row])
    with torch.inference_mode():
        found = encoder.hidden(flat, torch.zeros_like(flat), LENGTHS).split(LENGTHS)
    for ours, theirs in zip(found, hidden_of(model, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    model, rows = save(tmp_path, family, head=True), rows_of(LENGTHS)
    two = family == "bert"  # the only one with a segment for the second text
    segments = [[int(two and place > len(row) // 2) for place in range(len(row))] for row in rows]
    scores = encode(Encoder(load_weights(tmp_path, torch.float32)), rows, segments)
    extra = [{"token_type_ids": torch.tensor([each])} if two else {} for each in segments]
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([row]), **more).logits[0] for row, more in zip(rows, extra, strict=True)]
    assert kind_of(tmp_path) == "rerank"
    torch.testing.assert_close(scores, torch.stack(logits).sigmoid(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "max_tokens", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("normalise", [True, False])
def test_pooling_is_what_the_checkpoint_says(tmp_path: Path, pooling: str, normalise: bool) -> None:
    model, rows = save(tmp_path, "bert"), rows_of(LENGTHS)
    modules(tmp_path, pooling, normalise=normalise)
    found = encode(Encoder(load_weights(tmp_path, torch.float32)), rows)
    pools = {
        "mean_tokens": lambda h: h.mean(0), "cls_token": lambda h: h[0], "max_tokens": lambda h: h.max(0).values,
        "mean_sqrt_len_tokens": lambda h: h.sum(0) / len(h) ** 0.5,
    }  # fmt: skip
    wanted = torch.stack([pools[pooling](hidden) for hidden in hidden_of(model, rows)])
    wanted = torch.nn.functional.normalize(wanted, dim=-1) if normalise else wanted
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_a_row_does_not_depend_on_the_others_with_it(tmp_path: Path) -> None:
    save(tmp_path, "mpnet")
    encoder, rows = Encoder(load_weights(tmp_path, torch.float32)), rows_of(LENGTHS)
    together = encode(encoder, rows)
    alone = torch.cat([encode(encoder, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_bfloat16_points_the_same_way(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    rows = rows_of(LENGTHS)
    exact, rounded = (encode(Encoder(load_weights(tmp_path, kind)), rows) for kind in (torch.float32, torch.bfloat16))
    assert (exact * rounded).sum(-1).min() > 0.99


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_groups_hold_every_row_once_and_fill_up_little(lengths: list[int]) -> None:
    lengths = sorted(lengths, reverse=True)
    found = groups(lengths)
    assert [row for group in found for row in range(group.first, group.last)] == list(range(len(lengths)))
    for group in found:
        assert group.length == lengths[group.first]
        assert group.length - lengths[group.last - 1] <= max(SLACK, group.length // SHARE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "silu"}, "silu"),
        ({"is_decoder": True}, "is_decoder"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "5 heads"),
    ],
)
def test_what_it_would_compute_wrongly_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    save(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(WeightsError, match=named):
        load_weights(tmp_path, torch.float32)


def test_a_module_that_is_not_built_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    modules(tmp_path, "mean_tokens", normalise=True)
    listed = (tmp_path / "modules.json").read_text().replace("models.Normalize", "models.Dense")
    (tmp_path / "modules.json").write_text(listed)
    with pytest.raises(WeightsError, match="Dense"):
        load_weights(tmp_path, torch.float32)


def test_a_classifier_of_several_labels_is_no_cross_encoder(tmp_path: Path) -> None:
    save(tmp_path, "bert", head=True)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_labels": 3, "id2label": {"0": "a"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="3 labels"):
        load_weights(tmp_path, torch.float32)


def test_the_longest_text_is_what_positions_and_the_checkpoint_allow(tmp_path: Path) -> None:
    save(tmp_path, "roberta")
    assert read_facts(tmp_path).max_tokens == 64  # two positions lie before the first token's
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    assert read_facts(tmp_path).max_tokens == 20


def test_lengths_to_which_it_may_be_cut_are_those_it_was_trained_for(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    assert read_facts(tmp_path).shorter == ()
    config = json.loads((tmp_path / "config.json").read_text()) | {"matryoshka_dimensions": [8, 16, 32]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_facts(tmp_path).shorter == (8, 16, 32)


@pytest.mark.model
def test_minilm_gives_the_embeddings_of_sentence_transformers() -> None:
    try:
        path = locate("catalog:all-minilm-l6-v2")
    except ModelMissing as missing:
        pytest.skip(str(missing))
    theirs = Reference(path)
    texts = [
        "Hello, world!",
        "x",
        "The quick brown fox jumps over the lazy dog. " * 9,
        "naïve café – 数学",
        "word " * 400,
    ]
    wanted = torch.from_numpy(theirs.encode(texts))
    ids = [theirs.tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]), reverse=True)
    found = torch.empty_like(wanted)
    found[order] = encode(Encoder(load_weights(path, torch.float32)), [ids[i] for i in order])
    assert (found * wanted).sum(-1).min() >= 1 - 1e-6
