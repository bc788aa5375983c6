"""A remote model against a server in a thread: what is asked again, what ends all, what is never told."""

import json
import logging
import math
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from searchtune.errors import ConfigError, MissingExtraError
from searchtune.models import endpoint as endpoint_module
from searchtune.models.endpoint import Endpoint, RemoteError
from searchtune.models.generation import Sampling
from searchtune.models.remote import Budget, BudgetError, RemoteBackend
from searchtune.prompts.chat import Message, Passage

pytest.importorskip("httpx")
KEY = "sk-very-secret-0123456789"
SAMPLING = Sampling(max_new_tokens=5)


def ask(text):
    return (Message("system", ("Judge.",)), Message("user", ("Query. ", Passage(text))))


def reply(text="fine", *, tokens=(10, 2), model="m", finish="stop", **choice):
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    message = {"role": "assistant", "content": text}
    return {"model": model, "usage": usage, "choices": [{"message": message, "finish_reason": finish, **choice}]}


def first_token(**shares):
    top = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    return {"logprobs": {"content": [{"token": top[0]["token"], "top_logprobs": top}]}}


class Server:
    """Answers what `script(request, number)` says: a dict, or (status, headers, bytes)."""

    def __init__(self):
        self.script = lambda request, number: reply()
        self.requests, self.headers, self.paths = [], [], []
        self.running = self.most = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    number = len(outer.requests)
                    outer.requests.append(request)
                    outer.headers.append(dict(self.headers))
                    outer.paths.append(self.path)
                    outer.running += 1
                    outer.most = max(outer.most, outer.running)
                found = outer.script(request, number)
                with outer.lock:
                    outer.running -= 1
                status, headers, body = found if isinstance(found, tuple) else (200, {}, json.dumps(found).encode())
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Server()
    yield found
    found.close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def connect(server, waits):
    opened = []

    def connected(*, budget=None, label_tokens=64, **options):
        settings = {"url": server.url, "model": "m", "concurrency": 2, "attempts": 4, "timeout": 5.0, **options}
        backend = RemoteBackend(Endpoint(**settings), budget=budget, label_tokens=label_tokens, wait=waits.append)
        opened.append(backend)
        return backend

    yield connected
    for backend in opened:
        backend.close()


def complete(backend, count=1, sampling=SAMPLING):
    return list(backend.complete([ask(f"d{i}") for i in range(count)], sampling))


def test_replies_come_in_order_with_their_tokens(server, connect):
    def script(request, number):
        text = request["messages"][1]["content"]
        time.sleep(0.02 if text.endswith(("0", "3")) else 0)
        return reply(f"{text} ünï😀", tokens=(7, 3))

    server.script = script
    backend = connect(concurrency=4)
    found = complete(backend, 30)
    assert [one.conversation for one in found] == list(range(30))
    assert [one.text for one in found] == [f"Query. d{i} ünï😀" for i in range(30)]
    assert [one.finish for one in found[:3]] == ["stop", "stop", "stop"]
    assert (found[0].prompt_tokens, found[0].completion_tokens, found[0].reason) == (7, 3, None)
    assert found[0].seconds >= 0.02
    assert (backend.prompt_tokens, backend.completion_tokens) == (210, 90)
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Judge."}
    assert server.paths[0] == "/v1/chat/completions"
    assert not any("Authorization" in headers for headers in server.headers)


def test_sampling_is_sent_and_samples_have_seeds_of_their_own(server, connect):
    server.script = lambda request, number: reply(str(request["seed"]))
    sampling = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, samples=2, seed=40, stop=("END",))
    found = complete(connect(extra={"max_tokens": 11, "x": {"y": 1}}), 2, sampling)
    assert [(one.conversation, one.sample, one.text) for one in found] == [
        (0, 0, "40"),
        (0, 1, "41"),
        (1, 0, "40"),
        (1, 1, "41"),
    ]
    sent = server.requests[0]
    assert (sent["temperature"], sent["top_p"], sent["stop"], sent["model"]) == (0.5, 0.9, ["END"], "m")
    assert (sent["max_tokens"], sent["x"]) == (11, {"y": 1})
    complete(connect(), 1)
    assert "top_p" not in server.requests[-1] and "stop" not in server.requests[-1]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_questions_under_way_are_bounded(server, connect, concurrency):
    def script(request, number):
        time.sleep(0.01)
        return reply()

    server.script = script
    assert len(complete(connect(concurrency=concurrency), 20)) == 20
    assert server.most == concurrency


