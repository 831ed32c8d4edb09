# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Brings in transformers' own common tests, and judges every test that is skipped.

The library ships these tests in its source distribution alone. That of the installed version is fetched when this
folder is collected, and its `tests/` are kept under `.cache/`, from where they are imported as `transformers_tests`.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

import huggingface_hub.constants
import pytest
import transformers


CACHE = Path(__file__).parents[2] / ".cache" / f"transformers-tests-{transformers.__version__}"
PACKAGE = "transformers_tests"

# Modules that the common tests import and the source distribution lacks, with what they take from there. So the tests
# of exporting and of generation are left out.
STUBS = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {
        "config_common_kwargs": {"return_dict": False, "output_hidden_states": True, "dtype": "float16"}
    },
    # Names the local copies of pictures and films, which our tests do not use.
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}

# The skips that stand, by what the test and its reason say, and why: all others fail. A skip can hide a fault: a model
# that does not declare what it can do ("does not support SDPA") is not tested for it.
JUDGED_SKIPS = {
    r": (This )?test requires (?!PyTorch$|vision$)": "needs hardware, or a package that mm_hf does not use",
    r": test is slow": "compiling in training takes minutes; test_craft.py does it with real towers",
    r"float16 not supported|bfloat16 not supported": "needs other hardware",
    r"(ViT|V2|Whisper|Table|Series)Test.*language modeling head to check": "none of these writes; another one does",
    r"does not support grouped_mm|no sparse experts|output_router_logits": "no mixture of experts",
    r"RoPE|axial RoPE layer|GenerationTest.*base_model_class": "no rotary positions in these towers",
    r"GenerationTest.*already aligned with the targets": "the loss of encoder-decoders has a test of its own",
    r"GenerationTest.*does not propagate hidden states": "it gives those of encoder and decoder, under their names",
    r"[Nn]o `?_keep_in_fp32_modules(_strict)?`?": "no part has to stay in fp32",
    r"Do not take a cache as input to forward": "no part of the models decodes, so there is no cache of keys",
    r"does not have a TP plan": "no tensor parallelism",
    r"does not support sliding window mask": "no sliding window",
    r"Model does not have position embeddings": "the towers' lengths are fixed",
    r"(V2|Whisper|Table|Series)Test.*No conversion found": "its weights have one set of names; the ViT's have two",
    r"(MobileNetV2|Table|Series)Test.*Parts of this model don't support sdpa": "these towers have no attention",
    r"video_processor attribute not present": "a video is its pictures",
    r"chat template": "the models do not chat",
    r"_get_num_multimodal_tokens": "texts have no places for images",
}


def fetch_common_tests() -> Path:
    """Downloads and unpacks the tests of the installed transformers, unless that was done before.

    Returns:
        the folder that holds them as the package `transformers_tests`.

    Raises:
        RuntimeError: the source distribution could not be had, or has no tests in it.
    """
    if CACHE.is_dir():
        return CACHE
    CACHE.parent.mkdir(exist_ok=True)
    # Several workers may be here at once: each works in a folder of its own, the first to be ready gives its result.
    with tempfile.TemporaryDirectory(dir=CACHE.parent, prefix=CACHE.name) as folder:
        requirement = f"transformers=={transformers.__version__}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformers", "-d", folder]
        run = subprocess.run(
            [*command, "--disable-pip-version-check", requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        archive = next(Path(folder).glob("transformers-*.tar.gz"), None)
        if run.returncode or archive is None:
            raise RuntimeError(
                f"The source distribution of {requirement}, which holds the library's common tests, could not be "
                f"fetched. Without a network, leave this folder out: pytest --ignore=tests/conformance\n{run.stdout}"
            )
        unpacked = Path(folder) / "unpacked"
        package = unpacked / PACKAGE
        package.mkdir(parents=True)
        with tarfile.open(archive) as files:
            for member in files:
                path = Path(member.name)
                if member.isfile() and path.parts[1:2] == ("tests",) and ".." not in path.parts:
                    target = package.joinpath(*path.parts[2:])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(files.extractfile(member).read())
        if not any(package.iterdir()):
            raise RuntimeError(f"There are no tests in {archive.name}.")
        (package / "__init__.py").touch()
        try:
            unpacked.rename(CACHE)
        except OSError:
            if not CACHE.is_dir():  # else another worker was first
                raise
    return CACHE


def provide_stubs(folder: Path):
    """Makes the modules of `STUBS` importable, those that the distribution does hold excepted."""
    for name, attributes in STUBS.items():
        if folder.joinpath(*name.split(".")).with_suffix(".py").exists():
            continue
        module = types.ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
        parent, _, _ = name.rpartition(".")
        if parent and not folder.joinpath(*parent.split(".")).is_dir():
            sys.modules[parent] = types.ModuleType(parent)
            sys.modules[parent].__path__ = []


sys.path.insert(0, str(fetch_common_tests()))
provide_stubs(CACHE)


def pytest_configure(config):
    """Makes known the marks that the library gives its tests."""
    for file in CACHE.rglob("test_*_common.py"):
        for mark in sorted(set(re.findall(r"@(?:pytest\.)?mark\.(\w+)", file.read_text()))):
            config.addinivalue_line("markers", f"{mark}: a mark of transformers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fails every test, and every part of one, that skips itself for a reason that is not in `JUDGED_SKIPS`."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.search(pattern, f"{item.nodeid}: {reason}") for pattern in JUDGED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"Skipped for a reason that nobody has judged (see JUDGED_SKIPS in {__file__}): {reason}"
    return report


@pytest.fixture(scope="module", autouse=True)
def _closed_stdin_and_no_hub():
    """Standard input is closed (the library asks there whether to trust remote code), and the Hub is out of reach."""
    with pytest.MonkeyPatch.context() as patch, open(os.devnull) as nothing:
        patch.setattr(sys, "stdin", nothing)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield
