"""What a model wrote without what it wrote to itself before it came to the point."""

from __future__ import annotations

import re
from typing import NamedTuple

_OPEN = (
    r"<\|?(?:think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis|seed:think"
    r"|start_thinking|begin_of_thought)\|?>|\[think\]|\u25c1think\u25b7"
)
_CLOSE = (
    r"</(?:think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis|seed:think)>|\[/think\]"
    r"|<\|(?:end_thinking|end_of_thought)\|>|\u25c1/think\u25b7"
)
_THOUGHT = re.compile(rf"(?:{_OPEN})(?:(?!{_OPEN}).)*?(?:{_CLOSE})", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(_OPEN, re.IGNORECASE)
_CLOSED = re.compile(_CLOSE, re.IGNORECASE)
_FINAL = re.compile(
    r"<\|channel\|>\s*final[^<]*<\|message\|>|<\|start\|>assistant\s*final[^<]*<\|message\|>"
    r"|<\|start_response\|>|<\|begin_of_solution\|>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>", re.IGNORECASE)
_CONTROL_TOKENS = re.compile(
    r"<\|(?:end|return|call|start|message|end_response|end_of_solution|eot_id|im_end|endoftext|end_of_text)\|>",
    re.IGNORECASE,
)


class ReplyText(NamedTuple):
    """The part of a reply that is meant for the reader, or why there is none: one of the two is None."""

    text: str | None
    reason: str | None


def spoken(text: str) -> ReplyText:
    """A reply without its reasoning: parts in `<think>` and the like, and all channels but the last.

    Reasoning whose beginning the chat template wrote ends with its closing tag. A reply that ends within its reasoning,
    or holds nothing else, says nothing.

    >>> spoken("<think>1? or 2</think> 2").text
    '2'
    >>> spoken("<think>so").reason
    'the reply ends within its reasoning'
    """
    finals = list(_FINAL.finditer(text))
    if not finals and _CHANNEL.search(text):
        return ReplyText(None, "the reply ends within its reasoning")
    rest = text[finals[-1].end() :] if finals else text
    thought = bool(finals)
    while (shorter := _THOUGHT.sub(" ", rest)) != rest:
        rest, thought = shorter, True
    closings = list(_CLOSED.finditer(rest))
    if closings:
        rest, thought = rest[closings[-1].end() :], True
    if _OPENED.search(rest):
        return ReplyText(None, "the reply ends within its reasoning")
    rest = _CONTROL_TOKENS.sub(" ", rest) if "<|" in rest else rest
    if not rest.strip():
        return ReplyText(None, "the reply is nothing but reasoning" if thought else "empty reply")
    return ReplyText(rest.strip(), None)
