"""Speed and memory of answers: the pipeline in float32 and bfloat16, compared with the export in float32 and in 8
bits, on test rows of trained runs.

    mm_hf train mm_hf/recipes/smart_home.yaml --output_dir runs/smart_home
    python benchmarks/answers.py runs/smart_home runs/easy_vqa --write
    python benchmarks/answers.py runs/smart_home --rounds 3 --rows 100     # a short trial
    python benchmarks/answers.py --write_table                             # only prints the table of known results

Each backend runs in its own process, with --threads threads. They are measured in turn, from the file of a picture or
sound to the final answer, so that other load on the machine affects all of them. Measured are wall seconds and CPU
seconds for one row and for 32 rows, and the largest resident set of each process. Each backend also answers all rows
once, in batches of 32: this gives the share of best answers that agree with the pipeline, and the paired difference in
accuracy.
"""

# A process that answers imports only what its backend needs, because its memory is measured.
import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


REPORT = Path(__file__).resolve().parent / "results/answers.json"
BACKENDS = ("torch", "torch bf16", "onnx", "onnx int8")
BATCH = 32
# Recipe keys of columns, and the matching keys of a pipeline's row.
KEYS = {"image_column": "image", "audio_column": "audio", "text_column": "text"}


# ---- A process that answers


def opened(backend: str, run: Path, threads: int) -> Any:
    """The model of a backend: a function that answers rows."""
    if backend.startswith("torch"):
        import torch

        import mm_hf

        torch.set_num_threads(threads)
        dtype = torch.bfloat16 if backend.endswith("bf16") else torch.float32
        return mm_hf.pipeline(model=str(run), device=torch.device("cpu"), dtype=dtype)
    sys.path.insert(0, str(folder_of(backend, run)))
    from runtime import Model  # type: ignore[import-not-found]

    return Model(str(folder_of(backend, run)), threads=threads)


def folder_of(backend: str, run: Path) -> Path:
    """The folder of a run's export."""
    return run / ("onnx-int8" if backend.endswith("int8") else "onnx")


def best(answers: Any) -> str:
    """The best answer to a row."""
    first = dict(answers[0])
    first.pop("score")
    return next(iter(first.values()))


def work(backend: str, run: Path, threads: int, file: Path) -> None:
    """Reads requests from standard input: `all`, or the number of the first row and the number of rows."""
    rows = [{key: from_json(value) for key, value in row.items()} for row in json.loads(file.read_text())]
    began = time.perf_counter()
    answer = opened(backend, run, threads)
    answer(rows[0])
    print(json.dumps({"start": time.perf_counter() - began}), flush=True)
    for line in sys.stdin:
        if line.strip() == "all":
            said = [best(one) for start in range(0, len(rows), BATCH) for one in batch(answer, rows, start, BATCH)]
            print(json.dumps({"said": said}), flush=True)
            continue
        start, count = map(int, line.split())
        wall, cpu = time.perf_counter(), time.process_time()
        batch(answer, rows, start, count)
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**seconds, "megabytes": most_memory()}), flush=True)


def most_memory() -> float:
    """The largest resident set of this process, in MB. (`getrusage` would include its parent before `exec`.)"""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def from_json(value: Any) -> Any:
    """A value of a row, with files as bytes."""
    return base64.b64decode(value["base64"]) if isinstance(value, dict) and set(value) == {"base64"} else value


def batch(answer: Any, rows: list[dict[str, Any]], start: int, count: int) -> list[Any]:
    """The answers to some rows together."""
    asked = rows[start : start + count]
    return [answer(asked[0])] if count == 1 else answer(asked, batch_size=count)


# ---- Who asks


def as_json(value: Any) -> Any:
    """A value as JSON: a file in base 64, or a text."""
    if not isinstance(value, dict):
        return value
    content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return {"base64": base64.b64encode(content).decode()}


def rows_of(run: Path, most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The first rows of a run's test part, in the form of a request, and the names of their labels."""
    import datasets

    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    part = datasets.load_from_disk(str(run / recipe["working_dir"] / recipe["dataset"]))["test"]
    labels = part.features[recipe["label_column"]]
    for name, feature in part.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            part = part.cast_column(name, feature.__class__(decode=False))
    rows, truths = [], []
    for row in part.select(range(min(most, len(part)))):
        one: dict[str, Any] = {}
        for key, name in KEYS.items():
            columns = recipe.get(key)
            if columns:
                values = [as_json(row[column]) for column in ([columns] if isinstance(columns, str) else columns)]
                one[name] = values[0] if len(values) == 1 else values
        if recipe.get("table_columns"):
            one["table"] = {column: row[column] for column in recipe["table_columns"]}
        rows.append(one)
        truths.append(labels.int2str(row[recipe["label_column"]]))
    return rows, truths


class Worker:
    """A process that answers."""

    def __init__(self, backend: str, run: Path, threads: int, rows: str):
        words = [sys.executable, __file__, str(run), "--backend", backend]
        words += ["--threads", str(threads), "--rows_file", rows]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.started = self.reply()

    def reply(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)}: it ended with {self.process.wait()}.")
        return json.loads(line)

    def ask(self, words: str) -> dict[str, Any]:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.reply()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def export(run: Path):
    """Makes both exports of a run, if they do not exist yet."""
    for backend in ("onnx", "onnx int8"):
        folder = folder_of(backend, run)
        if not folder.exists():
            words = [sys.executable, "-m", "mm_hf", "export", str(run), "-o", str(folder)]
            subprocess.run([*words, *(["--int8"] if backend.endswith("int8") else [])], check=True)


