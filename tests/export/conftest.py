"""Exporting needs the library's own exporters, which the oldest version that mm_hf takes does not have."""

import importlib.util
from pathlib import Path

import pytest


STORED = Path(__file__).parents[1] / "data/checkpoints"

if importlib.util.find_spec("transformers.exporters") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The classifier, calibrated, and beside it, in `onnx`, its export by the command."""
    from mm_hf import MMFusionForClassification, MMFusionProcessor
    from mm_hf.cli import main
    from mm_hf.models.confidence import Confidence

    run = tmp_path_factory.mktemp("run") / "houses"
    model = MMFusionForClassification.from_pretrained(STORED / "heads/classification").eval()
    model.set_confidence({None: Confidence(50, 1.5, (0.4, 0.5, 0.6))})
    model.save_pretrained(run)
    MMFusionProcessor.from_pretrained(STORED / "heads/classification").save_pretrained(run)
    main(["export", str(run)])
    return run
