"""The configuration file, as typed structs. Reading, checking, and saying where an error is; nothing else.

One TOML file configures a host. Without one, the defaults serve the demo model on the CPU. Unknown keys are
refused with file, line and key; values are checked here, once, so that no process has to.
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from bus.guard_config import GuardConfig, guard_problems
from bus.names import MODEL_NAME

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

MIN_DISK: Final = 64 << 20  # four segments of the disk tier
MIN_CACHE, MAX_CACHE = 1 << 20, 64 << 30
RECORDING: Final = (64 << 10, 1 << 30)  # least and most of a recording


class ConfigError(ValueError):
    """The configuration cannot be used. The message names file, line and key, and what is expected."""


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of all sections: unknown keys are errors."""


class IngressConfig(Section, frozen=True):
    """`[ingress]`: how clients reach this host.

    Attributes:
        http: address and port of the HTTP API.
        processes: how many ingress processes share the port.
        zmq: "ipc" (a socket in the run directory), or `tcp://HOST:PORT`, which needs `curve`.
        max_body: largest request body.
        max_streams: open requests per process; above it 429.
        resume_grace_s: how long a finished or abandoned stream can be resumed.
        response_ttl_s: how long a stored response is kept after its end, while there is room.
    """

    http: str = "127.0.0.1:8080"
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    zmq: str = "ipc"
    max_body: str = "8MiB"
    max_streams: Positive = 1024
    resume_grace_s: Seconds = 60.0
    response_ttl_s: Seconds = 3600.0


class KvConfig(Section, frozen=True):
    """`[kv]`: the page arena.

    Attributes:
        arena: its size.
        slab: unit in which pools take memory from the arena.
        hugepages: "auto" uses them where the host has enough reserved, "on" refuses to start without, "off".
        disk: bytes of files that keep pages beyond the arena and a reboot; "0" keeps none.
        disk_path: their directory; empty is `pages` in the state directory.
    """

    arena: str = "1GiB"
    slab: str = "32MiB"
    hugepages: Literal["auto", "on", "off"] = "auto"
    disk: str = "0"
    disk_path: str = ""


class MetricsConfig(Section, frozen=True):
    """`[metrics]`: what is kept.

    Attributes:
        timelines: requests whose timeline is kept.
    """

    timelines: Positive = 2000


class AlarmsConfig(Section, frozen=True):
    """From where on an operator should know. 0 is never.

    Attributes:
        ttft_s: p95 of the times to the first token, over ten seconds.
        inter_token_s: p95 of the times between tokens.
        queue_wait_s: age of the request that waits longest for a slot.
    """

    ttft_s: Annotated[float, Meta(ge=0)] = 30.0
    inter_token_s: Annotated[float, Meta(ge=0)] = 1.0
    queue_wait_s: Annotated[float, Meta(ge=0)] = 60.0


class UsageConfig(Section, frozen=True):
    """`[usage]`: the ledger of what requests used, in the state directory.

    Attributes:
        ledger: whether it is kept.
        keep_requests_days, keep_hours_days, keep_days: how long each request, each hour and each day is kept.
    """

    ledger: bool = True
    keep_requests_days: Positive = 35
    keep_hours_days: Positive = 400
    keep_days: Positive = 3650


class CacheNamespaceConfig(Section, frozen=True):
    """`[[cache.namespace]]`: what holds for some models and tenants; the first that fits a call is its namespace.

    Attributes:
        name: of the namespace; "default" is that of all other calls.
        models, tenants: whose calls belong to it; empty is all.
        public: tenants share answers; else each has its own.
        sampled: keep answers of a temperature above 0 too.
        ttl_s: how long an answer is served; 0 takes `[cache]`'s.
        semantic: match questions by meaning. "shadow" compares and serves nothing, "on" serves once it is calibrated.
        budget: share of wrong semantic hits that is tolerated.
        audit: share of semantic hits that are generated all the same, and compared.
    """

    name: str
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    public: bool = False
    sampled: bool = False
    ttl_s: NotNegative = 0.0
    semantic: Literal["off", "shadow", "on"] = "off"
    budget: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    audit: Annotated[float, Meta(gt=0, le=1)] = 0.02


