"""`[[guard]]`: mistakes are told with file, line and key."""

from __future__ import annotations

import pytest

from bus.config import ConfigError, parse_config

HEAD = '[[model]]\nname = "m"\nsource = "x.gguf"\n[[guard]]\nname = "g"\n'


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ('kind = "pii"\nthreshhold = 0.5', "f.toml:7: guard[0].threshhold: unknown key; did you mean 'threshold'?"),
        ('kind = "pii"\nthreshold = 0.9', "f.toml:7: guard[0].threshold: a guard of kind 'pii' has no such key"),
        ('kind = "injection"\naction = "mask"', "f.toml:7: guard[0].action: injection does not say where"),
        ('kind = "pii"\nentities = ["EMAILS"]', "f.toml:7: guard[0].entities: 'EMAILS' is none of EMAIL"),
        ('kind = "model"\nmodel = "m"', "guard[0].prompt: needed by a guard of kind 'model'"),
        ('kind = "model"\nmodel = "n"\nprompt = "{text}"', "f.toml:7: guard[0].model: no model named 'n'"),
        ('kind = "model"\nmodel = "m"\nprompt = "safe?"', "f.toml:8: guard[0].prompt: {text} must be in it"),
        ('kind = "model"\nmodel = "m"\nprompt = "{text}"\nverdict = "("', "f.toml:9: guard[0].verdict: not a regular"),
        ('kind = "grounding"', 'guard[0].stage: grounding compares an answer'),
        ('kind = "jailbreak"\nwindow = 100\noverlap = 100', "f.toml:8: guard[0].overlap: must be less than window"),
        ('kind = "pii"\nmask = "\\""', "f.toml:7: guard[0].mask: quotes"),
        ('kind = "length"', "guard[0].characters: needed"),
        ('kind = "pii"\n[[guard]]\nname = "g"\nkind = "pii"', "f.toml:8: guard[1].name: 'g' is there twice"),
    ],
)  # fmt: skip
def test_mistakes_are_told_where_they_are(rest: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(HEAD + rest, "f.toml")
    assert said in str(error.value)


def test_a_good_one_is_read() -> None:
    config = parse_config(HEAD + 'kind = "pii"\naction = "mask"\nentities = ["EMAIL"]', "f.toml")
    assert config.guard[0].entities == ("EMAIL",)
    assert config.guard[0].serves("m")
