"""A model's tokeniser: text to ids, and ids to the exact bytes of each. Built from GGUF metadata or a Hugging Face
directory; merging itself is the `tokenizers` library's. Streaming is `detokenizer`'s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from ingress.errors import context_length_exceeded, invalid_request
from ingress.text.added import AddedNames
from ingress.text.byte_level import byte_level
from ingress.text.gguf_metadata import Value
from ingress.text.pretokenizers import CUTS
from ingress.text.sentencepiece import SPACE, BadVocabulary, byte_pair_model, byte_token

# llama.cpp's token types (ggml `LLAMA_TOKEN_TYPE_*`).
_NORMAL: Final = 1
_UNKNOWN: Final = 2
_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_UNUSED: Final = 5
_BYTE: Final = 6

# Control tokens that end a turn or a text whatever the file's single `eos_token_id` says; llama.cpp keeps such a list.
_END_NAMES: Final = frozenset(
    {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<EOT>"}
)
# Of Phi-3's tokens that are found by name, those whose following white space stays.
_PHI3_KEEPS_SPACE: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})
# One composed character may stand for as many characters of input (NFC; U+1F82 and its like have four).
_NFC_SHRINKS: Final = 4


class UnsupportedTokenizer(ValueError):
    """The model's tokeniser is of a kind that is not built here, or its files contradict themselves."""


class Tokenizer:
    """Immutable once built; safe to use from several threads.

    Attributes:
        vocabulary: ids are below this. The model may have more logits than that.
        eos_ids: ids that end a sequence, as the tokeniser's own files say.
        bos_id: the id that begins one, if there is one.
        adds_bos: whether `encode(special=True)` puts it in front.
        longest_token: most characters of input that one id can stand for.

    Args:
        strips_space: a text gets a space in front, and a whole one is decoded without it.
        space: a character that means the same as one, and becomes one before names are looked for.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        token_bytes: Sequence[bytes],
        special: Collection[int],
        *,
        eos_ids: tuple[int, ...] = (),
        bos_id: int | None = None,
        strips_space: bool = False,
        space: str = " ",
    ) -> None:
        self._backend = backend
        self._space = space
        self._added = AddedNames(backend)
        self._bytes = tuple(token_bytes)
        hidden = frozenset(special)
        self._visible = tuple(b"" if index in hidden else data for index, data in enumerate(self._bytes))
        # SentencePiece families put a space before the first word and take it off when a whole text is decoded.
        self._strips_space = strips_space
        self.vocabulary = len(self._bytes)
        self.eos_ids = eos_ids
        self.bos_id = bos_id
        self.adds_bos = bos_id is not None and backend.encode("").ids[:1] == [bos_id]
        shrinks = 1 if backend.normalizer is None else _NFC_SHRINKS
        longest = max(map(len, self._bytes), default=1) * shrinks
        # An unknown word is one token, whatever its length, and WordPiece drops what is between words.
        self.longest_token = longest if not isinstance(backend.model, models.WordPiece) else sys.maxsize

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids. Names of control tokens in the text become their ids, as everywhere in the field.

        Args:
            special: add what the model wants around a text (begin of sequence); a rendered chat template has it.

        Raises:
            ApiError: 400, the text has surrogates that stand alone and is no Unicode text.
        """
        try:
            ids: list[int] = self._backend.encode(self._spaced(text), add_special_tokens=special).ids
        except (UnicodeEncodeError, TypeError):
            raise invalid_request("The text contains lone surrogates; it is not valid Unicode.") from None
        return ids

    @property
    def control_ids(self) -> tuple[int, ...]:
        """Ids that leave no text though they stand for some."""
        return tuple(index for index, data in enumerate(self._bytes) if data and not self._visible[index])

    @property
    def control_names(self) -> tuple[str, ...]:
        """Names of control tokens."""
        return self._added.control

    @property
    def other_names(self) -> tuple[str, ...]:
        """Names of other tokens that are found by their names wherever they stand in a text."""
        return self._added.others

    def encode_apart(self, text: str, mark: str) -> list[int]:
        """Token ids of a rendered prompt in which names that are no tokens are broken by `mark`, which disappears.

        Raises:
            ApiError: 400, see `encode`; or a control token cannot be kept out.
        """
        ids: list[int] = []
        for part in self._added.split(self._spaced(text)):
            ids += [part] if isinstance(part, int) else self._plain(part, mark)
        return ids

    def _spaced(self, text: str) -> str:
        return text.replace(self._space, " ")

    def _plain(self, text: str, mark: str) -> list[int]:
        if mark not in text:
            return self.encode(text, special=False) if text else []
        ids = self._without_names(text.replace(mark, ""))
        if self._added.has_control(ids):  # a vocabulary whose model knows names as pieces of text
            ids = [token for part in text.split(mark) for token in self._without_names(part)]
        if self._added.has_control(ids):
            raise invalid_request("The text has names of control tokens that cannot be kept as text.")
        return ids

    def _without_names(self, text: str) -> list[int]:
        """What `encode` does, without looking for names."""
        backend = self._backend
        try:
            if backend.normalizer is not None:
                text = backend.normalizer.normalize_str(text)
            words = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer is not None else [(text, ())]
            return [token.id for word, _ in words for token in backend.model.tokenize(word)]
        except (UnicodeEncodeError, TypeError):
            raise invalid_request("The text contains lone surrogates; it is not valid Unicode.") from None

    def sequence(self, first: str, second: str | None = None, *, at_most: int = 0) -> tuple[list[int], int]:
        """A text, or two, as an encoder wants them: with its special tokens around and between.

        Args:
            at_most: tokens; the last text is cut where there are more. 0 cuts nothing.

        Returns:
            Token ids, and how many of them belong to the first text.

        Raises:
            ApiError: 400, a text is no valid Unicode, or is too long itself for a second one to be left of.
        """
        try:
            parts = [
                self._backend.encode(text, add_special_tokens=False) for text in (first, second) if text is not None
            ]
        except (UnicodeEncodeError, TypeError):
            raise invalid_request("The text contains lone surrogates; it is not valid Unicode.") from None
        added = self._backend.num_special_tokens_to_add(second is not None)
        if at_most and sum(map(len, parts)) + added > at_most:
            left = at_most - added - sum(map(len, parts[:-1]))
            if left < 1:
                raise context_length_exceeded(f"Nothing is left of a text that is cut to {at_most} tokens in all.")
            parts[-1].truncate(left)
        whole = self._backend.post_process(parts[0], parts[1] if second is not None else None)
        return whole.ids, len(whole) - sum(whole.type_ids)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for; may be a part of a character. Ids beyond the vocabulary (padding) have no bytes."""
        return self._bytes[token] if 0 <= token < self.vocabulary else b""

    def bytes_of(self, tokens: Iterable[int], *, skip_special: bool = True) -> bytes:
        """What tokens stand for together. Control tokens are no text, and are left out unless asked for."""
        table, end = self._visible if skip_special else self._bytes, self.vocabulary
        return b"".join([table[token] for token in tokens if token < end])

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of a whole sequence; bytes that are no UTF-8 become U+FFFD."""
        text = self.bytes_of(tokens, skip_special=skip_special).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._strips_space else text


