"""What one reply of a remote model says: its text, or the label that it is, or why there is neither."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from searchtune.models.backends import Source
from searchtune.prompts.replies import MIN_LABEL_SHARE, parse_label
from searchtune.prompts.reply_text import ReplyText, spoken
from searchtune.types import FloatArray64

_BLANK = " \t\r\n\u2581\u0120\u010a"
"""White space around a token, as it is and as tokenizers write it."""
_ABOVE = 1e-4
"""By how much a rounded log-probability may exceed 0."""
_SHOWN = 5
_CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
_WHOLE = ("", "stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete")
_FILTERED = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "refusal")
"""How servers name the end of a reply."""
_THOUGHTS = ("reasoning_content", "reasoning")
"""Fields in which servers put what a model wrote to itself."""


class ReadRow(NamedTuple):
    """A distribution over labels, or why there is none: one of `shares` and `reason` is None."""

    shares: FloatArray64 | None
    outside: float
    """The share of all other tokens; NaN where that is not known."""
    reason: str | None
    source: Source | None = None


def read_text(choice: Mapping[str, Any]) -> ReplyText:
    """The text of a reply that came to its own end, without its reasoning; or why there is none."""
    if (ended := _ended(choice)) is not None:
        return ReplyText(None, ended)
    if _finish(choice) in _CUT:
        return ReplyText(None, "the reply was cut off: it is longer than it may be")
    text = _message(choice).get("content")
    if not isinstance(text, str):
        return ReplyText(None, "the reply is nothing but reasoning" if _thoughts(choice) else "the answer has no text")
    said = spoken(text)
    return ReplyText(None, "the reply is nothing but reasoning") if said.text is None and _thoughts(choice) else said


def read_label(choice: Mapping[str, Any], labels: Sequence[str]) -> ReadRow:
    """The distribution over labels that a reply begins with, or all of it on the one that its words say.

    Probabilities count where the labels together hold at least `MIN_LABEL_SHARE`, and where the words do not say
    something else; not where a thought comes first. Words count where the reply came to its own end.
    """
    if (ended := _ended(choice)) is not None:
        return ReadRow(None, math.nan, ended)
    likeliest, wrong = _likeliest(choice)
    if wrong is not None:
        return ReadRow(None, math.nan, wrong)
    text = _message(choice).get("content")
    text = text if isinstance(text, str) else ""
    if _thoughts(choice) or not text.strip() or spoken(text).text != text.strip():
        likeliest = []
    shares = _label_shares(likeliest, labels)
    held = float(shares.sum())
    outside = max(0.0, 1 - held) if likeliest else math.nan
    if held >= MIN_LABEL_SHARE:
        said, peak = parse_label(text, labels), labels[int(shares.argmax())]
        if said.other or said.label not in (None, peak):
            return ReadRow(None, outside, said.reason or f"begins with {peak!r} and says {said.label!r}: {text[:60]!r}")
        return ReadRow(shares / held, outside, None, "probabilities")
    plain, reason = read_text(choice)
    label = None if plain is None else parse_label(plain, labels)
    if label is not None and label.label is not None:
        row = np.zeros(len(labels))
        row[labels.index(label.label)] = 1.0
        return ReadRow(row, math.nan, None, "text")
    reason = reason if label is None else label.reason
    first = ", ".join(repr(token) for token, _ in likeliest[:_SHOWN])
    before = f"the labels hold {held:.1%} of the first token ({first}); " if likeliest else ""
    return ReadRow(None, outside, f"{before}{reason}")


def _ended(choice: Mapping[str, Any]) -> str | None:
    """Why a reply is none, by how it ended; None where it may be one."""
    finish, message = _finish(choice), _message(choice)
    if finish in _FILTERED or message.get("refusal"):
        return f"refused: {str(message.get('refusal') or 'content filter')[:200]}"
    if finish in ("tool_calls", "function_call") or message.get("tool_calls") or message.get("function_call"):
        return "the reply is a call of a tool"
    return None if finish in _CUT or finish in _WHOLE else f"the reply ended by {finish[:40]!r}"


def _finish(choice: Mapping[str, Any]) -> str:
    return str(choice.get("finish_reason") or "").casefold()


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _thoughts(choice: Mapping[str, Any]) -> bool:
    """Whether the model wrote to itself first, in a field of its own."""
    return any(_message(choice).get(name) for name in _THOUGHTS)


def _likeliest(choice: Mapping[str, Any]) -> tuple[list[tuple[str, float]], str | None]:
    """The alternatives of the first token that is no white space, with their probabilities; empty where none are given.

    The second is why they are none: a probability above 1, or one that is no number.
    """
    try:
        content = choice["logprobs"]["content"]
        first = next((one for one in content if str(one.get("token", "x")).strip(_BLANK)), content[0])
        found = [(str(entry["token"]), float(entry["logprob"])) for entry in first["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        return [], None
    for token, value in found:
        if not value <= _ABOVE:  # NaN is not
            return [], f"the log-probability of {token!r} is {value:g}, which is no probability"
    shares = [(token, math.exp(min(0.0, value))) for token, value in found]
    if (total := sum(share for _, share in shares)) > 1 + _ABOVE * len(shares):
        return [], f"the probabilities of the first token sum to {total:.3g}"
    return shares, None


def _label_shares(likeliest: Sequence[tuple[str, float]], labels: Sequence[str]) -> FloatArray64:
    """The share of each label, whatever its case and the white space around it. Shape: (labels,)."""
    folded = [_folded(label) for label in labels]
    known = {**dict(zip(folded, range(len(labels)), strict=True)), **{label: i for i, label in enumerate(labels)}}
    shares = np.zeros(len(labels))
    for token, share in likeliest:
        place = known.get(token.strip(_BLANK), known.get(_folded(token)))
        if place is not None:
            shares[place] += share
    return shares


def _folded(token: str) -> str:
    return unicodedata.normalize("NFKC", token.strip(_BLANK)).casefold()
