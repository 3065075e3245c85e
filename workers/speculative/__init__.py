"""Speculative decoding: several tokens of a row in one step, the ones to come guessed beforehand.

| module      | noun                                                                     |
|-------------|--------------------------------------------------------------------------|
| `interface` | what proposes drafts                                                     |
| `lookup`    | the sequence itself does: what followed the same tokens before           |
| `rows`      | a plan's rows with drafts behind them                                    |
| `draft`     | a smaller model does                                                     |
| `heads`, `head_drafts` | a head on the model's hidden states does                      |
| `cells`, `guess` | where these keep KV, and what they draw from their logits           |
| `vocabulary`| whether two models speak of the same tokens                              |
| `first_rank`| drafts that only one rank of a group can make                            |
| `choice`    | which of those a model has                                               |
| `verify`    | drawing along a row, as long as what was drawn is what was drafted       |

How many drafts a row may have is the scheduler's decision (`scheduler/core/speculation.py`). docs/speculation.md says
why nothing that is drawn depends on what is drafted.
"""