def megabytes_on_disk(backend: str, run: Path) -> float:
    """The size of the files that are needed to answer: weights or graphs, and the files beside them."""
    if backend.startswith("torch"):
        files = [*run.glob("*.safetensors"), *run.glob("*.json"), *run.glob("*.txt")]
    else:
        files = [path for path in folder_of(backend, run).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / 1e6


def measure(run: Path, threads: int, most: int, rounds: int) -> dict[str, Any]:
    """Measures all backends of one run, in turn."""
    import torch

    from mm_hf.evaluation.paired import paired_differences
    from mm_hf.training.provenance import commit_or_version, hardware

    export(run)
    rows, truths = rows_of(run, most)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        workers = {backend: Worker(backend, run, threads, file.name) for backend in BACKENDS}
    samples: dict[str, dict[str, list]] = {backend: {"1": [], str(BATCH): []} for backend in BACKENDS}
    memory = {}
    try:
        for number in range(rounds + 1):
            for backend, worker in workers.items():
                for count in (1, BATCH):
                    start = number * BATCH % max(len(truths) - BATCH, 1)
                    reply = worker.ask(f"{start} {count}")
                    memory[backend] = reply.pop("megabytes")
                    if number:  # the first round warms up
                        samples[backend][str(count)].append(reply)
        said = {backend: worker.ask("all")["said"] for backend, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.end()
    right = {backend: torch.tensor([a == b for a, b in zip(answers, truths)]) for backend, answers in said.items()}
    results = {}
    for backend, worker in workers.items():
        pair = (right[backend].double(), right["torch"].double())
        paired = paired_differences(
            lambda chosen, place, pair=pair: {"accuracy": pair[place][chosen].mean().item()},
            torch.arange(len(truths)),
        )["accuracy"]
        results[backend] = {
            "accuracy": pair[0].mean().item(),
            "as_torch": statistics.mean(a == b for a, b in zip(said[backend], said["torch"])),
            "difference": paired,
            "start_seconds": worker.started["start"],
            "megabytes": memory[backend],
            "megabytes_on_disk": megabytes_on_disk(backend, run),
            "samples": samples[backend],
        }
    return {
        "run": run.name,
        "rows": len(truths),
        "threads": threads,
        "backends": results,
        "commit": commit_or_version(),
        "hardware": hardware(),
    }


# ---- The table


def at(samples: list[dict[str, float]], share: float, clock: str = "wall") -> float:
    """A quantile of the milliseconds."""
    ordered = sorted(1000 * one[clock] for one in samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(reports: list[dict[str, Any]]) -> str:
    """The table in Markdown, one row per run and backend."""
    names = ["run, backend", "one row, ms: p50 / p95", "× torch", f"{BATCH} rows, ms: p50 / p95", "rows a second"]
    names += ["memory, MB", "on disk, MB", "as torch", "accuracy", "- torch [95 %], points"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for report in reports:
        plain = report["backends"]["torch"]["samples"]["1"]
        for backend, of in report["backends"].items():
            one, many = of["samples"]["1"], of["samples"][str(BATCH)]
            faster = statistics.median(a["wall"] / b["wall"] for a, b in zip(plain, one))
            gap = of["difference"]
            points = f"{100 * gap['difference']:+.2f} [{100 * gap['low']:+.2f}, {100 * gap['high']:+.2f}]"
            cells = [
                *(f"{report['run']}, {backend}", f"{at(one, 0.5):.1f} / {at(one, 0.95):.1f}", f"{faster:.2f}"),
                f"{at(many, 0.5):.0f} / {at(many, 0.95):.0f}",
                f"{BATCH * 1000 / at(many, 0.5):.0f}",
                *(f"{of['megabytes']:.0f}", f"{of['megabytes_on_disk']:.1f}", f"{of['as_torch']:.3f}"),
                *(f"{of['accuracy']:.4f}", "" if backend == "torch" else points),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs of classes, with recipe.json")
    parser.add_argument("--threads", type=int, default=1, help="threads per process; default: %(default)s")
    parser.add_argument("--rows", type=int, default=500, help="at most so many test rows; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of timing; default: %(default)s")
    parser.add_argument("--write", action="store_true", help="write the results to results/answers.json")
    parser.add_argument("--write_table", action="store_true", help="only print the table of known results")
    parser.add_argument("--backend", choices=BACKENDS, help=argparse.SUPPRESS)
    parser.add_argument("--rows_file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.backend:
        work(args.backend, args.runs[0], args.threads, args.rows_file)
        return
    known = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else []
    if args.write_table:
        print(table(known))
        return
    for run in args.runs:
        report = measure(run, args.threads, args.rows, args.rounds)
        print(table([report]), flush=True)
        known = [*(one for one in known if one["run"] != report["run"]), report]
        if args.write:
            from mm_hf.training.run_folder import write_json

            write_json(REPORT, known)


if __name__ == "__main__":
    main()
