"""What tests of several folders share: the real encoders, and tiny models under the name `tiny_models`, and a
tiny model of every type under the name `encoder_types`."""

import fcntl
import gc
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from datasets import DatasetDict, load_from_disk


REPOSITORY = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Features that tests encode stay out of the user's cache; the processes that they start have it from here.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="mm_hf_tests_")
    os.environ["MM_HF_CACHE"] = CACHE.name


def load_helper(name: str, path: Path):
    """Makes a helper module importable: tests are no package, and are imported from their files."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


load_helper("messages", REPOSITORY / "tests/messages.py")
load_helper("doc_blocks", REPOSITORY / "tests/doc_blocks.py")
load_helper("tiny_models", REPOSITORY / "tests/models/tiny.py")
load_helper("encoder_types", REPOSITORY / "tests/models/encoder_types.py")
load_helper("modality_cases", REPOSITORY / "tests/modalities/cases.py")
load_helper("evidence_records", REPOSITORY / "tests/browser/records.py")
load_helper("demo_runs", REPOSITORY / "tests/demo/runs.py")
load_helper("kill_and_resume", REPOSITORY / "tests/training/kill_and_resume.py")


def pytest_collection_modifyitems(items):
    """The long files first, those of the scripts before all, the quick ones last: two workers then end at one time."""
    quick = [REPOSITORY / "tests" / name for name in ("data", "evaluation", "modalities", "models")]

    def rank(item) -> int:
        trains = REPOSITORY / "tests/training" in item.path.parents or item.path.name == "test_training.py"
        return 0 if trains else 1 + (item.path.parent in quick)

    items.sort(key=rank)


def pytest_collection_finish():
    """What is loaded by now stays: the garbage collector, which accelerate calls after a training, leaves it out."""
    gc.collect()
    gc.freeze()


def built_once(name: str, *arguments: str) -> Path:
    """The folder that `mm_hf.prepare.<name>` makes, once for all runs and workers."""
    builder = importlib.import_module(f"mm_hf.prepare.{name}")
    folder = REPOSITORY / ".cache" / name
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder.main([*arguments, str(folder)])
    return folder


@pytest.fixture(scope="session")
def encoders() -> Path:
    """Folder of the pretrained encoders, `mobilenet-v2`, `minilm-l6` and `whisper-tiny-en`."""
    return built_once("encoders")


@pytest.fixture(scope="session")
def easy_vqa_folder() -> Path:
    """All of easy-VQA."""
    return built_once("easy_vqa")


@pytest.fixture(scope="session")
def openmoji_folder() -> Path:
    """All of OpenMoji."""
    return built_once("openmoji")


@pytest.fixture(scope="session")
def clothing_reviews_folder() -> Path:
    """All reviews of clothes."""
    return built_once("clothing_reviews")


@pytest.fixture(scope="session")
def fsdd_zip() -> str:
    """The archive of the Free Spoken Digit Dataset, which no package brings."""
    archive = os.environ.get("FSDD_ZIP", REPOSITORY.parent / "shared/data/fsdd.zip")
    if not Path(archive).exists():
        pytest.skip("FSDD_ZIP does not name the archive of the Free Spoken Digit Dataset")
    return str(archive)


@pytest.fixture(scope="session")
def fsdd_folder(fsdd_zip) -> Path:
    """All of the Free Spoken Digit Dataset."""
    return built_once("fsdd", fsdd_zip)


@pytest.fixture(scope="session")
def fsdd(fsdd_folder) -> DatasetDict:
    return load_from_disk(str(fsdd_folder))


@pytest.fixture(scope="session")
def easy_vqa(easy_vqa_folder) -> DatasetDict:
    return load_from_disk(str(easy_vqa_folder))


@pytest.fixture(scope="session")
def browser():
    """Chromium: that of MM_HF_CHROMIUM, which has to be there, or one on the path."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install 'mm_hf[browser]'")
    from playwright.sync_api import sync_playwright

    file = os.environ.get("MM_HF_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if file is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the path: apt-get install chromium, or set MM_HF_CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=file, args=["--no-sandbox"])
        yield started
        started.close()


def registries() -> list:
    """All that examples put something into, `--import` among it."""
    from mm_hf.data.modalities.reader import READERS
    from mm_hf.evaluation import comparisons
    from mm_hf.models.fusion import FUSIONS
    from mm_hf.models.head_table import PROBLEM_TYPES
    from mm_hf.models.modality import MODALITIES
    from mm_hf.models.tasks import TASK_HEADS
    from mm_hf.tasks import TASKS

    of_metrics = [comparisons.LOWER_IS_BETTER, comparisons.IN_UNITS, comparisons.CONSTANTS]
    return [FUSIONS, MODALITIES, READERS, TASKS, TASK_HEADS, PROBLEM_TYPES, *of_metrics]


@pytest.fixture(scope="module")
def imported():
    """A function that imports an example by its name, as `--import` does. When a file of tests ends, nobody has
    registered or imported what it brought."""
    from mm_hf.data.imported import import_files

    def run(name: str):
        import_files([str(REPOSITORY / f"examples/{name}.py")])
        return sys.modules[f"mm_hf.data.imported.{name}"]

    before = [(registry, registry.copy()) for registry in registries()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MM_HF_IMPORTED", "")  # set back, it is as it was
        yield run
    for registry, entries in before:
        registry.clear()
        (registry.extend if isinstance(registry, list) else registry.update)(entries)
    for name in [name for name in sys.modules if name.startswith("mm_hf.data.imported.")]:
        del sys.modules[name]
