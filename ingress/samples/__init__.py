"""Several samples for one prompt: what is asked, how many tokens all of them may have, which of them are the answer.

| module     | noun                                                                                                  |
|------------|-------------------------------------------------------------------------------------------------------|
| `asked`    | what a call asks of its samples; refusals by name, and the configured limits. Pure                    |
| `pool`     | the tokens that all samples of a call may draw together (`max_total_tokens`). Pure                    |
| `best`     | the best of the samples of a prompt, and their account (`best_of`). Pure                              |
| `scorers`  | what makes one better than another: its log probabilities, a served encoder, a served model as a judge |
| `choosing` | streams of samples in, answers out                                                                    |
| `beams`    | beam search as a state machine: candidates in, beams to extend out. Pure                              |
| `extending`| one beam by one token: what a `Generation` is to a conversation                                       |
| `searching`| a search under way: extensions go to the scheduler, answers come out as streams                       |

A sample is a request of its own, with an id, a slot and a row in the ledger. What they share, they share in the
scheduler: the prompt is computed by the first, the others find its pages. Of a beam search, the extensions are requests
too, but it is accounted for as one.
"""