class CacheConfig(Section, frozen=True):
    """`[cache]`: answers that are kept, and served again without a model.

    Attributes:
        exact: keep answers at all. Without it nothing is cached, and no generation shared.
        memory: of all answers of this host, in the run directory.
        ttl_s: how long an answer is served.
        sampled: keep answers of a temperature above 0 too.
        encoder: name of the served model that embeds questions, for namespaces that match by meaning.
        namespace: see `[[cache.namespace]]`.
    """

    exact: bool = True
    memory: str = "64MiB"
    ttl_s: Seconds = 3600.0
    sampled: bool = False
    encoder: str = ""
    namespace: tuple[CacheNamespaceConfig, ...] = ()


class CostConfig(Section, frozen=True):
    """`[cost]`: what the host costs, so that `headrace usage` can say what requests cost. 0 is no price.

    Attributes:
        price_per_hour: of the host, whether it works or not.
        currency: of both prices.
        price_per_kwh: of energy; needs `watts_busy`.
        watts_idle, watts_busy: what the host draws with nothing to do, and with all cores at work.
    """

    price_per_hour: NotNegative = 0.0
    currency: str = "EUR"
    price_per_kwh: NotNegative = 0.0
    watts_idle: NotNegative = 0.0
    watts_busy: NotNegative = 0.0


class AccountsConfig(Section, frozen=True):
    """`[accounts]`: who may use the API, and how much.

    Attributes:
        keys: "off" serves everybody; "required" serves who shows a key of `headrace keys create`, within its limits and
            budgets, and runs `accounts@host`, which keeps them.
        unleased_s: while `accounts@host` is down, and what was leased of a limit is used up, requests go on for so many
            seconds. Budgets never do.
        share: part of a limit or budget that an ingress takes ahead.
    """

    keys: Literal["off", "required"] = "off"
    unleased_s: NotNegative = 30.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05


class PriceConfig(Section, frozen=True):
    """`[[price]]`: what tokens are charged at, in the currency of `[cost]`. The latest row that a model matches, and
    that has begun, holds; what no row matches is free.

    Attributes:
        model: a served name, or a pattern with `*`.
        valid_from: day on which it begins (UTC), as 2026-01-31; empty is always.
        input, cached_input, output: per million tokens. Prompt tokens whose KV was found are charged as `cached_input`,
            and by `input` where that is not given.
    """

    model: str
    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    valid_from: str = ""


class TracesConfig(Section, frozen=True):
    """`[traces]`: spans of requests for an OpenTelemetry collector. Needs `pip install headrace[otel]`.

    Attributes:
        endpoint: base URL of its OTLP/HTTP receiver, for example `http://127.0.0.1:4318`; empty sends nothing.
        sample: share of the requests that are traced, of those whose client does not say.
    """

    endpoint: str = ""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0


