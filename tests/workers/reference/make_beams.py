"""Write `smollm2_beams.json`: what transformers' beam search answers, in float32, on the CPU.

    OMP_NUM_THREADS=1 nice python tests/workers/reference/make_beams.py

Per case: the ids of a prompt of `smollm2.json`, what was asked of `generate`, and the tokens and scores of its answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from huggingface import reference_model

from bus.names import models_directory

HERE = Path(__file__).parent
STOP = 2  # <|im_end|>
CASES: list[tuple[str, dict[str, Any]]] = [
    ("capital", {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 24}),
    ("arithmetic", {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 32, "early_stopping": True}),
    ("text_story", {"num_beams": 4, "num_return_sequences": 1, "max_new_tokens": 24, "length_penalty": 2.0}),
    ("hello", {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 24, "length_penalty": 0.0,
               "early_stopping": "never"}),
]  # fmt: skip


def main() -> None:
    """All cases."""
    prompts = {prompt["name"]: prompt["ids"] for prompt in json.loads((HERE / "smollm2.json").read_text())["prompts"]}
    file = json.loads((HERE / "smollm2.json").read_text())["model"]
    model = reference_model(models_directory() / file)
    cases = []
    for name, asked in CASES:
        ids = prompts[name]
        with torch.no_grad():
            found = model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, eos_token_id=STOP,
                pad_token_id=STOP, return_dict_in_generate=True, output_scores=True, **asked,
            )  # fmt: skip
        rows = [row.tolist()[len(ids) :] for row in found.sequences]
        answers = [row[: row.index(STOP) + 1] if STOP in row else row for row in rows]
        cases.append({"name": name, "ids": ids, "asked": asked, "tokens": answers,
                      "scores": [round(score, 6) for score in found.sequences_scores.tolist()]})  # fmt: skip
        print(name, cases[-1]["scores"], answers)
    (HERE / "smollm2_beams.json").write_text(json.dumps({"model": file, "stop": STOP, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