def from_gguf(metadata: Mapping[str, Value]) -> Tokenizer:
    """The tokeniser in a GGUF file's metadata.

    Raises:
        UnsupportedTokenizer: of a kind that is not built, an unknown pre-tokeniser, or arrays that do not fit together.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level_bpe(metadata)
    if kind == "llama":
        return _sentence_piece_bpe(metadata)
    raise UnsupportedTokenizer(
        f"tokenizer.ggml.model is {kind!r}; gpt2 (byte-level BPE) and llama (SentencePiece's BPE) are built"
    )


def _byte_level_bpe(metadata: Mapping[str, Value]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if pre not in CUTS:
        raise UnsupportedTokenizer(f"tokenizer.ggml.pre is {pre!r}; known: {', '.join(sorted(CUTS))}")
    cut = CUTS[str(pre)]
    tokens, types = _tokens_and_types(metadata)
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens) if types[index] != _UNUSED},
            merges=[_merge(line) for line in _strings(metadata, "tokenizer.ggml.merges")],
            ignore_merges=cut.ignore_merges,
        )
    )
    backend.normalizer = cut.normalizer() if cut.normalizer else None
    backend.pre_tokenizer = cut.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    token_bytes = [b"" if kind == _UNUSED else byte_level(token) for token, kind in zip(tokens, types, strict=True)]
    return _with_names(backend, metadata, tokens, types, token_bytes, adds_bos=False)


def _sentence_piece_bpe(metadata: Mapping[str, Value]) -> Tokenizer:
    """As llama.cpp reads such a file: it has no flag that says what its family's Hugging Face tokeniser does beside."""
    for key in ("precompiled_charsmap", "remove_extra_whitespaces"):
        if metadata.get(f"tokenizer.ggml.{key}"):
            raise UnsupportedTokenizer(f"tokenizer.ggml.{key} is set; text is not normalised before SentencePiece here")
    tokens, types = _tokens_and_types(metadata)
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise UnsupportedTokenizer(f"{len(tokens)} tokens need as many scores in tokenizer.ggml.scores")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    # Padding of older files is of type unknown too; only one token is the unknown one.
    types = [
        kind if kind != _UNKNOWN else _CONTROL if index == unknown else _UNUSED for index, kind in enumerate(types)
    ]
    of = {kind: [index for index, each in enumerate(types) if each == kind] for kind in set(types)}
    named = {*of.get(_CONTROL, ()), *of.get(_USER_DEFINED, ())}
    # Names are looked for in the text as it was written.
    tokens = [token.replace(SPACE, " ") if index in named else token for index, token in enumerate(tokens)]
    try:
        model = byte_pair_model(tokens, scores, of.get(_NORMAL, ()), of.get(_BYTE, ()))  # type: ignore[arg-type]
    except BadVocabulary as error:
        raise UnsupportedTokenizer(f"tokenizer.ggml.tokens: {error}") from None
    backend = tokenizers.Tokenizer(model)
    prefixes = metadata.get("tokenizer.ggml.add_space_prefix") is not False
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if prefixes else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    meaning = {byte_token(byte): bytes([byte]) for byte in range(256)}
    token_bytes = [token.replace(SPACE, " ").encode() for token in tokens]
    for index, kind in enumerate(types):
        if kind in (_UNUSED, _BYTE):
            token_bytes[index] = meaning.get(tokens[index], b"") if kind == _BYTE else b""
    # Whoever converts Phi-3 loses that its names take the white space that follows them.
    keeps_space = _PHI3_KEEPS_SPACE if metadata.get("general.architecture") == "phi3" else None
    return _with_names(
        backend,
        metadata,
        tokens,
        types,
        token_bytes,
        adds_bos=True,
        strips_space=prefixes,
        keeps_space=keeps_space,
        space=SPACE,
    )


