"""What tests of several folders share: the real encoders, and tiny models under the name `tiny_models`."""

import fcntl
import importlib.util
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parent.parent


def load_helper(name: str, path: Path):
    """Makes a helper module importable: tests are no package, and are imported from their files."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


load_helper("tiny_models", REPOSITORY / "tests/models/tiny.py")


def pytest_collection_modifyitems(items):
    """The long files, those of the scripts, first: two workers then end at the same time."""
    items.sort(key=lambda item: (REPOSITORY / "tests/training") not in item.path.parents)


@pytest.fixture(scope="session")
def encoders() -> Path:
    """Folder of the two pretrained encoders, `mobilenet-v2` and `minilm-l6`, built once for all runs and workers."""
    from training.prepare.encoders import main

    folder = REPOSITORY / ".cache/encoders"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / "encoders.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        main([str(folder)])
    return folder
