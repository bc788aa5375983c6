"""A judging job in a process of its own, killed at random moments, interrupted, and run again until it is done."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from searchtune.errors import StorageError
from searchtune.storage.journal import Journal, JournalView
from unit.workflows.judging import write_rows

pytest.importorskip("httpx")
QUERIES, DOCS, CONCURRENCY = 30, 16, 8
KILLS = 20

FORKED = """
import json, os, random, signal, sys, time
from pathlib import Path

import searchtune.cli.judge_run, searchtune.models.remote, searchtune.workflows.judge_job
from searchtune.cli.main import app
from searchtune.storage.journal import JournalView

JOURNAL, COMMAND, KILLS = Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])
rng, kept, found = random.Random(5), {}, []


def size():
    return JOURNAL.stat().st_size if JOURNAL.exists() else 0


def begin():
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            app(COMMAND, standalone_mode=True)
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(1)
    return child


while len(found) < KILLS:
    goal, child = size() + rng.randrange(1, 2500), begin()
    while size() < goal and not (ended := os.waitpid(child, os.WNOHANG)[0]):
        time.sleep(0.0005)
    if ended:
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    whole = dict(JournalView(JOURNAL).items())
    assert {key: whole[key] for key in kept} == kept, "what was kept stays as it was"
    kept = whole
    found.append(len(kept))
    if len(found) % 3 == 0:
        with JOURNAL.open("ab") as file:  # a line that a kill tore
            file.write(b'{"sum":"0123456789abcdef')
print(json.dumps(found))
"""


class SlowJudge:
    """An endpoint that answers each question after a moment and keeps what it was asked."""

    def __init__(self, seconds):
        self.asked = Counter()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = request["messages"][-1]["content"]
                with lock:
                    outer.asked[question] += 1
                time.sleep(seconds)
                label = sum(map(ord, question.partition("passage ")[2][:8])) % 4
                top = [{"token": str(i), "logprob": math.log(0.7 if i == label else 0.1)} for i in range(4)]
                choice = {"message": {"content": str(label)}, "logprobs": {"content": [{"top_logprobs": top}]}}
                usage = {"prompt_tokens": 10, "completion_tokens": 1}
                body = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
                try:
                    self.send_response(200)
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
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def endpoint():
    opened = []

    def start(seconds):
        opened.append(SlowJudge(seconds))
        return opened[-1]

    yield start
    for one in opened:
        one.http.shutdown()
        one.http.server_close()


def arguments(pairs, out, server):
    command = ["judge", "run", "m", "--endpoint", server.url, "--pairs", pairs, "--out", out, "--canaries", "10"]
    return [*map(str, command), "--json"]


def python(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_nothing_is_lost_and_nothing_judged_twice(tmp_path, endpoint):
    server = endpoint(0.004)
    pairs = write_rows(tmp_path / "pairs.jsonl", queries=QUERIES, docs=DOCS)
    command, journal = arguments(pairs, tmp_path / "job", server), tmp_path / "job" / "journal.jsonl"
    out, err = python("-c", FORKED, journal, KILLS, *command).communicate(timeout=300)
    kills = json.loads(out) if out else pytest.fail(err)
    assert len(kills) == KILLS, "every kill came before the job was done"
    assert len(set(kills)) > KILLS / 2, "and they came at different places"
    kept = dict(JournalView(journal).items())
    out, err = python("-m", "searchtune", *command).communicate(timeout=120)
    assert (done := json.loads(out))["unreadable"] == {}, err
    found = dict(JournalView(journal).items())
    assert {key: found[key] for key in kept} == kept
    assert len(found) == done["asked"] == QUERIES * DOCS + 10
    assert len(server.asked) == len(found), "each question was asked"
    twice = sum(server.asked.values()) - len(server.asked)
    assert twice <= KILLS * 4 * CONCURRENCY, "asked again: only what was under way, or waited for its turn, at a kill"
    judged = [json.loads(line) for line in (tmp_path / "job" / "judgments.jsonl").read_text().splitlines()]
    assert len({(one["query_id"], one["doc_id"]) for one in judged}) == len(judged) == QUERIES * DOCS


LISTENING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
from searchtune.cli.main import main
main()
"""


@pytest.mark.slow
def test_an_interrupted_job_ends_at_once_and_says_so(tmp_path, endpoint):
    server = endpoint(0.2)
    command = arguments(write_rows(tmp_path / "pairs.jsonl", queries=QUERIES, docs=DOCS), tmp_path / "job", server)
    process = python("-c", LISTENING, *command)
    deadline = time.monotonic() + 60
    while sum(server.asked.values()) < 3 * CONCURRENCY and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(StorageError, match="another process is writing to this journal"):
        Journal(tmp_path / "job", {})
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err.rstrip().endswith("interrupted") and "Traceback" not in err
    assert time.monotonic() - began < 10
    assert len(JournalView(tmp_path / "job")) >= CONCURRENCY
