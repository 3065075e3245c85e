"""Configuration: what is wrong is said with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.config import Config, ConfigError, find_config, load_config, parse_address, parse_config, parse_size

GOOD = """
[ingress]
http = "0.0.0.0:9000"

[[model]]
name = "a"
source = "catalog:smollm2-135m-instruct"

[[model]]
name = "b"
source = "path:/srv/models/b"
dtype = "float32"
"""


def test_a_good_file_is_typed_and_the_rest_is_default() -> None:
    config = parse_config(GOOD, "h.toml")
    assert config.ingress.http == "0.0.0.0:9000"
    assert [model.name for model in config.model] == ["a", "b"]
    assert config.model_named("b").dtype == "float32"
    assert config.kv == Config().kv


def test_no_file_serves_the_demo_model() -> None:
    assert [model.source for model in load_config(None).model] == ["catalog:smollm2-135m-instruct"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[ingress]\nhttp = "x"\n', "h.toml:2: ingress.http: 'x' is not an address"),
        ("[ingress]\n\nprocesses = 0\n", "h.toml:3: ingress.processes: Expected `int` >= 1"),
        ("[kv]\nsize = 3\n", "h.toml:2: kv.size: unknown key"),
        ('[kv]\narena = "4 gigs"\n', "h.toml:2: kv.arena: '4 gigs' is not a size"),
        ("[gpu]\n", "h.toml:1: gpu: unknown key"),
        ("[kv]\narna = 3\n", "h.toml:2: kv.arna: unknown key; did you mean 'arena'?"),
        (GOOD + "pools = {prefil = 1}\n", "h.toml:9: model[1].pools.prefil: unknown key; did you mean 'prefill'?"),
        (GOOD + "speed = 3\n", "h.toml:13: model[1].speed: unknown key"),
        (GOOD.replace('"float32"', '"float8"'), "h.toml:12: model[1].dtype: Invalid enum value 'float8'"),
        (GOOD + 'kv_dtype = "int4"\n', "h.toml:13: model[1].kv_dtype: Invalid enum value 'int4'"),
        (GOOD.replace('"b"', '"a"', 1), "h.toml:10: model[1].name: 'a' is there twice"),
        (GOOD.replace('"a"', '"a/b"'), "h.toml:6: model[0].name: letters, digits"),
        (GOOD.replace("path:/srv/models/b", "somewhere"), "h.toml:11: model[1].source: expected catalog:NAME"),
        ('[ingress]\nzmq = "tcp://0.0.0.0:5555"\n', "h.toml:2: ingress.zmq: tcp needs keys"),
        ("model = []\n", "h.toml:1: model: at least one"),
        ("[ingress\n", "h.toml: not valid TOML"),
    ],
)
def test_errors_name_file_line_and_key(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "h.toml")
    assert str(raised.value).startswith(expected)


def test_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    (tmp_path / "headrace.toml").write_text(GOOD)
    other = tmp_path / "other.toml"
    other.write_text(GOOD)
    assert find_config() == tmp_path / "headrace.toml"
    monkeypatch.setenv("HEADRACE_CONFIG", str(other))
    assert find_config() == other
    with pytest.raises(ConfigError, match="no such configuration file"):
        find_config(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 << 30), ("1.5 MiB", 3 << 19), ("10MB", 10_000_000), ("77", 77), ("3B", 3)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_addresses() -> None:
    assert parse_address("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert parse_address("[::1]:0") == ("::1", 0)
    for bad in ("8080", ":8080", "host:", "host:http", "host:70000"):
        with pytest.raises(ConfigError):
            parse_address(bad)


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    try:
        parse_config(text, "h.toml")
    except ConfigError as error:
        assert str(error).startswith("h.toml")  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[model.adapter]]\nname = "a"\nsource = "path:/x"\n', "model[1].adapter[0].name: 'a' is there twice"),
        ('[[model.adapter]]\nname = "x y"\nsource = "path:/x"\n', "model[1].adapter[0].name: letters, digits"),
        ('[[model.adapter]]\nname = "x"\nsource = "/x"\n', "model[1].adapter[0].source: expected path:/DIR"),
        ('[[model.adapter]]\nname = "x"\n', "missing required field `source`"),
        ("[model.lora]\nresident = 0\n", "model[1].lora.resident: Expected `int` >= 1"),
        ('[model.lora]\nmax_size = "big"\n', "model[1].lora.max_size: 'big' is not a size"),
        ('[model.lora]\ndirectory = "here"\n', "model[1].lora.directory: expected an absolute path"),
    ],
)
def test_adapters_are_checked(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(GOOD + text, "h.toml")
    assert expected in str(error.value)
