"""Guards: detectors that look at what goes in and what comes out, on every surface and over both doors.

    look.py       a guard: detector, action, policy; how a look is taken, and what a late or broken one counts as
    registry.py   which detector each `kind` of `[[guard]]` is
    scan.py       spans in text that is still coming, the same however it is cut; pii, secrets, invisible are its kinds
    injection, phrases, toxicity, grounding, names, judge: the other detectors
    channel.py    one text of an answer through all guards: what may go out by now. Pure
    guarded.py    a stream behind its guards
    texts.py      where a request has text
    stage.py      the guards in the life of a call

docs/guards.md says what they find, with figures.
"""
