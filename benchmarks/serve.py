"""The speedup from micro-batching, and whether the memory of a server grows, for one run.

    python benchmarks/serve.py runs/easy_vqa                    # 16 clients, with and without micro-batching
    python benchmarks/serve.py runs/easy_vqa --seconds 5 --rounds 1 --requests 200    # a short trial

Two servers of the same checkpoint run at the same time, one of them with --max_batch 1. They are measured in turn, so
that other load on the machine affects both. Clients are threads of one process. Each sends one row per request: the
server's own example, with the client's own pictures. Memory is the resident set of the server before and after
--requests requests, after a warm-up. With --write the results go into `results/serve.json`.
"""

import argparse
import base64
import io
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run_folder import write_json


REPORT = Path(__file__).resolve().parent / "results/serve.json"


class Server:
    """A server process on a free port of this machine."""

    def __init__(self, run: str, threads: int, *flags: str):
        words = [sys.executable, "-m", "mm_hf", "serve", run, "--port", "0", "--threads", str(threads), *flags]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = re.search(r"http://[\d.:]+", self.process.stdout.readline())[0]
        while httpx.get(f"{self.url}/ready").status_code != 200:
            assert self.process.poll() is None
            time.sleep(0.2)

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def counted(self, name: str) -> float:
        """The value of one of its metrics."""
        return float(re.search(rf"^{name} (\S+)", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)[1])

    def end(self):
        self.process.terminate()
        self.process.wait()


def bodies(server: Server, count: int) -> list[bytes]:
    """Requests with one row each: the server's example, with a different picture in each if it has one."""
    described = httpx.get(f"{server.url}/openapi.json").json()
    (row,) = described["components"]["schemas"]["Request"]["example"]["rows"]
    made = []
    for number in range(count):
        picture = io.BytesIO()
        Image.new("RGB", (224, 224), (number % 256, 99, 40)).save(picture, "JPEG")
        own = {"base64": base64.b64encode(picture.getvalue()).decode()}
        made.append(json.dumps({"rows": [{**row, **({"image": own} if "image" in row else {})}]}).encode())
    return made


def load(
    server: Server, clients: int, requests: list[bytes], seconds: float | None, most: int | None = None
) -> dict[str, Any]:
    """Sends requests from many threads at once, for some seconds or for a number of requests."""
    until = time.monotonic() + (seconds or 1e9)
    waits: list[float] = []
    left = threading.Semaphore(most or 10**9)

    def ask(number: int):
        with httpx.Client(base_url=server.url, timeout=None, headers={"Content-Type": "application/json"}) as client:
            turn = number
            while time.monotonic() < until and left.acquire(blocking=False):
                started = time.monotonic()
                reply = client.post("/predict", content=requests[turn % len(requests)])
                assert reply.status_code == 200, reply.text
                waits.append(time.monotonic() - started)
                turn += clients

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.monotonic() - started
    waits.sort()
    return {
        "requests": len(waits),
        "requests_a_second": len(waits) / taken,
        "p50_ms": 1000 * waits[len(waits) // 2],
        "p95_ms": 1000 * waits[int(0.95 * len(waits))],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2, help="torch threads per server")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of load per server and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000, help="requests between two measurements of memory")
    parser.add_argument("--warm_up", type=int, default=300, help="requests before the first measurement")
    parser.add_argument("--write", action="store_true", help="write the results to results/serve.json")
    args = parser.parse_args()
    batched, single = Server(args.run, args.threads), Server(args.run, args.threads, "--max_batch", "1")
    try:
        requests = bodies(batched, 64)
        for server in (batched, single):
            load(server, args.clients, requests, None, args.warm_up)
        rounds = []
        for number in range(args.rounds):
            pair = (batched, single) if number % 2 == 0 else (single, batched)
            measured = {server: load(server, args.clients, requests, args.seconds) for server in pair}
            rounds.append({"batched": measured[batched], "single": measured[single]})
            one = rounds[-1]
            one["ratio"] = one["batched"]["requests_a_second"] / one["single"]["requests_a_second"]
            print(json.dumps(one), flush=True)
        rows = batched.counted("mm_hf_batch_rows_sum") / batched.counted("mm_hf_batch_rows_count")
        before = batched.megabytes
        load(batched, args.clients, requests, None, args.requests)
        grown = batched.megabytes - before
    finally:
        batched.end()
        single.end()
    report = {
        "run": Path(args.run).name,
        "settings": {name: getattr(args, name) for name in ("clients", "threads", "seconds", "rounds", "requests")},
        "ratio": statistics.median(one["ratio"] for one in rounds),
        "rows_a_batch": rows,
        "megabytes_before": before,
        "megabytes_grown": grown,
        "rounds": rounds,
        "commit": commit_or_version(),
        "hardware": hardware(),
    }
    ratio = f"{report['ratio']:.2f} × requests a second at {args.clients} clients"
    print(f"micro-batching: {ratio} ({rows:.1f} rows per batch)")
    print(f"memory: {grown:+.1f} MB over {args.requests:,} requests, from {before:.0f} MB")
    if args.write:
        write_json(REPORT, report)


if __name__ == "__main__":
    main()
