"""OpenVINO's perplexity of the text that `benchmarks.quality` reads, in the same windows.

    python benchmarks/peers/openvino_quality.py --model DIR [--tokens 1024] [--threads 2] [--reference NUMBER]

Runs in OpenVINO's own environment (see README.md), on a directory of `optimum-cli export openvino`. The reference is
the perplexity that `benchmarks.quality` gives for float32 of the weights that the directory was made of.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from optimum.intel import OVModelForCausalLM
from tokenizers import Tokenizer

TEXT = Path(__file__).parent.parent / "data" / "prose.txt"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--tokens", type=int, default=1024, help="of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", type=float, help="perplexity of float32")
    options = parser.parse_args()
    settings = {"INFERENCE_NUM_THREADS": str(options.threads)}
    model = OVModelForCausalLM.from_pretrained(options.model, ov_config=settings, use_cache=True)
    ids = Tokenizer.from_file(str(options.model / "tokenizer.json")).encode(TEXT.read_text()).ids
    logprobs: list[float] = []
    for start in range(0, len(ids), options.tokens):
        window = torch.tensor([ids[start : start + options.tokens]])
        logits = model(input_ids=window, attention_mask=torch.ones_like(window)).logits
        logits = torch.as_tensor(logits)[0, :-1].float()
        logprobs += logits.log_softmax(-1).gather(-1, window[0, 1:, None])[:, 0].tolist()
    perplexity = math.exp(-sum(logprobs) / len(logprobs))
    change = f", {perplexity / options.reference - 1:+.2%}" if options.reference else ""
    print(f"{options.model}, {len(ids)} tokens in windows of {options.tokens}: perplexity {perplexity:.4f}{change}")


if __name__ == "__main__":
    main()
