"""`[[upstream]]` and `[[route]]`: what is wrong is refused with file, line and key."""

from __future__ import annotations

import pytest

from bus.config import ConfigError, parse_config

GOOD = """
[[price]]
model = "far"
input = 9.0
output = 9.0

[[upstream]]
name = "there"
base_url = "https://api.example.org/v1"
credential = "/etc/headrace/there.key"

[[upstream.model]]
name = "far"
capabilities = ["images"]
input = 1.0
output = 2.0
tokenizer = "smollm2"

[[upstream.model]]
name = "farther"
input = 1.0
output = 2.0

[[route]]
name = "auto"
fallbacks = ["smollm2"]
[[route.target]]
model = "far"
[[route.rule]]
name = "long"
models = ["farther"]
prompt_tokens_above = 4000

[[guard]]
name = "length"
kind = "length"
characters = 10
models = ["auto", "far"]
"""


def test_what_is_right_is_taken() -> None:
    config = parse_config(GOOD, "x.toml")
    assert config.route[0].models == ("far", "farther", "smollm2")
    assert [(row.model, row.input) for row in config.prices] == [("far", 9.0), ("far", 1.0), ("farther", 1.0)]


@pytest.mark.parametrize(
    ("instead", "of", "key", "says"),
    [
        ('base_url = "https://sk-1:x@api.example.org/v1"', 'base_url = "https://api.example.org/v1"',
         "upstream[0].base_url", "no key in a URL"),
        ('base_url = "api.example.org"', 'base_url = "https://api.example.org/v1"', "upstream[0].base_url", "the URL"),
        ('credential = "sk-secret"', 'credential = "/etc/headrace/there.key"', "upstream[0].credential", "path"),
        ('kind = "anthropic"\ncredential = "/x"\nfailures = 11', 'credential = "/etc/headrace/there.key"',
         "upstream[0].failures", "failures_of"),
        ('capabilities = ["smell"]', 'capabilities = ["images"]', "upstream[0].model[0].capabilities", "smell"),
        ('kind = "anthropic"', 'credential = "/etc/headrace/there.key"', "upstream", ""),
        ('tokenizer = "gone"', 'tokenizer = "smollm2"', "upstream[0].model[0].tokenizer", "gone"),
        ('name = "far"\n\n[[upstream.model]]\nname = "far"\ninput', 'name = "farther"\ninput',
         "upstream[0].model[1].name", "twice"),
        ('name = "smollm2"\nfallbacks', 'name = "auto"\nfallbacks', "route[0].name", "twice"),
        ('model = "auto"\n[[route.rule]]', 'model = "far"\n[[route.rule]]', "route[0].target[0].model", "auto"),
        ('fallbacks = ["gone"]', 'fallbacks = ["smollm2"]', "route[0].fallbacks", "gone"),
        ('canary_share = 0.5\nfallbacks', "fallbacks", "route[0].canary_share", "canary"),
        ('contains = "("', "prompt_tokens_above = 4000", "route[0].rule[0].contains", "expression"),
        ("models = []", 'models = ["farther"]', "route[0].rule[0].models", "at least one"),
        ('weight = 0\nmodel = "far"\n[[route.rule]]', 'model = "far"\n[[route.rule]]', "route[0].target", "weight"),
        ('models = ["gone", "far"]', 'models = ["auto", "far"]', "guard[0].models", "gone"),
        ("colour = 1\nfallbacks", "fallbacks", "route[0].colour", "unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_key(instead: str, of: str, key: str, says: str) -> None:
    assert of in GOOD
    text = GOOD.replace(of, instead, 1)
    if key == "upstream":  # Anthropic has no words for a seed
        text = text.replace('["images"]', '["seed"]')
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.toml")
    message = str(caught.value)
    assert message.startswith("x.toml:")
    assert key in message
    assert says in message


@pytest.mark.parametrize(
    ("cascade", "says"),
    [
        ('first = "far"\nthen = "far"', "the same model"),
        ('first = "far"\nthen = "farther"\nchecks = []', "nothing is checked"),
        ('first = "far"\nthen = "farther"\nchecks = ["schema"]', "go together"),
        ('first = "far"\nthen = "farther"\nchecks = ["schema"]\nschema = "x.json"', "absolute"),
    ],
)
def test_a_cascade_that_cannot_work_is_refused(cascade: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(GOOD.replace("[[route.target]]", f"[route.cascade]\n{cascade}\n[[route.target]]"), "x.toml")