def test_answers_stream_and_nothing_runs_far_ahead(server, connect):
    held = threading.Event()

    def script(request, number):
        if request["messages"][1]["content"].endswith("d1"):
            held.wait(5)
        return reply()

    server.script = script
    stream = connect(concurrency=2).complete([ask(f"d{i}") for i in range(100)], SAMPLING)
    assert next(stream).conversation == 0
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        assert len(server.requests) <= 2 * 4 + 1
        time.sleep(0.02)
    held.set()
    assert next(stream).conversation == 1
    stream.close()
    time.sleep(0.05)
    assert len(server.requests) < 30  # nobody listens any more


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_asked_again(server, connect, waits, status):
    server.script = lambda request, number: (status, {}, b"busy") if number < 3 else reply()
    (found,) = complete(connect())
    assert found.text == "fine"
    assert len(server.requests) == 4
    assert len(waits) == 3
    for wait, full in zip(waits, (0.5, 1.0, 2.0), strict=True):
        assert full / 2 <= wait <= full


def test_retry_after_is_honoured(server, connect, waits):
    asked = ["7", formatdate(time.time() + 30, usegmt=True), "nonsense", "1e9", formatdate(0, usegmt=True)]
    server.script = lambda request, number: (429, {"Retry-After": asked[number]}, b"") if number < 5 else reply()
    (found,) = complete(connect(attempts=6))
    assert found.text == "fine"
    assert 7 <= waits[0] <= 8
    assert 28 <= waits[1] <= 31
    assert 1 <= waits[2] <= 2  # the client's own
    assert 600 <= waits[3] <= 601
    assert 0 <= waits[4] <= 1


