"""The rewriter's prompt: what it holds, what it leaves out first, and what is read from replies."""

import pytest

from searchtune.errors import ConfigError
from searchtune.prompts.chat import Passage
from searchtune.prompts.rewrite import VERSIONS, RewritePrompt, parse_rewrite
from searchtune.types import Turn

HISTORY = (
    ("title", "Comets"),
    ("user", "What are comets made of?"),
    ("assistant", "Ice, dust\nand  rock."),
    ("user", "Which can be seen?"),
)


def asked(turn, **options):
    return RewritePrompt(**options).conversation(turn)[1].content


def test_the_prompt_of_a_turn():
    system, user = RewritePrompt().conversation(Turn("When does\nit come back?", HISTORY))
    assert (system.role, user.role) == ("system", "user")
    assert user.content == (
        "Topic: Comets\nQ: What are comets made of?\nA: Ice, dust and rock.\nQ: Which can be seen?\n"
        "Rewrite: When does it come back?"
    )
    assert [part.text for part in user.parts if isinstance(part, Passage)] == [
        "Comets", "What are comets made of?", "Ice, dust and rock.", "Which can be seen?",
    ]  # fmt: skip


def test_a_question_without_history_is_the_utterance_alone():
    assert asked(Turn("kettle descale")) == "Rewrite: kettle descale"
    assert asked(Turn("kettle", (("user", "  "), ("title", "")))) == "Rewrite: kettle"


def test_styles_differ_by_their_instruction_alone():
    turn = Turn("and then?", HISTORY)
    said = {style: RewritePrompt(style).conversation(turn) for style in VERSIONS}
    assert len({system.content for system, _ in said.values()}) == len(VERSIONS)
    assert len({user.content for _, user in said.values()}) == 1
    with pytest.raises(ConfigError, match="no prompt style 'sort'.*short"):
        RewritePrompt("sort")
    with pytest.raises(ConfigError, match="history_words is -1"):
        RewritePrompt(history_words=-1)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"history_turns": 1}, ["Comets", "Which can be seen?"]),
        ({"history_turns": 0}, ["Comets"]),
        ({"history_words": 0}, ["Comets"]),
        ({"history_words": 9}, ["Comets", "Ice, dust and rock.", "Which can be seen?"]),
        ({"history_words": 7}, ["Comets", "Which can be seen?"]),
        ({"history_words": 2}, ["Comets", "Which can"]),
        ({"reply_words": 2}, ["Comets", "What are comets made of?", "Ice, dust", "Which can be seen?"]),
        ({"reply_words": 0}, ["Comets", "What are comets made of?", "Which can be seen?"]),
    ],
)
def test_the_oldest_turns_go_first(options, kept):
    turn, prompt = Turn("When?", HISTORY), RewritePrompt(**options)
    user = prompt.conversation(turn)[1]
    assert [part.text for part in user.parts if isinstance(part, Passage)] == kept
    assert user.content.endswith("Rewrite: When?")
    assert prompt.shortened(turn)
    assert not RewritePrompt().shortened(turn)


def test_the_identity_names_all_that_decides_a_prompt():
    assert RewritePrompt(reply_words=3).identity() == {
        "role": "rewrite", "style": "short", "version": VERSIONS["short"],
        "history_turns": 12, "history_words": 160, "reply_words": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "query"),
    [
        ("When does Halley's comet come back?", "When does Halley's comet come back?"),
        ("  Rewrite: halley return\nNote: I did it", "halley return"),
        ('Rewritten question: "What is that?"', "What is that?"),
        ("Here is the rewritten question:\n\n'Who won?'", "Who won?"),
        ("Search query: tides", "tides"),
        ("\u201cWho won?\u201d", "Who won?"),
        ('"Dune" and "Emma"', '"Dune" and "Emma"'),
        ("Question marks: how are they used?", "Question marks: how are they used?"),
        ("Final Fantasy: who wrote it?", "Final Fantasy: who wrote it?"),
        ("Rewrite:", "as said"),
        ('""', "as said"),
        ("", "as said"),
        (" \n \t\n", "as said"),
        ("?!\n...", "as said"),
        ("\u4e00\u4e8c", "\u4e00\u4e8c"),
    ],
)
def test_replies_are_read(reply, query):
    assert parse_rewrite(reply, " as\nsaid ") == query
