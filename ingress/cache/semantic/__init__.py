"""Answers to questions that mean the same: everything of a conversation equal but its last turn, and that alike enough.

| module        | holds                                                                                     |
|---------------|-------------------------------------------------------------------------------------------|
| `eligible`    | which questions may be matched at all, and what the rest of their conversation is         |
| `static`      | vectors of words, averaged: the gate that most questions stop at                          |
| `words`       | a question as words; `features`: how two of them differ                                   |
| `verifier`    | the judgement over these differences and the cosine of the encoder's vectors              |
| `index`       | the nearest of a partition's questions                                                    |
| `lookup`      | all of it, for one question                                                               |
| `calibration` | what was seen in shadow and audits, the threshold that follows, and when to stop          |
| `prepare`     | makes the vectors of `static` from an encoder; a program of its own, the only user of torch |

All but `static`'s file, `lookup` and `prepare` are pure.
"""
