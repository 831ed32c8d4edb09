"""Answers the rows of a large table by Ray Data: several workers, on one machine or many, into one file.

    pip install "mm_hf[ray]"
    python examples/ray_batch.py runs/houses new.csv answers.parquet --keys image=photo text=title table=beds,kind

--keys says which columns are what of a row of the pipelines; an empty cell is absent. Files of pictures and sounds lie
in the folder of the table, or below it. The file that is written (.csv or .parquet) has the table's columns and order,
and `answer`, what the pipeline says of each row, as JSON; null where a row cannot be read. Blocks of rows are answered
as they are read: no process holds the table. It prints:

    1000 rows, of which 998 have an answer: answers.parquet

One machine is enough for most tables: there `mm_hf predict` does this, and goes on where it was stopped. --address is
of a cluster that runs, on whose machines mm_hf, the checkpoint and the table are at the same paths.
"""

import argparse
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet


PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}  # Ray reads its variables when it is imported, below
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # elsewhere too: all of it talks over loopback


class Answers:
    """Answers blocks of rows in a worker, which opens the checkpoint once.

    Args:
        run: folder or Hub id.
        keys: columns by key of a row; of a table several.
        root: the folder that files of a row must lie in.
        threads: of torch.
    """

    def __init__(self, run: str, keys: dict[str, list[str]], root: str, threads: int):
        import torch

        import mm_hf

        torch.set_num_threads(threads)  # else each worker takes every core of its machine
        self.keys, self.root, self.pipe = keys, root, mm_hf.pipeline(model=run)

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """The block with the column `answer`."""
        answers = self.pipe([self.row(row) for row in block.to_pylist()], batch_size=32, on_error="skip")
        spelled = [None if answer is None else json.dumps(answer, ensure_ascii=False) for answer in answers]
        return block.append_column("answer", pyarrow.array(spelled, pyarrow.string()))

    def row(self, values: dict) -> dict:
        """A row as the pipeline takes it; what leads out of the folder is left for the pipeline to refuse."""
        from mm_hf.data import resolve_path

        row = {}
        cells = {column: None if value == "" else value for column, value in values.items()}
        for key, columns in self.keys.items():
            value = cells[columns[0]]
            if key == "table":
                value = {column: cells[column] for column in columns}
            elif key in ("image", "audio", "video") and isinstance(value, str):
                try:
                    value = resolve_path(value, self.root)
                except ValueError:
                    value = b""  # no file: this row has no answer
            row[key] = value
        return row


def main():
    """All of it, from top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run or checkpoint, or Hub id")
    parser.add_argument("rows", type=Path, help=".csv or .parquet")
    parser.add_argument("output", type=Path, help=".csv or .parquet")
    parser.add_argument("--keys", nargs="+", required=True, metavar="KEY=COLUMN", help="what the columns are")
    parser.add_argument("--workers", type=int, default=2, help="processes that answer")
    parser.add_argument("--threads", type=int, default=1, help="cores of each")
    parser.add_argument("--address", help="of a cluster of Ray that runs; left out, one is started on this machine")
    args = parser.parse_args()
    keys = {key: columns.split(",") for key, columns in (word.split("=", 1) for word in args.keys)}
    if bad := [file for file in (args.rows, args.output) if file.suffix not in (".csv", ".parquet")]:
        parser.error(f"{bad[0]} must end in .csv or .parquet.")
    run = os.path.abspath(args.run) if os.path.isdir(args.run) else args.run
    for name, value in {**PRIVATE, **({} if args.address else ALONE)}.items():
        os.environ.setdefault(name, value)
    import ray

    own = {"num_cpus": args.workers * args.threads + 1, "include_dashboard": False}  # one reads
    ray.init(logging_level="WARNING", **({"address": args.address} if args.address else own))
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    read = ray.data.read_csv if args.rows.suffix == ".csv" else ray.data.read_parquet
    answered = read(str(args.rows.resolve())).map_batches(
        Answers,
        fn_constructor_args=[run, keys, str(args.rows.resolve().parent), args.threads],
        batch_format="pyarrow",
        batch_size=64,
        num_cpus=args.threads,
        compute=ray.data.ActorPoolStrategy(size=args.workers),
    )
    write = pyarrow.csv.CSVWriter if args.output.suffix == ".csv" else pyarrow.parquet.ParquetWriter
    writer, count, good = None, 0, 0
    try:
        for block in answered.iter_batches(batch_format="pyarrow", batch_size=None):
            writer = writer or write(str(args.output), block.schema)
            writer.write_table(block.cast(writer.schema) if hasattr(writer, "schema") else block)
            count, good = count + len(block), good + len(block) - block["answer"].null_count
    finally:
        if writer is not None:
            writer.close()
        ray.shutdown()
    print(f"{count} rows, of which {good} have an answer: {args.output}", flush=True)


if __name__ == "__main__":
    main()
