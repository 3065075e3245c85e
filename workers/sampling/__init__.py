"""From logits to tokens: adjust, log probabilities, truncate, draw. Rows are independent of each other.

`table` keeps the parameters by slot, `adjust` applies bias, penalties and suppression, `truncate` finds the
candidates that top-k, top-p and min-p leave, `philox` makes the noise, `logprobs` reads off log probabilities and
`draw` puts them together. Nothing here knows of plans, pages or messages other than `Sampling`.
"""
