"""The prompts of the reference files: chats (rendered with the model's own template) and raw texts."""

from __future__ import annotations

from typing import Any


def _diary(days: int) -> str:
    """A long text that needs no file: what a mill ground, day by day."""
    grains = ("wheat", "rye", "barley", "oats", "spelt")
    people = ("Anna", "Bastien", "Chiara", "Dmitri", "Eun-ji", "Farid", "Greta")
    weather = ("rain upstream", "a dry wind", "frost on the sluice", "clear water", "fog until noon")
    lines = [
        f"Day {day}: {people[day * 3 % 7]} opened the gate at {5 + day % 4}:{day * 7 % 60:02d} with "
        f"{weather[day * 2 % 5]}; the stones took {20 + day * 13 % 47} sacks of {grains[day % 5]}."
        for day in range(1, days + 1)
    ]
    return "\n".join(lines)


def _chat(*turns: str, system: str = "") -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for index, content in enumerate(turns):
        messages.append({"role": "assistant" if index % 2 else "user", "content": content})
    return messages


PROMPTS: list[dict[str, Any]] = [
    {"name": "hello", "messages": _chat("Hello! Who are you?")},
    {"name": "capital", "messages": _chat("What is the capital of France? Answer in one sentence.")},
    {"name": "system", "messages": _chat("How do tides work?", system="You are a patient physics teacher.")},
    {
        "name": "turns",
        "messages": _chat(
            "My name is Maria and I keep bees.",
            "Nice to meet you, Maria! How many hives do you have?",
            "Seven. What should I do before winter?",
        ),
    },
    {"name": "arithmetic", "messages": _chat("What is 17 * 23? Then subtract 191 and explain each step.")},
    {"name": "list", "messages": _chat("List five uses of a water wheel, as a numbered list.")},
    {"name": "code_chat", "messages": _chat("Write a Python function that reverses the words of a sentence.")},
    {
        "name": "sql",
        "messages": _chat("Write a SQL query: the three customers with the highest total of orders in 2024."),
    },
    {"name": "json", "messages": _chat('Return a JSON object with keys "name", "age" <int> & "tags" for a cat.')},
    {"name": "bug", "messages": _chat("Find the bug:\n```c\nfor (int i = 0; i <= n; i++) sum += a[i];\n```")},
    {"name": "german", "messages": _chat("Erkläre mir kurz, warum der Himmel blau ist.")},
    {"name": "chinese", "messages": _chat("请用三句话介绍一下长城。")},
    {"name": "japanese", "messages": _chat("水車の仕組みを簡単に説明してください。")},
    {"name": "russian", "messages": _chat("Объясни, как работает водяная мельница.")},
    {"name": "arabic", "messages": _chat("ما هي عاصمة المغرب؟")},
    {"name": "emoji", "messages": _chat("Tell a story with these: 🦊🌧️🏔️👩‍👩‍👧‍👦🇫🇷 ✨")},
    {"name": "whitespace", "messages": _chat("  indented\n\n\n\ttabs\t\tand   spaces  \n \n trailing   ")},
    {"name": "text_story", "text": "Once upon a time, in a valley between two rivers, there lived a miller who"},
    {
        "name": "text_digits",
        "text": "Pi is 3.14159265358979, e is 2.71828182845904,\n 1234567890 and 007 \n2024-11-23T23:59:59",
    },
    {
        "name": "text_python",
        "text": "import heapq\n\n\ndef dijkstra(graph: dict[str, dict[str, float]], start: str) -> dict[str, float]:\n"
        "    ",
    },
    {"name": "text_rust", "text": "/// Greatest common divisor.\npub fn gcd(a: u64, b: u64) -> u64 {\n"},
    {"name": "text_mixed", "text": "naïve café — “quotes” … 東京タワー 100% Ωμέγα 😀😀 <|not special|> \\n"},
    {"name": "text_one_word", "text": "The"},
    {
        "name": "long",
        "messages": _chat(_diary(44) + "\n\nOn which day did Greta first open the gate, and what was ground that day?"),
    },
]

# For models without a chat template; the last is longer than the window of gemma3.
TEXTS: list[dict[str, Any]] = [
    *(prompt for prompt in PROMPTS if "text" in prompt),
    {"name": "text_long", "text": _diary(28)},
]