class LogConfig(Section, frozen=True):
    """`[log]`: what processes write to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class AdminConfig(Section, frozen=True):
    """`[admin]`: who beside root and the stack's own user may look, and who may act.

    Attributes:
        group: its members may do everything that an operator can: drain, restart, cancel, limit.
        viewers: its members see everything and change nothing.
    """

    group: str = "headrace-admin"
    viewers: str = "headrace-bus"


class BlackboxConfig(Section, frozen=True):
    """`[blackbox]`: the flight recorder, and crash reports.

    Attributes:
        size: of the memory that each process records into; "0" records nothing.
        incarnations: recordings kept of a process, that of the living one included.
        content: record prompts, answers and token ids too.
        crashes: crash reports that the supervisor keeps; 0 writes none.
    """

    size: str = "4MiB"
    incarnations: Annotated[int, Meta(ge=1, le=100)] = 3
    content: bool = False
    crashes: Annotated[int, Meta(ge=0, le=1000)] = 10


class CurveConfig(Section, frozen=True):
    """`[curve]`: keys for `tcp://` sockets. Without it nothing listens on tcp.

    Attributes:
        secret: file of this host's key pair, made by `headrace curve-keygen`.
        clients: directory of public key files of those who may connect.
    """

    secret: str
    clients: str


class SystemdConfig(Section, frozen=True):
    """`[systemd]`: what `headrace systemd install` writes into the units.

    Attributes:
        pin: "auto" gives every rank cores of its own, on one NUMA node, where there are enough for all; "off" leaves
            them to the kernel.
    """

    pin: Literal["auto", "off"] = "auto"


class PoolsConfig(Section, frozen=True):
    """`[model.pools]`: some replicas only prefill, and the others decode what those have prefilled.

    Attributes:
        prefill, decode: how many. The decoding ones have the lower numbers.
    """

    prefill: Annotated[int, Meta(ge=1, le=32)] = 1
    decode: Annotated[int, Meta(ge=1, le=32)] = 1


class ModelConfig(Section, frozen=True):
    """`[[model]]`: one served model.

    Attributes:
        name: under which clients ask for it.
        source: `catalog:NAME`, `hf:ORG/REPO`, `path:/DIR` (safetensors) or a `.gguf` file.
        device, dtype: "auto" picks what the host is good at.
        quantize: "auto" computes with a quantised file's own bits; "int8" and "int4" round floats to so many at load;
            "none" makes floats of everything.
        deterministic: an answer is the same, bit by bit, whatever else is in the batch.
        replicas, tensor_parallel: how many copies, and over how many ranks each.
        pools: replicas for prefill apart from those that decode, in place of `replicas`.
        standby: processes per rank that have everything loaded and take over when the worker dies.
        context_tokens: 0 takes the model's own limit.
        slots: requests that run at once on a replica.
        step_tokens: most tokens of one step: the budget that decodes and prefill chunks share.
        page_tokens: 0 picks 16 on a CPU, 64 on a GPU.
        queue_requests, queue_tokens: bounds of the waiting queue; beyond them 429.
        inter_token_target_ms: prefill chunks are cut so that a step with decodes in it stays under this; 0 is off.
        threads: CPU threads per rank; 0 shares the cores among the ranks.
        prefix_cache: find and keep prompts' KV.
        tool_parser: how the model writes tool calls; "auto" finds that in its chat template, "none" has it call none.
        hang_s: a step longer than this means that the worker hangs. Once step times are known, a third of it and ten
            times the prediction; a tenth of it where the worker uses no CPU.
    """

    name: str
    source: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["auto", "none", "int8", "int4"] = "auto"
    deterministic: bool = False
    replicas: Annotated[int, Meta(ge=1, le=64)] = 1
    tensor_parallel: Annotated[int, Meta(ge=1, le=8)] = 1
    standby: Annotated[int, Meta(ge=0, le=1)] = 0
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    slots: Annotated[int, Meta(ge=1, le=4096)] = 64
    step_tokens: Annotated[int, Meta(ge=16, le=65536)] = 512
    page_tokens: Annotated[int, Meta(ge=0, le=256)] = 0
    queue_requests: Positive = 256
    queue_tokens: Positive = 262_144
    inter_token_target_ms: Annotated[float, Meta(ge=0)] = 250.0
    threads: Annotated[int, Meta(ge=0)] = 0
    prefix_cache: bool = True
    tool_parser: Literal[
        "auto", "none", "hermes", "llama3", "mistral", "mistral_args", "deepseek", "deepseek_v31", "pythonic"
    ] = "auto"
    hang_s: Seconds = 30.0
    pools: PoolsConfig | None = None

    @property
    def all_replicas(self) -> int:
        """Replicas of all kinds."""
        return self.replicas if self.pools is None else self.pools.decode + self.pools.prefill

    @property
    def first_prefill(self) -> int:
        """The number of the first replica that only prefills; `all_replicas` where none does."""
        return self.all_replicas if self.pools is None else self.pools.decode


DEMO_MODEL = ModelConfig(name="smollm2", source="catalog:smollm2-135m-instruct")


class Config(Section, frozen=True):
    """The whole file."""

    ingress: IngressConfig = IngressConfig()
    kv: KvConfig = KvConfig()
    metrics: MetricsConfig = MetricsConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    usage: UsageConfig = UsageConfig()
    cache: CacheConfig = CacheConfig()
    cost: CostConfig = CostConfig()
    price: tuple[PriceConfig, ...] = ()
    accounts: AccountsConfig = AccountsConfig()
    traces: TracesConfig = TracesConfig()
    log: LogConfig = LogConfig()
    admin: AdminConfig = AdminConfig()
    blackbox: BlackboxConfig = BlackboxConfig()
    curve: CurveConfig | None = None
    systemd: SystemdConfig = SystemdConfig()
    model: tuple[ModelConfig, ...] = (DEMO_MODEL,)
    guard: tuple[GuardConfig, ...] = ()

    def model_named(self, name: str) -> ModelConfig:
        """The section of a model.

        Raises:
            ConfigError: there is none of that name.
        """
        for model in self.model:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.model)
        raise ConfigError(f"no model named {name!r} is configured (configured: {known})")


def parse_size(text: str) -> int:
    """`"4GiB"` in bytes. Binary units (KiB, MiB, GiB, TiB) and decimal ones (KB, MB, GB, TB); a bare number is bytes.

    Raises:
        ConfigError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?\s*", text)
    if match is None:
        raise ConfigError(f"{text!r} is not a size; write for example 4GiB or 512MiB")
    unit = match[2] or "B"
    power = " KMGT".index(unit[0]) if unit[0] in "KMGT" else 0
    return int(float(match[1]) * (1024 if "i" in unit else 1000) ** power)