def _with_names(
    backend: tokenizers.Tokenizer,
    metadata: Mapping[str, Value],
    tokens: Sequence[str],
    types: Sequence[int],
    token_bytes: Sequence[bytes],
    *,
    adds_bos: bool,
    strips_space: bool = False,
    keeps_space: Collection[str] | None = None,
    space: str = " ",
) -> Tokenizer:
    """With what every kind has: tokens that are found by name, those that begin and end.

    Args:
        adds_bos: whether a file that does not say has a begin of sequence put in front.
        keeps_space: names that white space may follow; None for all.
    """
    control = [index for index, kind in enumerate(types) if kind == _CONTROL]
    defined = [index for index, kind in enumerate(types) if kind == _USER_DEFINED]

    def literal(index: int, *, special: bool) -> AddedToken:
        # Not normalised: NFC must neither change the name nor what it is compared with.
        takes = keeps_space is not None and tokens[index] not in keeps_space
        return AddedToken(tokens[index], special=special, normalized=False, rstrip=takes)

    backend.add_special_tokens([literal(index, special=True) for index in control])
    backend.add_tokens([literal(index, special=False) for index in defined])

    def token_id(name: str) -> int | None:
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return index if isinstance(index, int) and 0 <= index < len(tokens) else None

    bos_id, eos_id = token_id("bos"), token_id("eos")
    first = bos_id if metadata.get("tokenizer.ggml.add_bos_token", adds_bos) is True else None
    last = eos_id if metadata.get("tokenizer.ggml.add_eos_token") is True else None
    if first is not None or last is not None:
        backend.post_processor = _around(tokens, first, last)
    ends = {eos_id, token_id("eot"), token_id("eom")}
    ends |= {index for index in (*control, *defined) if tokens[index] in _END_NAMES}
    bytes_of_names = {index: tokens[index].encode() for index in (*control, *defined)}
    return Tokenizer(
        backend,
        [bytes_of_names.get(index, data) for index, data in enumerate(token_bytes)],
        control,
        eos_ids=tuple(sorted(index for index in ends if index is not None)),
        bos_id=bos_id,
        strips_space=strips_space,
        space=space,
    )


def from_directory(path: Path) -> Tokenizer:
    """The tokeniser of a Hugging Face model directory: its `tokenizer.json`, with what the configuration files add.

    Raises:
        UnsupportedTokenizer: `tokenizer.json` is missing, broken, or decodes in a way that is not built.
    """
    file = path / "tokenizer.json"
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        backend = tokenizers.Tokenizer.from_str(json.dumps(description))
    except FileNotFoundError:
        raise UnsupportedTokenizer(f"{file} is missing; slow (Python-only) tokenisers are not supported") from None
    except Exception as error:  # the library raises bare Exception for whatever it cannot parse
        raise UnsupportedTokenizer(f"{file} cannot be read: {error}") from None
    backend.no_truncation()
    backend.no_padding()

    to_bytes = _byte_meaning(description, file)
    added = backend.get_added_tokens_decoder()
    token_bytes = [b""] * (1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1))
    for token, index in backend.get_vocab(with_added_tokens=True).items():
        token_bytes[index] = token.encode() if index in added else to_bytes(token)
    configured = read_json(path / "tokenizer_config.json")
    return Tokenizer(
        backend,
        token_bytes,
        [index for index, token in added.items() if token.special],
        eos_ids=_end_ids(path, backend, configured),
        bos_id=_named(backend, configured.get("bos_token")),
        strips_space=_strips_space(description.get("decoder")),
    )


