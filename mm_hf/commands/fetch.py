"""Downloads the files that a column of URLs names, and writes the rows again with the paths of the files.

    mm_hf fetch houses.csv --column photo_url
    mm_hf fetch houses.csv --column photo_url --into photos -o houses_here.csv

The rows keep their content and their file format. They get one more column: the path of each row's file. Rows without
a file are listed in a second file, with the reason. If the command is given again, it continues: existing files are
not downloaded again. Training and predict read files only; they never download.
"""

import csv
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..data import Columns
from ..data.rows import is_absent
from ..models.text import Text
from ..progress_bar import progress_bar
from ..training.exits import run_script
from ..training.lock import lock_folder
from .arguments import FetchArguments, fetch_parser
from .downloads import PART, Downloads
from .prediction.output import KINDS, form_of
from .prediction.sources import STDIN, RowSource, open_rows


LOWER = "Lower --parallel."


def main():
    """All of it, from top to bottom."""
    parser = fetch_parser(str(__doc__), "mm_hf fetch")
    try:
        args, others = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    rows, kind = others.rows, Path(others.rows).suffix.lower()
    if rows == STDIN or kind not in KINDS:
        raise ValueError(f"ROWS is {rows!r}: give a file that ends in one of {', '.join(KINDS)}.")
    output, into, failures = places_of(rows, args)
    source = open_source(rows, args.column)
    new = args.path_column or f"{args.column}_path"
    if new in source.header:
        raise ValueError(f"{rows} already has a column {new!r}: --path_column gives the new column another name.")
    into.mkdir(parents=True, exist_ok=True)
    lock_folder(into, True)
    fetched, failed = fetch(source, args, into)
    write_rows(source, args.column, new, fetched, into, output)
    write_failures(source, args.column, failed, failures)
    print(f"{len(fetched):,} of {len(fetched) + len(failed):,} URLs now have a file in {into}")
    print(f"written: {output}, with the column {new!r}")
    if failed:
        print(f"{len(failed):,} URLs failed, see {failures}. The same command tries them again.", flush=True)
        sys.exit(1)


def places_of(rows: str, args: FetchArguments) -> tuple[Path, Path, Path]:
    """The output file, the folder of the downloaded files, and the file that lists the failures.

    Raises:
        ValueError: the output would replace the rows, has another file format, or lies where training cannot read the
            files.
    """
    given = Path(rows)
    output = Path(args.output or given.with_name(f"{given.stem}_fetched{given.suffix}"))
    into = Path(args.into or given.with_name(f"{given.stem}_files"))
    if os.path.realpath(output) == os.path.realpath(given):
        raise ValueError(f"--output {output} is the file of the rows: name another file.")
    if output.suffix.lower() != given.suffix.lower():
        raise ValueError(f"--output {output} must end in {given.suffix}, like the rows in {given}.")
    beside = os.path.realpath(output.parent)
    if os.path.commonpath([beside, os.path.realpath(into)]) != beside:
        raise ValueError(
            f"--into {into} must be in {output.parent}, where {output.name} is written: training reads no file "
            "outside the folder of its rows. --output names another place."
        )
    return output, into, output.with_name(f"{output.stem}_failed.csv")


def open_source(rows: str, column: str) -> RowSource:
    """The rows of a file.

    Raises:
        ValueError: it has no such column.
    """
    try:
        return open_rows(rows, None, Columns(text=column), None)
    except ValueError as error:  # the message names training's key for this column
        said = str(error).split("--text_column")[0].replace("given as text_column", "given as --column")
        raise ValueError(said.strip()) from None


def urls_of(source: RowSource, column: str) -> Iterator[str | None]:
    """The URL of each row; None for a row without URL."""
    for row in source:
        url = source.value(row, Text.name, column)
        yield None if is_absent(url) else str(url).strip() or None


def name_of(url: str) -> str:
    """The name of the file of a URL, without its extension."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fetch(source: RowSource, args: FetchArguments, into: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Downloads the files that do not exist yet. Returns the files by URL, and the reasons of failures by URL."""
    names = {url: name_of(url) for url in urls_of(source, args.column) if url}
    present = {path.stem: path for path in into.iterdir() if path.suffix != PART and path.is_file()}
    fetched = {url: present[name] for url, name in names.items() if name in present}
    wanted = {url: into / name for url, name in names.items() if name not in present}
    if fetched:
        print(f"{len(fetched):,} of {len(names):,} URLs already have a file")
    failed: dict[str, str] = {}
    downloads = Downloads(args, sum(path.stat().st_size for path in fetched.values()))
    bar = progress_bar(total=len(wanted), desc="fetching", unit="file")
    try:
        for url, file, reason in downloads.run(wanted):
            if file is None:
                failed[url] = str(reason)
            else:
                fetched[url] = file
            bar.update()
    finally:
        bar.close()
    return fetched, failed


def write_rows(source: RowSource, column: str, new: str, fetched: dict[str, Path], into: Path, output: Path):
    """Writes the rows with the paths of their files, relative to the folder of the output."""
    kind = output.suffix.lower()
    types = source.types() if kind == ".parquet" else pa.schema([(name, pa.string()) for name in source.header])
    fields = [*types, pa.field(new, pa.string())]
    form = form_of(kind, pa.schema(fields, types.metadata), source.separator, source.marked)
    folder = output.with_name(f".{output.name}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    paths = {url: Path(os.path.relpath(file, output.parent)).as_posix() for url, file in fetched.items()}
    try:
        with open(folder / "rows", "wb") as log:
            log.write(form.head())
            for row, url in zip(source, urls_of(source, column)):
                kept = row if kind == ".parquet" else source.named(row)
                log.write(form.rows([form.kept({**kept, new: paths.get(url) if url else None})]))
        form.finish(folder)
        os.replace(folder / form.whole, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_failures(source: RowSource, column: str, failed: dict[str, str], file: Path):
    """Lists the rows without a file (numbered from 0) with the reason. Without failures, no list is written."""
    if not failed:
        file.unlink(missing_ok=True)
        return
    beside = file.with_name(f".{file.name}.new")
    with open(beside, "w", newline="", encoding="utf-8") as lines:
        writer: Any = csv.writer(lines, lineterminator="\n")
        writer.writerow(["row", "url", "reason"])
        writer.writerows(
            [number, url, failed[url]] for number, url in enumerate(urls_of(source, column)) if url in failed
        )
    beside.replace(file)


def script():
    """The command line."""
    run_script(main, LOWER)


if __name__ == "__main__":
    script()
