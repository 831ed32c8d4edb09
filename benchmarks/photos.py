"""The time from the start until training begins, for camera photographs: decoded in full by one process, as before;
with JPEG draft decoding and workers; and a second time, with the features on disk.

    python benchmarks/photos.py houses.zip --photos 1712
    python benchmarks/photos.py houses.zip --photos 100 --memory

The archive is from Ahmed and Moustafa (2016, arXiv 1609.08399). Its small photographs are enlarged to the size of
camera photographs, in a folder that is removed at the end. Each way is measured in its own process: seconds of
encoding; seconds from the call until the first step (without loading Python's modules); number of calls of the
encoder; and peak memory after all features were read once, as in an epoch of training. `--memory` repeats the last
way with four times as many photographs. `before` is the behaviour of commit 3b3e213: `--defaults_version 2` with its
keys. The features must be the same as at that commit.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image


ROOT = Path(__file__).resolve().parent.parent
ENCODER = ROOT / "data/encoders/mobilenet-v2"
WAYS = {
    "before": ["--defaults_version", "2", "--encoding_workers", "0", "--cache_dir", "none"],
    "draft": ["--encoding_workers", "0", "--cache_dir", "none"],
    "now": [],
    "again": [],
}


def enlarge(archive: str, name: str, to: str, side: int):
    """One photograph of the archive, resized to this length of the longer side in pixels."""
    with zipfile.ZipFile(archive) as opened, opened.open(name) as file:
        image = Image.open(file).convert("RGB")
    scale = side / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(to, quality=90)


def make(archive: str, folder: Path, count: int, side: int) -> Path:
    """Makes photographs and a table of them. If the archive has too few, some are repeated in another size."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".jpg"))
    with ProcessPoolExecutor() as pool:
        places = [(names[number % len(names)], side - number // len(names)) for number in range(count)]
        jobs = [
            pool.submit(enlarge, archive, name, str(folder / f"{number}.jpg"), size)
            for number, (name, size) in enumerate(places)
        ]
        for job in jobs:
            job.result()
    with open(folder / "photos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["photo", "kind"], *([f"{number}.jpg", f"k{number % 4}"] for number in range(count))])
    return folder / "photos.csv"


def measure(table: str, encoder: str, output_dir: str, flags: list[str]):
    """Runs in its own process: opens the run, reads all features once, and prints the results."""
    from mm_hf.models.modeling_mm_fusion import MMFusionModel
    from mm_hf.training import open_run as opening

    figures = {"encoder_calls": 0, "encode_seconds": 0.0, "encode_cpu_seconds": 0.0}
    encode, build_cache = MMFusionModel.encode, opening.build_cache

    def counted(*args, **kwargs):
        figures["encoder_calls"] += 1
        return encode(*args, **kwargs)

    def timed(*args, **kwargs):
        began, used = time.perf_counter(), os.times()
        MMFusionModel.encode = counted
        found = build_cache(*args, **kwargs)
        MMFusionModel.encode = encode
        figures["encode_seconds"] = time.perf_counter() - began
        # Only workers that have ended are counted.
        figures["encode_cpu_seconds"] = sum(os.times()[:4]) - sum(used[:4])
        return found

    opening.build_cache = timed
    words = ["--dataset", table, "--image_column", "photo", "--label_column", "kind", "--vision_encoder", encoder]
    words += ["--freeze_encoders", "true", "--fusion", "concat", "--report_to", "none", "--output_dir", output_dir]
    began = time.perf_counter()
    run = opening.open_run("photos", "train.py", [*words, *flags])
    figures["start_seconds"] = time.perf_counter() - began
    loader = run.training_loader(run.collator)
    loader.set_epoch(0)
    for _ in loader:
        pass
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["worker_peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps(figures))


def measured(way: str, table: Path, encoder: Path, work: Path) -> dict[str, float]:
    """The results of one way, measured in its own process."""
    words = [sys.executable, __file__, "--child", str(table), str(encoder), str(work / f"{table.parent.name}-{way}")]
    environment = {**os.environ, "MM_HF_CACHE": str(work / f"cache-{table.parent.name}"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*words, *WAYS[way]], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{table.parent.name:<8}{way:<8}" + "  ".join(f"{name} {value:,.4g}" for name, value in figures.items()))
    return figures


def main():
    """The command line."""
    if sys.argv[1:2] == ["--child"]:
        measure(*sys.argv[2:5], sys.argv[5:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="houses.zip")
    parser.add_argument("--photos", type=int, default=1712)
    parser.add_argument("--side", type=int, default=3000, help="longer side of a photograph, in pixels")
    parser.add_argument("--encoder", type=Path, default=ENCODER)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--memory", action="store_true", help="also measure four times as many photographs")
    parser.add_argument("--work", type=Path, help="working folder; left out, one that is removed at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        began = time.perf_counter()
        table = make(args.archive, work / f"n{args.photos}", args.photos, args.side)
        print(f"{args.photos} photographs made in {time.perf_counter() - began:.0f} s", flush=True)
        found = {way: measured(way, table, args.encoder.resolve(), work) for way in args.ways}
        if {"before", "now"} <= set(found):
            print(f"encoding: {found['before']['encode_seconds'] / found['now']['encode_seconds']:.1f} times as fast")
        for way in ("before", "now"):
            if {way, "again"} <= set(found):
                quicker = found[way]["start_seconds"] / found["again"]["start_seconds"]
                encoding = found[way]["encode_seconds"] / found["again"]["encode_seconds"]
                print(f"again against {way}: starts {quicker:.1f} times sooner, features {encoding:.0f} times")
        if args.memory:
            more = make(args.archive, work / f"n{4 * args.photos}", 4 * args.photos, args.side)
            for way in ("now", "again"):
                figures = measured(way, more, args.encoder.resolve(), work)
                if way in found:
                    print(f"peak with four times as many: {figures['peak_mb'] / found[way]['peak_mb'] - 1:+.1%}")


if __name__ == "__main__":
    main()
