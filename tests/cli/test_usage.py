"""`headrace usage`: lengths of time, prices per token, the table, and what a spreadsheet must not run."""

from __future__ import annotations

import pytest

from bus.messages.usage import HostUsage, UsageReply, UsageRow
from cli.usage import BadSpan, _csv, _table, line, report_of, span_s

ROW = UsageRow("m", 10, 1, 3_000_000, 1_000_000, 500_000, 100.0, 40.0, 2.0)
HOST = HostUsage(7200.0, 14400.0, 0.25, 4.0, 3.0)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", 86400), ("7d", 604800), ("4w", 2419200)])
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "24", "-1h", "1.5h", "1y", "24 h", "1h1m", "9999999h"])
def test_what_is_no_length_of_time_says_what_is(text: str) -> None:
    with pytest.raises(BadSpan, match="24h"):
        span_s(text)


def test_prices_of_prompts_and_answers_make_the_cost() -> None:
    told = line(ROW, priced=True)
    assert told.cost_per_million_tokens == pytest.approx(2.0 / 3.5)
    assert told.cost_per_million_prompt_tokens == pytest.approx(0.8 / 2)  # two million were computed
    assert told.cost_per_million_generated_tokens == pytest.approx(1.2 / 0.5)


def test_without_prices_or_tokens_there_are_none() -> None:
    assert line(ROW, priced=False).cost is None
    nothing = line(UsageRow("m", 1, 0, 0, 0, 0, 0.0, 0.0, 0.0), priced=True)
    assert nothing.cost_per_million_tokens is None
    assert nothing.cost_per_million_prompt_tokens is None


def reply(*rows: UsageRow, currency: str = "EUR") -> UsageReply:
    return UsageReply(1, 1_795_608_000, 1_795_651_200, rows, ROW, HOST, 3, currency)


def test_the_table_has_a_total_and_what_idleness_cost(capsys: pytest.CaptureFixture[str]) -> None:
    _table(report_of(reply(ROW, ROW), "model"))
    text = capsys.readouterr().out
    assert "from 2026-11-25 12:00 to 2026-11-26 00:00 UTC" in text
    assert text.count("3,000,000") == 3
    assert "total" in text
    assert "it cost 4.00 EUR, of which 3.00 (75%) went into no request" in text
    assert "3 more" in text


def test_the_table_tells_what_was_thought_where_something_was(capsys: pytest.CaptureFixture[str]) -> None:
    thinks = UsageRow("m", 10, 1, 30, 10, 500, 100.0, 40.0, 2.0, reasoning_tokens=123)
    assert line(thinks, priced=True).reasoning_tokens == 123
    for grouping in ("model", "request"):
        _table(report_of(reply(thinks), grouping))  # type: ignore[arg-type]
        text = capsys.readouterr().out
        assert "of it thought" in text
        assert "123" in text
    _table(report_of(reply(ROW), "model"))
    assert "thought" not in capsys.readouterr().out


def test_the_table_without_prices_says_how_to_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    _table(report_of(reply(currency=""), "tenant"))
    text = capsys.readouterr().out
    assert "no request has ended" in text
    assert "price_per_hour" in text


def test_names_from_outside_are_no_formulas_and_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    evil = UsageRow('=HYPERLINK("x")\x1b[31m', 1, 0, 1, 0, 1, 1.0, 0.0, 0.0)
    _csv(report_of(reply(evil), "tenant"))
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("tenant,requests,failed")
    assert rows[1].startswith("\"'=HYPERLINK")
    _table(report_of(reply(evil), "tenant"))
    assert "\x1b[31m" not in capsys.readouterr().out


def test_calls_say_how_many_samples_they_had_and_what_these_might_draw(capsys: pytest.CaptureFixture[str]) -> None:
    call = UsageRow("00ab", 4, 0, 100, 0, 1_234, 1.0, 0.5, 0.0, "m", "length", allowed=5_678)
    _table(report_of(reply(call, currency=""), "call"))
    text = capsys.readouterr().out
    assert "of at most" in text
    assert "5,678" in text
    assert "samples" in text
    assert report_of(reply(call), "call").rows[0].max_total_tokens == 5_678
