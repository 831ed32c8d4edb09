"""Lists or removes the features of frozen encoders that runs keep on disk.

    mm_hf cache
    mm_hf cache --clear
    mm_hf cache --cache_dir /data/features

Features that a run is using now are not removed. If the features of a run are gone, the run encodes its items again
and gives the same result.
"""

import argparse
import sys
from datetime import datetime


def script():
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mm_hf cache", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--cache_dir", help="the folder; default: the environment variable MM_HF_CACHE, else the folder in HF_HOME"
    )
    parser.add_argument("--clear", action="store_true", help="remove all features that no run is using now")
    options = parser.parse_args()
    from ..data.feature_store import FeatureStore  # late: it loads torch

    store = FeatureStore(options.cache_dir)
    try:
        if options.clear:
            print(f"{store.folder}: {megabytes(store.clear())} removed")
        print(listed(store))
    except OSError as error:
        sys.exit(f"error: {error}")


def listed(store) -> str:
    """One line per set of features, the longest unused first: its size, the date of its last use, its content."""
    sets = store.sets()
    total = sum(size for _, size, _, _ in sets)
    lines = [f"{store.folder}: {len(sets)} set(s) of features, {megabytes(total)}"]
    for folder, size, used, title in sets:
        day = datetime.fromtimestamp(used).strftime("%Y-%m-%d")
        lines.append(f"  {megabytes(size):>12}  last used {day}  {title or folder.name}")
    return "\n".join(lines)


def megabytes(size: int) -> str:
    """A number of bytes as readable text."""
    return f"{size / 1e6:,.1f} MB"


if __name__ == "__main__":
    script()
