"""k6 itself, against a small server: what was answered is counted, and what could not be sent is told."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.bench_command import outcome_of
from tasks.k6 import open_loop


@pytest.fixture
def server():
    """Answers 200 to every POST after `server.wait_s`, and keeps what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.server.seen.append((json.loads(body), self.headers.get("authorization")))
            time.sleep(self.server.wait_s)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *told):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.seen, running.wait_s = [], 0.0
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_run_that_was_sent_whole_is_valid_and_one_that_was_not_is_void(server, tmp_path):
    bodies, url = tmp_path / "bodies.json", f"http://127.0.0.1:{server.server_port}/rank"
    bodies.write_text(json.dumps([{"user_id": "u1"}, {"user_id": "u2"}]))
    run = open_loop(url, bodies, 10, 1, tmp_path, most=20, headers={"authorization": "Basic eA=="})
    assert (run.failed, run.refused, run.dropped) == (0, 0, 0)
    assert run.good == len(server.seen) >= 9 and run.p50 > 0 and outcome_of(run) == "valid"
    assert all(told["user_id"] in ("u1", "u2") and key == "Basic eA==" for told, key in server.seen)
    server.seen.clear()
    run = open_loop(url, bodies, 1.75, 4, tmp_path, most=20)
    assert run.good in (6, 7, 8), "a rate that is no whole number is the rate that is sent: 7 in 4 s"
    server.wait_s = 0.5
    run = open_loop(url, bodies, 10, 1, tmp_path, most=1)
    assert run.dropped > 0 and outcome_of(run) == "void", "one client cannot send ten a second to a server this slow"
