"""Every type that the library lists for classifying images, sounds and texts: built, trained a step, saved, loaded,
and asked about a row alone and in a batch. `docs/encoders.md` holds the table.

`WRITE_ENCODER_TABLE=1 python -m pytest -m slow tests/models/test_encoder_types.py` writes the table anew.
"""

import os
from pathlib import Path

import encoder_types
import pytest
import transformers


TABLE = Path(__file__).parents[2] / "docs" / "encoders.md"
# One of each kind, see the table: what looks at values, what is causal, what no padding may touch, what shares layers,
# what has no AutoModel of its own, what gives a grid…
KINDS = [
    *(("text", name) for name in ("deberta-v2", "longformer", "gpt2", "qwen2", "fnet", "mobilebert", "xmod", "axk2")),
    *(("text", name) for name in ("layoutlmv3", "zamba", "t5gemma", "funnel")),
    *(("vision", name) for name in ("pp_lcnet", "hiera", "metaclip_2")),
    *(("audio", name) for name in ("wav2vec2", "wav2vec2-bert", "whisper")),
]


@pytest.mark.parametrize(("modality", "model_type"), KINDS)
def test_one_type_of_each_kind(modality, model_type):
    (trial,) = encoder_types.try_all([(modality, model_type)])
    assert trial.verdict == "passes", trial.reason


@pytest.mark.parametrize(
    ("modality", "model_type"), [("vision", "siglip2"), ("vision", "imagegpt"), ("text", "perceiver")]
)
def test_types_that_read_something_else_are_refused(modality, model_type):
    (trial,) = encoder_types.try_all([(modality, model_type)])
    assert trial.verdict == "cannot"
    assert model_type in trial.reason


def test_the_kinds_are_in_the_table():
    """The quick tests and the table say the same."""
    rows = TABLE.read_text(encoding="utf-8").splitlines()
    for modality, model_type in KINDS:
        assert any(row.startswith(f"| {modality} | {model_type} | passes |") for row in rows), model_type


@pytest.mark.slow
def test_every_type():
    trials = encoder_types.try_all(encoder_types.all_types())
    able = [trial for trial in trials if trial.verdict != "cannot"]
    failed = [trial for trial in able if trial.verdict == "fails"]
    assert len(failed) <= 0.1 * len(able), "\n".join(f"{trial.model_type}: {trial.reason}" for trial in failed)
    for modality in encoder_types.MAPPINGS:
        own = [trial for trial in able if trial.modality == modality]
        assert sum(trial.verdict == "passes" for trial in own) >= 0.9 * len(own), modality
    written = TABLE.read_text(encoding="utf-8")
    introduction, _ = written.split(encoder_types.MARK)
    page = f"{introduction}{encoder_types.MARK}\n{encoder_types.table(trials)}"
    if os.environ.get("WRITE_ENCODER_TABLE"):
        TABLE.write_text(page, encoding="utf-8")
    elif f"transformers {transformers.__version__}" in written:  # another release has other types
        assert written == page