def special_tokens(path: Path) -> dict[str, str]:
    """`bos_token`, `eos_token` and so on of a Hugging Face directory, as chat templates use them."""
    configured = read_json(path / "tokenizer_config.json")
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    return {name: text for name in names if (text := _content(configured.get(name)))}


def _sentence_piece(token: str) -> bytes:
    """The same for SentencePiece vocabularies with byte fallback: `<0xE2>` is a byte, U+2581 a space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _word_piece(token: str, prefix: str) -> bytes:
    """The same for WordPiece: a token that does not go on with a word begins one. What was between words is lost."""
    return token.removeprefix(prefix).encode() if token.startswith(prefix) else f" {token}".encode()


def _byte_meaning(description: Mapping[str, Any], file: Path) -> Any:
    kinds = _decoder_kinds(description.get("decoder"))
    if "ByteLevel" in kinds:
        return byte_level
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return _sentence_piece
    if "WordPiece" in kinds:
        prefix = str(description["model"].get("continuing_subword_prefix", "##"))
        return lambda token: _word_piece(token, prefix)
    raise UnsupportedTokenizer(f"{file}: its decoder ({', '.join(sorted(kinds)) or 'none'}) is not built")


def _decoder_parts(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _decoder_kinds(decoder: Mapping[str, Any] | None) -> set[str]:
    return {str(part["type"]) for part in _decoder_parts(decoder)}


def _strips_space(decoder: Mapping[str, Any] | None) -> bool:
    parts = _decoder_parts(decoder)
    stripped = any(part["type"] == "Strip" and part.get("start", 0) > 0 for part in parts)
    prefixed = any(part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never" for part in parts)
    return stripped or prefixed or any(part["type"] == "WordPiece" for part in parts)


def _end_ids(path: Path, backend: tokenizers.Tokenizer, configured: Mapping[str, Any]) -> tuple[int, ...]:
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        given = read_json(path / name).get("eos_token_id")
        ends |= {index for index in (given if isinstance(given, list) else [given]) if isinstance(index, int)}
    if (own := _named(backend, configured.get("eos_token"))) is not None:
        ends.add(own)
    return tuple(sorted(ends))


def _named(backend: tokenizers.Tokenizer, token: object) -> int | None:
    text = _content(token)
    return backend.token_to_id(text) if text else None


def _content(token: object) -> str:
    """Tokens are written as text or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def read_json(file: Path) -> dict[str, Any]:
    """A configuration file of a model directory; empty where there is none.

    Raises:
        UnsupportedTokenizer: it is no JSON.
    """
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedTokenizer(f"{file} cannot be read: {error}") from None
    return value if isinstance(value, dict) else {}


def _merge(line: str) -> tuple[str, str]:
    # A part may not contain a space (it is written as U+0120), so the first one parts them.
    left, space, right = line.partition(" ")
    if not space:
        raise UnsupportedTokenizer(f"tokenizer.ggml.merges has {line!r}, which is no pair")
    return left, right


def _around(tokens: Sequence[str], first: int | None, last: int | None) -> processors.TemplateProcessing:
    """A text between two tokens, either of which may be None."""
    before = [tokens[first]] if first is not None else []
    after = [tokens[last]] if last is not None else []
    special = [(tokens[index], index) for index in dict.fromkeys((first, last)) if index is not None]
    return processors.TemplateProcessing(
        single=[*before, "$A", *after], pair=[*before, "$A", "$B", *after], special_tokens=special
    )


def _tokens_and_types(metadata: Mapping[str, Value]) -> tuple[list[str], list[int]]:
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    types = _numbers(metadata, "tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise UnsupportedTokenizer(f"{len(tokens)} tokens have {len(types)} token types")
    return tokens, types


def _strings(metadata: Mapping[str, Value], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UnsupportedTokenizer(f"{key} is missing or no list of strings")
    return values  # type: ignore[return-value]


def _numbers(metadata: Mapping[str, Value], key: str) -> list[int]:
    values = metadata.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise UnsupportedTokenizer(f"{key} is no list of numbers")
    return values  # type: ignore[return-value]
