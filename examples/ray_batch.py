"""Predicts the rows of a large table with Ray Data: several workers, on one or many machines, write one file.

    pip install "mm_hf[ray]"
    python examples/ray_batch.py runs/houses new.csv answers.parquet --keys image=photo text=title table=beds,kind

--keys says which columns belong to which key of the pipeline's rows; an empty cell is a missing item. Files of
pictures and sounds must be in the folder of the table or below it. The output file (.csv or .parquet) has the table's
columns and order. Its new column `answer` holds the pipeline's answer to each row as JSON, or null if a row cannot be
read. Rows are processed block by block: no process holds the whole table. The script prints:

    1000 rows, of which 998 have an answer: answers.parquet

One machine is enough for most tables: use `mm_hf predict` there, which can also resume. --address names a running
cluster. On its machines mm_hf must be installed, and the checkpoint and the table must have the same paths.
"""

import argparse
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet


PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}  # Ray reads its variables when it is imported, below
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # on all systems: everything communicates over loopback


class Answers:
    """Predicts blocks of rows in a worker, which opens the checkpoint once.

    Args:
        run: folder or Hub id.
        keys: columns by key of a row; a table has several columns.
        root: the folder that must contain the files of a row.
        threads: number of torch threads.
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
        """A row in the form of the pipeline. The pipeline then refuses files that are outside the folder."""
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
                    value = b""  # not a valid file, so this row gets no answer
            row[key] = value
        return row


def main():
    """The whole script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run or checkpoint, or Hub id")
    parser.add_argument("rows", type=Path, help=".csv or .parquet")
    parser.add_argument("output", type=Path, help=".csv or .parquet")
    parser.add_argument("--keys", nargs="+", required=True, metavar="KEY=COLUMN", help="columns of each key")
    parser.add_argument("--workers", type=int, default=2, help="processes that predict")
    parser.add_argument("--threads", type=int, default=1, help="cores per process")
    parser.add_argument("--address", help="address of a running Ray cluster; left out, one is started on this machine")
    args = parser.parse_args()
    keys = {key: columns.split(",") for key, columns in (word.split("=", 1) for word in args.keys)}
    if bad := [file for file in (args.rows, args.output) if file.suffix not in (".csv", ".parquet")]:
        parser.error(f"{bad[0]} must end in .csv or .parquet.")
    run = os.path.abspath(args.run) if os.path.isdir(args.run) else args.run
    for name, value in {**PRIVATE, **({} if args.address else ALONE)}.items():
        os.environ.setdefault(name, value)
    import ray

    own = {"num_cpus": args.workers * args.threads + 1, "include_dashboard": False}  # one more to read
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
