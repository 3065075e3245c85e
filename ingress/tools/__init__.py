"""Tool calling: what may be called, how models write calls, and calls told apart from text while they are written.

| module | what it is |
|---|---|
| `offered.py` | the tools of a request and what it says about calling them |
| `styles.py` | how families of models write calls, which a template is of, and the grammar of each |
| `parser.py` | the text of an answer to text and calls, character by character |

Answers with tools always follow a grammar, so a call that begins is one, with a name that exists and arguments that
validate: models are not trusted with syntax.
"""
