"""SIGTERM: a real server answers what it took on, refuses what comes then, and ends."""

import json
import socket

import httpx


KEY = "a-key-of-the-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}


def test_what_it_took_on_is_answered(start_server, close_to):
    server = start_server("classification", "--max_seconds", "600", "--threads", "1", MM_HF_API_KEY=KEY)
    host, port = server.url.removeprefix("http://").split(":")
    text = {"rows": [{"text": "what colour is the big house ?"}]}
    with httpx.Client(base_url=server.url, timeout=None, headers=HEADERS) as client:
        assert httpx.post(f"{server.url}/predict", json=text).status_code == 401  # the key came by its variable
        expected = client.post("/predict", json=text).json()
        body = json.dumps(text).encode()
        head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head.encode() + body[:10])
            while "mm_hf_requests_in_work 1.0" not in client.get("/metrics").text:
                pass
            server.process.terminate()
            while (ready := client.get("/ready")).status_code == 200:
                pass
            refused = httpx.post(f"{server.url}/predict", json=text, headers=HEADERS)  # a new connection
            for reply in (ready, refused):
                assert reply.status_code == 503
                assert reply.json()["error"]["kind"] == "stopping"
                assert reply.headers["retry-after"]
            assert server.process.poll() is None
            slow.sendall(body[10:])
            reply = b""
            while piece := slow.recv(65536):
                reply += piece
    head, _, answered = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert close_to(json.loads(answered), expected)
    assert server.process.wait() == 0
    assert "Traceback" not in server.log
    assert KEY not in server.log
