"""Models that other servers answer with: the side of a router that does I/O. Which one is asked, `ingress.router` says.

asking       what of a call can be said to an upstream, and needs which capability; pure
calls        tool calls, as they are streamed; pure
openai, anthropic
             the two languages: a call as a body, events as pieces of an answer; pure
sse          server-sent events from bytes, bounded; pure
refusals     what an upstream's refusal is to our client, and whether another should be asked; pure
usage        the account of an answer, checked against what was said and heard; pure
door         one upstream: its connections, its circuit, its calls under way
answer       one answer while it comes
upstreams    all of them, as the pipeline sees them
"""
