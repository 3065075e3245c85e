"""Why one request took as long as it did: its events and the steps of its model in, an account of its time out. Pure.

| module    | does                                                                        |
|-----------|-----------------------------------------------------------------------------|
| `walk`    | events to spans: none overlap, and together they are all of its time         |
| `prefill` | the steps that its chunks were in, and those that it waited for              |
| `gaps`    | pauses between tokens, and what each was spent on                            |
| `words`   | causes as sentences; the verdict                                             |
"""

from metrics.core.explain.walk import explain, has_ended
from metrics.core.explain.words import verdict

__all__ = ["explain", "has_ended", "verdict"]