def test_a_stalled_and_a_broken_connection_are_asked_again(server, connect, waits):
    def script(request, number):
        if number == 0:
            time.sleep(0.4)
        return (200, {"Content-Length": "999"}, b"") if number == 1 else reply()

    server.script = script
    (found,) = complete(connect(timeout=0.15))
    assert found.text == "fine" and len(waits) == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"choices": [', b"[1]", b"\xff\xfe"])
def test_answers_that_are_no_json_object(server, connect, waits, body):
    server.script = lambda request, number: (200, {}, body) if number == 0 else reply()
    assert complete(connect())[0].text == "fine"
    assert len(waits) == 1


@pytest.mark.parametrize("answer, reason", [
    ({"model": "m", "choices": []}, "no choices"),
    ({"model": "m"}, "no choices"),
    ({"model": "m", "choices": [None]}, "no choices"),
    (reply(None), "no text"),
    (reply(["x"]), "no text"),
    ({"model": "m", "choices": [{"message": None}]}, "no text"),
    (reply("x", finish="content_filter"), "refused: content filter"),
    ({"model": "m", "choices": [{"message": {"content": None, "refusal": "I won't"}}]}, "refused: I won't"),
])  # fmt: skip
def test_replies_without_text_have_a_reason(server, connect, answer, reason):
    server.script = lambda request, number: answer
    backend = connect()
    (found,) = complete(backend)
    assert found.text is None and found.finish is None and reason in found.reason
    readings = backend.read_labels([ask("d")], ["0", "1"])
    assert np.isnan(readings.probabilities).all() and reason in readings.reasons[0]


@pytest.mark.parametrize("status, body, words", [
    (401, b'{"error": {"message": "bad key"}}', r"status 401: bad key .*environment variable"),
    (404, b'{"message": "The model `m` does not exist."}', r"404: The model `m` does not exist. .*GET http://.*/v1/models"),
    (400, b'{"error": {"message": "gpt-x is not a valid model ID"}}', r"400: gpt-x is not a valid model ID \(.*/models"),
    (429, b'{"error": {"message": "no money", "code": "insufficient_quota"}}', "429: no money"),
    (418, "Teekännchen".encode(), "418: Teekännchen"),
])  # fmt: skip
def test_errors_that_stay_end_all_at_once(server, connect, waits, status, body, words):
    server.script = lambda request, number: (status, {}, body) if number >= 3 else reply()
    stream = connect(concurrency=1).complete([ask(f"d{i}") for i in range(50)], SAMPLING)
    found = []
    with pytest.raises(RemoteError, match=words) as caught:
        for one in stream:
            found.append(one.conversation)
    assert found == [0, 1, 2]
    assert "3 of 50 questions were answered before" in str(caught.value)
    assert not waits and len(server.requests) == 4


def test_an_error_is_not_held_back_by_a_stalled_question(server, connect):
    held = threading.Event()

    def script(request, number):
        if request["messages"][1]["content"].endswith("d0"):
            held.wait(5)
            return reply()
        return (401, {}, b"no")

    server.script = script
    began = time.monotonic()
    with pytest.raises(RemoteError, match="0 of 9 questions"):
        complete(connect(), 9)
    assert time.monotonic() - began < 2
    held.set()


def test_a_poisonous_question_ends_no_job_but_a_dead_endpoint_does(server, connect):
    server.script = lambda request, number: (500, {}, b"oops") if "d2" in str(request) else reply()
    found = complete(connect(attempts=2), 5)
    assert [one.text for one in found] == ["fine", "fine", None, "fine", "fine"]
    assert "no answer in 2 attempts; the last: status 500: oops" in found[2].reason
    server.script = lambda request, number: (500, {}, b"dead")
    with pytest.raises(RemoteError, match="dead; see that it runs, and run again; 0 of 5"):
        complete(connect(attempts=2), 5)
    server.script = lambda request, number: (500, {}, b"dead") if "d0" not in str(request) else reply()
    stream = connect(attempts=2, concurrency=1).complete([ask(f"d{i}") for i in range(50)], SAMPLING)
    with pytest.raises(RemoteError, match="1 of 50"):
        list(stream)


def test_nobody_there(connect):
    with pytest.raises(RemoteError, match="no answer in 4 attempts; the last: .*refused"):
        complete(connect(url="http://127.0.0.1:9/v1"))


def test_an_answer_too_large_to_be_one(server, connect, monkeypatch):
    monkeypatch.setattr(endpoint_module, "_MAX_BODY", 1 << 20)
    server.script = lambda request, number: reply("x" * (1 << 20))
    with pytest.raises(RemoteError, match="more than 1 MiB"):
        complete(connect())
    server.script = lambda request, number: reply("x" * 1000_000)
    assert len(complete(connect())[0].text) == 1000_000


def test_answers_of_two_models_are_not_mixed(server, connect):
    server.script = lambda request, number: reply(model="m-2024" if number < 2 else "m-2025")
    with pytest.raises(RemoteError, match="'m-2024' answered first and now 'm-2025'"):
        complete(connect(concurrency=1), 5)


def test_redirects_are_not_followed(server, connect, monkeypatch):
    monkeypatch.setenv("OUR_KEY", KEY)
    other = Server()
    server.script = lambda request, number: (307, {"Location": f"{other.url}/chat/completions"}, b"")
    with pytest.raises(RemoteError, match=rf"sends on to {other.url}.*give the right address"):
        complete(connect(key_variable="OUR_KEY"))
    assert other.requests == []
    other.close()


def test_the_key_is_sent_and_never_told(server, connect, monkeypatch, caplog):
    monkeypatch.setenv("OUR_KEY", f" {KEY}\n")
    for name in ("searchtune", "httpx"):
        caplog.set_level(logging.DEBUG, logger=name)
    backend = connect(key_variable="OUR_KEY", attempts=2)
    told = []
    for status, headers in ((401, {}), (500, {}), (302, {"Location": f"http://x/?{KEY}"}), (200, {})):
        server.script = lambda request, number: (status, headers, f"Incorrect key {KEY} given".encode())  # noqa: B023
        try:
            told += [one.reason for one in complete(backend)]
        except RemoteError as error:
            told.append(str(error))
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "Incorrect key *** given" in told[0]
    everything = [
        *told,
        caplog.text,
        repr(backend),
        repr(backend.endpoint),
        repr(vars(backend)),
        repr(backend.identity),
    ]
    assert not any(KEY in text for text in everything)
    assert "attempt 2 in" in caplog.text


@pytest.mark.parametrize(
    "written", ["sk/ab+12345=", r"sk\/ab+12345=", "sk%2Fab%2B12345%3D", "sk%2fab+12345=", r"sk\u002fab+12345="]
)
def test_the_key_is_told_in_no_way_of_writing(server, connect, monkeypatch, written):
    monkeypatch.setenv("OUR_KEY", "sk/ab+12345=")
    server.script = lambda request, number: (403, {}, f"<p>{written}</p>".encode())
    with pytest.raises(RemoteError, match=r"<p>\*\*\*</p>"):
        complete(connect(key_variable="OUR_KEY"))


def test_a_budget_of_tokens_stops_the_job_and_hands_over_what_is_paid(server, connect):
    server.script = lambda request, number: reply(tokens=(10, 2))
    backend = connect(concurrency=3, budget=Budget(max_tokens=60))
    found = []
    with pytest.raises(
        BudgetError, match=r"budget of 60 tokens is spent \((\d+) used\); (\d+) of 100 questions"
    ) as caught:
        for one in backend.complete([ask(f"d{i}") for i in range(100)], SAMPLING):
            found.append(one)
    assert len(found) == len(server.requests)
    assert 5 <= len(found) <= 5 + 2  # those under way came on top
    assert f"{len(found)} of 100" in str(caught.value)
    with pytest.raises(BudgetError, match="0 of 1"):
        complete(backend)


def test_a_budget_of_money(server, connect):
    server.script = lambda request, number: reply(tokens=(1000, 100))
    budget = Budget(max_price=0.01, price_in=1.0, price_out=10.0)  # 0.002 a question
    backend = connect(concurrency=1, budget=budget)
    with pytest.raises(BudgetError, match=r"budget of 0.01 is spent \(0.01, 5,500 tokens\); 5 of 9"):
        complete(backend, 9)
    assert backend.price == pytest.approx(0.01)


def test_a_budget_needs_what_it_counts(server, connect):
    server.script = lambda request, number: {"model": "m", "choices": [{"message": {"content": "x"}}]}
    assert complete(connect())[0].prompt_tokens == 0
    with pytest.raises(RemoteError, match="do not say their tokens"):
        complete(connect(budget=Budget(max_tokens=9)))
    with pytest.raises(ConfigError, match="price_in and price_out"):
        Budget(max_price=1.0)
    with pytest.raises(ConfigError, match="max_tokens is -1"):
        Budget(max_tokens=-1)


def test_labels_are_read_from_the_first_token(server, connect):
    tops = [
        ("0", first_token(**{"0": 0.5, " 0": 0.1, "1": 0.2, "Grade": 0.15})),
        ("1", first_token(**{"1": 1.0})),
        ("Grade: high", first_token(Grade=0.6, The=0.4)),
        ("2", {"logprobs": {"content": [{"token": "0", "top_logprobs": [{"token": "0", "logprob": "x"}]}]}}),
    ]

    def script(request, number):
        text, top = tops[int(request["messages"][1]["content"][-1])]
        return reply(text, **top)

    server.script = script
    backend = connect()
    readings = backend.read_labels([ask(f"d{i}") for i in range(4)], ["0", "1", "2"])
    assert readings.probabilities[0] == pytest.approx([0.75, 0.25, 0])
    assert readings.outside[0] == pytest.approx(0.2)
    assert readings.probabilities[1] == pytest.approx([0, 1, 0]) and readings.outside[1] == 0
    assert np.isnan(readings.probabilities[2]).all()
    assert readings.reasons[2] == (
        "the labels hold 0.0% of the first token ('Grade', 'The'); no grade in the reply: Grade: high"
    )
    assert readings.probabilities[3].tolist() == [0, 0, 1] and np.isnan(readings.outside[3])  # from the text
    assert (readings.prompt_tokens, readings.completion_tokens) == (40, 8)
    sent = server.requests[0]
    assert (sent["max_tokens"], sent["logprobs"], sent["top_logprobs"], sent["temperature"]) == (64, True, 20, 0)


def test_labels_are_read_from_words_where_there_are_no_probabilities(server, connect):
    texts = ["Grade: 1", "none", " 0 ", "Grade: 7"]
    server.script = lambda request, number: reply(texts[int(request["messages"][1]["content"][-1])])
    asked = [ask(f"d{i}") for i in range(4)]
    parsed = connect(top_logprobs=0).read_labels(asked, ["0", "1"])
    assert parsed.probabilities[::2].tolist() == [[0, 1], [1, 0]]
    assert np.isnan(parsed.probabilities[1::2]).all() and np.isnan(parsed.outside).all()
    assert parsed.reasons[1] == "no grade in the reply: none" and "'7' is not one of" in parsed.reasons[3]
    assert server.requests[0]["max_tokens"] == 64 and "logprobs" not in server.requests[0]
    connect(top_logprobs=0, label_tokens=900).read_labels(asked, ["0", "1"])
    assert server.requests[-1]["max_tokens"] == 900


def test_labels_read_before_an_error_are_not_lost(server, connect):
    server.script = lambda request, number: reply("1", **first_token(**{"1": 1.0}))
    backend = connect(concurrency=1, budget=Budget(max_tokens=24))
    with pytest.raises(BudgetError) as caught:
        backend.read_labels([ask(f"d{i}") for i in range(5)], ["0", "1"])
    done = caught.value.done
    assert done.probabilities[:2].tolist() == [[0, 1]] * 2 and np.isnan(done.probabilities[2:]).all()
    assert done.reasons == (None, None, "not asked", "not asked", "not asked")
    assert done.prompt_tokens == 20


def test_nothing_to_ask(server, connect):
    backend = connect()
    assert complete(backend, 0) == []
    readings = backend.read_labels([], ["0", "1"])
    assert readings.probabilities.shape == (0, 2) and readings.reasons == ()
    for labels in ([], ["a", "a"], [""]):
        with pytest.raises(ConfigError, match="labels are"):
            backend.read_labels([ask("d")], labels)
    assert server.requests == []


def test_identity_tells_the_model_and_not_the_place(server, connect):
    backend = connect(extra={"b": 1, "a": 2})
    assert backend.identity == {
        "what": "remote", "model": "m", "extra": '{"a": 2, "b": 1}', "top": "20", "reading": "2", "label_tokens": "64"
    }  # fmt: skip


@pytest.mark.parametrize("options, message", [
    ({"url": "localhost:8000"}, "is no address; it looks like"),
    ({"url": "file:///etc/passwd"}, "is no address"),
    ({"url": "http://me:pw@host/v1"}, "url of host holds a name, password"),
    ({"url": "http://host/v1?key=1"}, "key_variable"),
    ({"model": ""}, "no name"),
    ({"concurrency": 0}, "concurrency is 0"),
    ({"attempts": 0}, "attempts is 0"),
    ({"top_logprobs": -1}, "top_logprobs is -1"),
    ({"timeout": 0.0}, "timeout is 0.0"),
    ({"key_variable": "NOT_SET_ANYWHERE"}, "variable NOT_SET_ANYWHERE, .* is not set"),
])  # fmt: skip
def test_endpoints_that_cannot_be(connect, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        connect(**options)
    assert "pw" not in str(caught.value)


def test_a_key_of_odd_characters_and_a_missing_extra(connect, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "sk-ünsafe")
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        connect(key_variable="OUR_KEY")
    assert "ünsafe" not in str(caught.value)
    monkeypatch.setattr(endpoint_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[remote\]'"):
        connect()
