"""Starts the server and the demo page of a checkpoint, and ends both with Ctrl-C. `make serve-demo` calls it.

    python examples/deployment/serve_demo.py runs/easy_vqa --page_python .venv-demo/bin/python

Each runs with a Python of its own, since gradio asks for an older Pillow. What one of them prints has its name before
it; when both are ready it prints:

    ready: the server at http://127.0.0.1:8000 (/docs tells more), the page at http://127.0.0.1:7860. Ctrl-C ends both.

Where one ends or cannot start, the other is ended too, and the status is 1.
"""

import argparse
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request


class Started:
    """A process that serves a page, and says its address in what it prints.

    Args:
        name: stands before its lines.
        words: the command.
        path: of the address that answers with 200 when it is ready.
    """

    def __init__(self, name: str, words: list[str], path: str):
        self.name, self.path, self.url = name, path, ""
        # In a group of its own, so that Ctrl-C comes to this script alone, which then ends both in good order.
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.printing = threading.Thread(target=self.print_lines, daemon=True)
        self.printing.start()

    def print_lines(self):
        """Prints what it prints, and finds its address."""
        for line in self.process.stdout or ():
            print(f"{self.name}: {line}", end="", flush=True)
            if not self.url and (found := re.search(r"http://[\w.:\[\]]+:\d+", line)):
                self.url = found[0]

    def is_ready(self) -> bool:
        """Whether it answers; the address is printed by the process that listens there, and by no other."""
        try:
            with urllib.request.urlopen(self.url + self.path, timeout=5) as reply:
                return reply.status == 200
        except (OSError, ValueError):  # no address yet, nobody listens, or "loading"
            return False

    def end(self):
        """Lets it answer what it took on, ten seconds long."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.printing.join(5)


def main():
    """All of it, from top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run or checkpoint")
    parser.add_argument("--port", default="8000", help="of the server; 0: any free one")
    parser.add_argument("--page_port", default="7860", help="of the page; 0: any free one")
    parser.add_argument("--page_python", default=sys.executable, help="the Python that has gradio")
    args = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    started: list[Started] = []
    try:
        server = [sys.executable, "-m", "mm_hf", "serve", args.run, "--port", args.port]
        started.append(Started("server", server, "/ready"))
        page = [args.page_python, "-m", "mm_hf", "demo", args.run, "--port", args.page_port]
        started.append(Started("page", page, "/"))
        waiting = list(started)
        while True:
            for one in started:
                if (status := one.process.poll()) is not None:
                    one.printing.join(5)  # what it said last
                    sys.exit(f"error: the {one.name} has ended with status {status}, so the other one is ended too.")
            if waiting and not (waiting := [one for one in waiting if not one.is_ready()]):
                urls = [one.url for one in started]
                print(f"ready: the server at {urls[0]} (/docs tells more), the page at {urls[1]}.", end=" ")
                print("Ctrl-C ends both.", flush=True)
            time.sleep(0.3)
    except KeyboardInterrupt:
        print("ending both", flush=True)
    finally:
        for one in started:
            one.end()


if __name__ == "__main__":
    main()
