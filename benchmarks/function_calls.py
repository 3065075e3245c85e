"""Function calls of a real model: questions of the Berkeley Function Calling Leaderboard through a stack of its own.

    pip download --no-deps bfcl-eval==2026.3.23 && python -m zipfile -e bfcl_eval-*.whl bfcl
    python -m benchmarks.function_calls bfcl/bfcl_eval/data [--model catalog:NAME] [--questions 25] [--sets ...]

For each set and each `tool_choice`: how many answers call anything, of the calls that end how many parse and are valid
against their function's schema (all of them must), how many answers were cut off, and how many call what it
wants: the same functions, with every argument one of those that it lists. The sets whose questions fit no function
have an answer right that calls none, so they are asked with `auto` only. Temperature 0, questions spread over a set.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from benchmarks.recovery import Stack

MODEL = """
[[model]]
name = "bench"
source = "{source}"
speculation = "lookup"
"""
SETS = ("simple_python", "multiple", "parallel", "irrelevance")
_TYPES: dict[str, str | None] = {
    "dict": "object",
    "float": "number",
    "double": "number",
    "tuple": "array",
    "list": "array",
    "any": None,
}


@dataclass
class Count:
    """Of one question, or of a set, asked in one way."""

    asked: int = 0
    called: int = 0
    calls: int = 0
    valid: int = 0
    cut: int = 0
    right: int = 0


def schema_of(given: Any) -> Any:
    """A parameter's schema in JSON Schema's words."""
    if not isinstance(given, dict):
        return given
    found = {key: value for key, value in given.items() if key in ("description", "enum", "required", "default")}
    kind = str(given.get("type", "any"))
    if (word := _TYPES.get(kind, kind)) is not None:
        found["type"] = word
    if isinstance(given.get("properties"), dict):
        found["properties"] = {name: schema_of(part) for name, part in given["properties"].items()}
    if "items" in given:
        found["items"] = schema_of(given["items"])
    return found


def name_of(given: str) -> str:
    """A function's name as OpenAI has names."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", given)


def same(value: Any, wanted: Any) -> bool:
    """Whether an argument is one that the leaderboard lists: texts without case, spaces and punctuation."""
    if isinstance(value, str) and isinstance(wanted, str):
        return re.sub(r"[ ,./\-_*^']", "", value).lower() == re.sub(r"[ ,./\-_*^']", "", wanted).lower()
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return fits(value, wanted)
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def fits(arguments: dict[str, Any], wanted: dict[str, list[Any]]) -> bool:
    """Whether every argument is one of those that are listed, and none is missing that has to be there."""
    given = all(name in wanted and any(same(value, one) for one in wanted[name]) for name, value in arguments.items())
    return given and all(name in arguments or "" in values for name, values in wanted.items())


def right(calls: list[tuple[str, Any]], wanted: list[dict[str, dict[str, list[Any]]]]) -> bool:
    """Whether these are the calls that are wanted, in any order."""
    left = list(calls)
    for each in wanted:
        ((name, arguments),) = each.items()
        found = next((call for call in left if call[0] == name_of(name) and fits(call[1], arguments)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def ask(url: str, question: dict[str, Any], choice: str, wanted: list[Any]) -> Count:
    """One question, and what came of it."""
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": name_of(one["name"]), "description": one["description"],
                                          "parameters": schema_of(one["parameters"])}}
        for one in question["function"]
    ]  # fmt: skip
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    body = {"model": "bench", "messages": question["question"][0], "tools": tools, "tool_choice": choice,
            "temperature": 0, "max_tokens": 512}  # fmt: skip
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600)
    if reply.status_code != 200:
        sys.exit(f"{question['id']}: {reply.text}")
    answer = reply.json()["choices"][0]
    made = answer["message"].get("tool_calls") or []
    whole = made if answer["finish_reason"] != "length" else made[:-1]  # the last one is a beginning
    count = Count(1, int(bool(made)), len(whole), cut=int(answer["finish_reason"] == "length"))
    calls = []
    for call in whole:
        name, text = call["function"]["name"], call["function"]["arguments"]
        try:
            arguments = json.loads(text)
            jsonschema.validate(arguments, schemas[name])
        except (ValueError, KeyError, jsonschema.ValidationError) as error:
            print(f"{question['id']}: {name}({text}): {error}", file=sys.stderr)
            continue
        count.valid += 1
        calls.append((name, arguments))
    count.right = int(len(whole) == len(made) and right(calls, wanted))
    return count


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="bfcl_eval/data of the leaderboard's package")
    parser.add_argument("--model", default="catalog:qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--choices", nargs="+", default=["auto", "required"], help="values of tool_choice")
    parser.add_argument("--questions", type=int, default=25, help="of each set")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.set_defaults(ingresses=1, standby=0, dtype="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr") as home:
        stack = Stack(Path(home), options, MODEL)
        stack.up_to_first_token(600)
        try:
            for name in options.sets:
                for choice in options.choices if "irrelevance" not in name else ["auto"]:
                    began = time.monotonic()
                    print(f"{name:16} {choice:9} {told(of_set(stack.url, options, name, choice))} "
                          f"({time.monotonic() - began:.0f} s)", flush=True)  # fmt: skip
        finally:
            stack.headrace("down", "-c", str(stack.config))


def of_set(url: str, options: argparse.Namespace, name: str, choice: str) -> Count:
    """Ask the questions of a set."""
    questions = lines(options.data / f"BFCL_v4_{name}.json")
    answers = options.data / "possible_answer" / f"BFCL_v4_{name}.json"
    wanted = {one["id"]: one["ground_truth"] for one in lines(answers)} if answers.exists() else {}
    some = questions[:: max(1, len(questions) // options.questions)][: options.questions]
    with ThreadPoolExecutor(options.concurrency) as pool:
        counts = pool.map(lambda one: ask(url, one, choice, wanted.get(one["id"], [])), some)
        return Count(*map(sum, zip(*map(astuple, counts), strict=True)))


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a file with one JSON value a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(count: Count) -> str:
    """In words."""
    return (f"{count.asked:4} asked, {count.called:4} called, {count.valid} of {count.calls} calls valid, "
            f"{count.cut} cut off, {count.right} right ({100 * count.right / count.asked:.0f} %)")  # fmt: skip


if __name__ == "__main__":
    main()
