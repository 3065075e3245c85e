"""`headrace chat`: a conversation with a model of the running stack, over ZeroMQ like any other client."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bus.names import state_directory
from headrace_client import Client, ConnectionFailed, HeadraceError, NotFound

_HISTORY_LINES: Final = 1000
_HELP: Final = "Ctrl-C ends an answer, Ctrl-D the conversation, /new begins another one"

Message = dict[str, str]


class Wishes(NamedTuple):
    """How to answer; None leaves it to the model."""

    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def parameters(self) -> dict[str, Any]:
        """For the call."""
        wanted = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {name: value for name, value in wanted.items() if value is not None}


def talk(words: Sequence[str], wishes: Wishes) -> int:
    """One answer where there is a prompt, else a conversation."""
    try:
        with Client(patience=5.0) as client:
            served = [model.id for model in client.models()]
            model, prompt = split_words(words, served, wishes.model)
            if not sys.stdin.isatty():
                prompt = "\n\n".join(part for part in (prompt, sys.stdin.read().strip()) if part)
                if not prompt:
                    print("nothing was asked: give a prompt, or text on standard input", file=sys.stderr)
                    return 2
            if model is None:
                raise NotFound(404, {"message": "no model is served"})
            session = Session(client, model, wishes)
            if prompt:
                return 0 if session.ask(prompt) else 1
            return session.converse()
    except ConnectionFailed as error:
        print(f"{error}; is it up? start with: headrace up --detach", file=sys.stderr)
    except HeadraceError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def split_words(words: Sequence[str], served: Sequence[str], wanted: str | None) -> tuple[str | None, str]:
    """Model and prompt. The first word is a model where one is called so and none was named."""
    if wanted is not None:
        return wanted, " ".join(words)
    if words and words[0] in served:
        return words[0], " ".join(words[1:])
    return next(iter(served), None), " ".join(words)


class Session:
    """A conversation: what was said so far is said again with each question."""

    def __init__(self, client: Client, model: str, wishes: Wishes) -> None:
        self._client, self._model, self._wishes = client, model, wishes
        self._tty = sys.stdout.isatty()
        self._messages: list[Message] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._messages = [{"role": "system", "content": self._wishes.system}] if self._wishes.system else []

    def ask(self, prompt: str) -> bool:
        """Ask, and print the answer as it comes. False where it was not completed."""
        self._messages.append({"role": "user", "content": prompt})
        began, text, complete = time.monotonic(), "", False
        try:
            with self._client.chat(self._messages, self._model, stream=True, **self._wishes.parameters()) as stream:
                for piece in stream:
                    text += piece.text
                    print(self._printable(piece.text), end="", flush=True)
                complete = True
                usage = stream.usage
        except KeyboardInterrupt:
            print("  (ended)", end="")
        except HeadraceError as error:
            print(f"{error}", file=sys.stderr, end="")
        print()
        if text:
            self._messages.append({"role": "assistant", "content": text})
        else:
            self._messages.pop()  # what got no answer is not part of the conversation
        if complete and self._tty and usage is not None:
            rate = usage.completion_tokens / max(1e-6, time.monotonic() - began)
            print(f"\x1b[2m{usage.completion_tokens} tokens, {rate:.1f} a second\x1b[0m")
        return complete

    def converse(self) -> int:
        """Questions from the terminal until there are no more."""
        print(f"{self._model}. {_HELP}.")
        with _history():
            while True:
                try:
                    prompt = input("\n> ").strip()
                except EOFError:
                    print()
                    return 0
                except KeyboardInterrupt:
                    print()
                    continue
                if prompt == "/new":
                    self.forget()
                elif prompt:
                    self.ask(prompt)

    def _printable(self, text: str) -> str:
        """A model may say anything; the terminal must not obey it."""
        if not self._tty:
            return text
        return "".join(char for char in text if char.isprintable() or char in "\n\t" or ord(char) > 0x9F)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Lines of earlier conversations, at the arrow keys."""
    try:
        import readline
    except ImportError:  # a Python without it still talks
        yield
        return
    path: Path = state_directory() / "chat-history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
            path.chmod(0o600)
