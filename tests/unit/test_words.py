"""Words in any script: marks stay with their letters, scripts without spaces are cut, plain texts go the short way."""

import re
import unicodedata

import numpy as np
import pytest

import searchtune.words
from searchtune.data.coverage import coverage
from searchtune.data.grounding import sentences
from searchtune.data.near import near_pairs
from searchtune.metrics.answer_support import sentences as said
from searchtune.metrics.answer_support import word_support
from searchtune.metrics.text_overlap import rouge_l, token_f1
from searchtune.retrieval.bm25 import BM25Index
from searchtune.types import NO_DOC
from searchtune.words import count_words, find_terms, find_words, has_search_word, search_words

HAN = "数据检索𠀀𠀁猫"
PLAIN = ["Don't stop: life-quality of 3.5 µg_x!", "Müller’s “naïve” Œuvre — Ἀθήνα", "ПРИВЕТ мир", "", "?!", "α-β ½ x²"]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_texts_have_the_words_that_they_always_had(text):
    assert find_words(text) == find_terms(text) == re.findall(r"\w+", text)
    assert find_words(text, underscore=False) == re.findall(r"[^\W_]+", text)
    assert search_words(text) == re.findall(r"\b\w\w+\b", text.lower())
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("नमस्ते, दुनिया!", ["नमस्ते", "दुनिया"]),  # vowel signs and the virama
        ("كِتَابٌ جديد", ["كِتَابٌ", "جديد"]),
        ("שָׁלוֹם_עולם", ["שָׁלוֹם_עולם"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("cafe\u0301", ["café"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("한국어 검색", ["한국어", "검색"]),
        (unicodedata.normalize("NFD", "한국어"), ["한국어"]),
        ("Ｔｅｓｔ１ x", ["Test1", "x"]),
        ("I ❤\ufe0f it", ["I", "it"]),
    ],
)
def test_marks_stay_with_their_letters(text, words):
    assert find_words(text) == find_terms(text) == words


@pytest.mark.parametrize(
    ("text", "words", "terms"),
    [
        ("数据检索。API检索", ["数", "据", "检", "索", "API", "检", "索"], ["数据", "据检", "检索", "API", "检索"]),
        ("ｶﾞｲﾄﾞ", ["ガ", "イ", "ド"], ["ガイ", "イド"]),
        ("เป็น น้ำ", ["เ", "ป็", "น", "น้", "ำ"], ["เป็", "ป็น", "น้ำ"]),
        ("ភាសា", ["ភា", "សា"], ["ភាសា"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"], ["မြန်", "န်မာ"]),
        ("𠀀𠀁 猫", ["𠀀", "𠀁", "猫"], ["𠀀𠀁", "猫"]),
    ],
)
def test_scripts_without_spaces_are_cut(text, words, terms):
    assert find_words(text) == words
    assert find_terms(text) == terms
    assert set(search_words(text)) == {word.lower() for word in terms} | {word for word in words if word in HAN}
    assert count_words(text) == len(words)


def test_plain_texts_need_no_tables(monkeypatch):
    monkeypatch.setattr(searchtune.words, "_patterns", lambda: pytest.fail("made for a plain text"))
    for text in PLAIN:
        assert find_words(text) or not re.search(r"\w", text)


@pytest.mark.parametrize(
    ("documents", "query"),
    [
        (["今天天气很好", "信息检索系统的评测方法", "猫喜欢鱼"], "检索系统"),
        (["天気がいい", "情報検索の評価", "猫が好き"], "検索"),
        (["วันนี้อากาศดี", "ระบบค้นหาข้อมูล", "แมวชอบปลา"], "ค้นหา"),
        (["मौसम अच्छा है", "सूचना की खोज", "बिल्ली"], "खोज"),
        (["x", "狗和猫", "鱼"], "猫"),
    ],
)
def test_bm25_finds_words_of_any_script(documents, query):
    run = BM25Index(documents).search(np.array([0]), [query], 3)
    assert run.docs[0, 0] == 1
    assert (run.docs[0] != NO_DOC).sum() == 1


def test_bm25_counts_documents_without_a_word():
    assert BM25Index(["🙂🙂", "", "a", "tide"]).wordless == 2


def test_words_that_differ_in_a_vowel_sign_are_no_copies():
    assert near_pairs(["की कमी"], ["का कमी"]) == []
    assert [pair.similarity for pair in near_pairs(["की कमी"], ["की  कमी!"])] == [1.0]
    (pair,) = near_pairs(["信息检索系统的评测方法综述"], ["信息检索系统的评测方法综述。"])
    assert pair.similarity == 1.0
    assert near_pairs(["信息检索系统的评测方法"], ["今天天气很好我们出去玩"], 0.1) == []


def test_overlaps_of_answers_in_other_scripts():
    assert 0 < rouge_l("今天天气很好", "今天天气不好") < 1
    assert token_f1("今天天气很好。", "今天天气很好") == 1.0
    assert 0 < token_f1("今天天气很好", "今天下雨") < 1
    assert word_support("检索系统", ["信息检索系统的评测"]) == 1.0
    assert word_support("今天下雨", ["信息检索系统的评测"]) == 0.0
    assert coverage("检索系统", ["信息检索系统的评测"])[0] == 1.0


def test_marks_that_end_a_sentence_without_a_space():
    assert [(one.text, one.cites) for one in said("水は青い。[2]空も青い。")] == [
        ("水は青い。", (2,)),
        ("空も青い。", ()),
    ]
    assert sentences("水は青い。空も青い。") == ["水は青い。", "空も青い。"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b _",
        "a bc",
        "...",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
        "\u6570",
        "\u00e9t\u00e9",
        "\u0915\u0940",
        "I \u2026",
    ],
)
def test_whether_there_is_a_word_is_what_the_words_say(text):
    assert has_search_word(text) == bool(search_words(text))
