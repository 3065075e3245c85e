"""The weights of the injection score as plain columns: python -m benchmarks.guards_weights prompt_injection_model.json

The file is in the npm package llm_guardrail (`npm pack llm_guardrail@2.1.2`).
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

INTO = Path(__file__).parents[1] / "ingress" / "guards" / "data" / "injection.tsv.gz"


def main(path: Path) -> None:
    """Write them where the ingress reads them."""
    model = json.loads(path.read_text())
    weights, frequencies = model["coefficients"][0], model["idf"]
    lines = [repr(model["intercept"][0])]
    for term, index in sorted(model["vocabulary"].items()):
        lines.append(f"{term}\t{frequencies[index]:.4f}\t{weights[index]:.4f}")
    INTO.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    print(f"{len(lines) - 1} terms in {INTO}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
