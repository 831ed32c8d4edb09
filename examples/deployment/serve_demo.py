"""Starts the server and the demo page of a checkpoint, and ends both with Ctrl-C. `make serve-demo` calls it.

    python examples/deployment/serve_demo.py runs/easy_vqa --page_python .venv-demo/bin/python

Each has its own Python environment, since gradio requires an older Pillow. Their printed lines begin with their names.
When both are ready, the script prints:

    ready: the server at http://127.0.0.1:8000 (/docs tells more), the page at http://127.0.0.1:7860. Ctrl-C ends both.

If one of them ends or cannot start, the other one is ended too, and the exit status is 1.
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
    """A process that serves a page and prints its address.

    Args:
        name: printed before its lines.
        words: the command.
        path: the path that answers with status 200 when the process is ready.
    """

    def __init__(self, name: str, words: list[str], path: str):
        self.name, self.path, self.url = name, path, ""
        # In its own process group, so that Ctrl-C only reaches this script, which then ends both processes in order.
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.printing = threading.Thread(target=self.print_lines, daemon=True)
        self.printing.start()

    def print_lines(self):
        """Prints its lines, and finds its address in them."""
        for line in self.process.stdout or ():
            print(f"{self.name}: {line}", end="", flush=True)
            if not self.url and (found := re.search(r"http://[\w.:\[\]]+:\d+", line)):
                self.url = found[0]

    def is_ready(self) -> bool:
        """Whether it answers. The address comes from its own lines, so no other process can answer there."""
        try:
            with urllib.request.urlopen(self.url + self.path, timeout=5) as reply:
                return reply.status == 200
        except (OSError, ValueError):  # no address yet, nobody listens, or "loading"
            return False

    def end(self):
        """Ends it; it has ten seconds to answer the requests that it has accepted."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.printing.join(5)


def main():
    """The whole script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run or checkpoint")
    parser.add_argument("--port", default="8000", help="port of the server; 0: any free port")
    parser.add_argument("--page_port", default="7860", help="port of the page; 0: any free port")
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
                    one.printing.join(5)  # prints its last lines
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