def parse_address(text: str) -> tuple[str, int]:
    """`"127.0.0.1:8080"` or `"[::1]:8080"` as host and port.

    Raises:
        ConfigError: not an address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is not an address; write HOST:PORT, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def find_config(given: Path | None = None) -> Path | None:
    """The file to read: `given`, `$HEADRACE_CONFIG`, `./headrace.toml`, `/etc/headrace/headrace.toml`, or none.

    Raises:
        ConfigError: a file that was asked for by name does not exist.
    """
    asked = given or (Path(env) if (env := os.environ.get("HEADRACE_CONFIG")) else None)
    if asked is not None:
        if not asked.is_file():
            raise ConfigError(f"{asked}: no such configuration file")
        return asked.resolve()
    for path in (Path("headrace.toml"), Path("/etc/headrace/headrace.toml")):
        if path.is_file():
            return path.resolve()
    return None


def load_config(path: Path | None) -> Config:
    """Read and check a file; `None` gives the defaults.

    Raises:
        ConfigError: with file, line and key.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse_config(text, str(path))


def parse_config(text: str, origin: str) -> Config:
    """Like `load_config`, from text; `origin` names it in errors."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_located(text, origin, str(error))) from None
    for where, problem in _problems(config):
        raise ConfigError(f"{origin}:{_line_of(text, where)}: {_dotted(where)}: {problem}")
    return config


Where = tuple[str | int, ...]


def _problems(config: Config) -> list[tuple[Where, str]]:
    """What types cannot say."""
    found: list[tuple[Where, str]] = []

    def check(where: Where, parse: object, value: str) -> None:
        try:
            parse(value)  # type: ignore[operator]
        except ConfigError as error:
            found.append((where, str(error)))

    check(("ingress", "http"), parse_address, config.ingress.http)
    check(("ingress", "max_body"), parse_size, config.ingress.max_body)
    check(("kv", "arena"), parse_size, config.kv.arena)
    check(("kv", "slab"), parse_size, config.kv.slab)
    check(("kv", "disk"), _parse_disk, config.kv.disk)
    check(("cache", "memory"), _parse_cache, config.cache.memory)
    spaces: set[str] = set()
    for index, space in enumerate(config.cache.namespace):
        where: Where = ("cache", "namespace", index)
        if MODEL_NAME.fullmatch(space.name) is None or space.name == "default":
            found.append(((*where, "name"), "letters, digits, dot, dash and underscore, at most 48, and not default"))
        if space.name in spaces:
            found.append(((*where, "name"), f"{space.name!r} is there twice"))
        spaces.add(space.name)
        if space.semantic != "off" and not config.cache.encoder:
            found.append(((*where, "semantic"), "matching by meaning needs an encoder: name one in [cache] encoder"))
    check(("blackbox", "size"), _parse_recording, config.blackbox.size)
    if config.kv.disk_path and not Path(config.kv.disk_path).expanduser().is_absolute():
        found.append((("kv", "disk_path"), f"{config.kv.disk_path!r} is not an absolute path"))
    if config.ingress.zmq != "ipc":
        if not config.ingress.zmq.startswith("tcp://"):
            found.append((("ingress", "zmq"), 'expected "ipc" or tcp://HOST:PORT'))
        elif config.curve is None:
            found.append((("ingress", "zmq"), "tcp needs keys: add a [curve] section (see headrace curve-keygen)"))
    cost = config.cost
    if cost.price_per_kwh and not cost.watts_busy:
        found.append((("cost", "price_per_kwh"), "energy has a price, but watts_busy does not say how much is used"))
    if cost.watts_busy < cost.watts_idle:
        found.append((("cost", "watts_busy"), f"less than watts_idle ({cost.watts_idle:g})"))
    for index, row in enumerate(config.price):
        if not _is_day(row.valid_from):
            found.append((("price", index, "valid_from"), f"{row.valid_from!r} is not a day; write 2026-01-31"))
    if not re.fullmatch(r"(https?://\S+)?", config.traces.endpoint):
        found.append((("traces", "endpoint"), "expected the URL of an OTLP/HTTP receiver, as http://127.0.0.1:4318"))
    if not config.model:
        found.append((("model",), "at least one [[model]] is needed"))
    names: set[str] = set()
    for index, model in enumerate(config.model):
        if MODEL_NAME.fullmatch(model.name) is None:
            found.append((("model", index, "name"), "letters, digits, dot, dash and underscore only, at most 48"))
        if model.name in names:
            found.append((("model", index, "name"), f"{model.name!r} is there twice"))
        names.add(model.name)
        if model.pools is not None and model.replicas != 1:
            found.append((("model", index, "replicas"), "[model.pools] says how many there are: leave this out"))
        if model.pools is not None and model.device == "cuda":
            found.append((("model", index, "pools"), "workers share the arena's pages on a CPU only: leave pools out"))
        if not re.match(r"(catalog:|hf:|path:).+|.+\.gguf$", model.source):
            found.append((("model", index, "source"), "expected catalog:NAME, hf:ORG/REPO, path:/DIR or a .gguf file"))
    found += guard_problems(config.guard, frozenset(names))
    return found


def _parse_disk(text: str) -> None:
    if 0 < parse_size(text) < MIN_DISK:
        raise ConfigError(f'{text!r} is too small to be of use; write at least {MIN_DISK >> 20}MiB, or "0" for none')


def _parse_cache(text: str) -> None:
    if not MIN_CACHE <= parse_size(text) <= MAX_CACHE:
        raise ConfigError(
            f"{text!r} is not from {MIN_CACHE >> 20}MiB to {MAX_CACHE >> 30}GiB; exact = false keeps none"
        )


def _parse_recording(text: str) -> None:
    size, (least, most) = parse_size(text), RECORDING
    if size and not least <= size <= most:
        raise ConfigError(f'{text!r} is not from {least >> 10}KiB to {most >> 30}GiB; "0" records nothing')


def _is_day(text: str) -> bool:
    if not text:
        return True
    try:
        return bool(time.strptime(text, "%Y-%m-%d"))
    except ValueError:
        return False


def _dotted(where: Where) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def _located(text: str, origin: str, message: str) -> str:
    """msgspec's message with its line. It ends in "- at `$.model[0].dtype`" and may name an unknown field."""
    problem, _, path = message.partition(" - at `")
    where: list[str | int] = [
        int(number) if number else name for name, number in re.findall(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]", path)
    ]
    if unknown := re.search(r"unknown field `([^`]*)`", problem):
        where.append(unknown[1])
        problem = "unknown key"
    return f"{origin}:{_line_of(text, tuple(where))}: {_dotted(tuple(where))}: {problem}"


def _line_of(text: str, where: Where) -> int:
    """The line of a key, found by reading table headers as TOML writes them; else the table's line, else 1."""
    names = [part for part in where if isinstance(part, str)]
    index = next((part for part in where if isinstance(part, int)), 0)
    table = names[0] if names else ""
    key = names[-1] if len(names) > 1 else ""
    best = 1
    current, seen = "", -1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?", line):
            current = header[2].strip("\"'")
            if current == table:
                seen = seen + 1 if header[1] == "[[" else index
                if seen == index:
                    best = number
        elif assigned := re.match(r"\s*[\"']?([A-Za-z0-9_.-]+)[\"']?\s*=", line):
            if current == table and seen == index and key and assigned[1] == key:
                return number
            if current == "" and table and assigned[1].split(".")[0] == table:
                best = number
    return best
