"""Makes the checkpoints and training states beside this file, which later versions have to load, answer and resume.

They were made at commit 3b3e213 and are not made again: run with other code, this makes what that code does, which
proves nothing.

    python tests/data/checkpoints/make.py FOLDER
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from mm_hf import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionProcessor,
)
from mm_hf.data import letter_tokenizer
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.series import SeriesScaler
from mm_hf.models.tabular import TableSchema, TabularConfig


REPOSITORY = Path(__file__).parents[3]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "initializer_range": 0.2,
}
FUSION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *("what", "colour", "is", "the", "house", "red", "green", "blue", "big", "small", "?", "##s")]
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def make_encoders(folder: Path):
    """Tiny random encoders, with the files that their processors need."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(folder / "vision")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "vision")
    BertModel(BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=24)).save_pretrained(folder / "text")
    (folder / "text/vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(folder / "text/vocab.txt"), model_max_length=24).save_pretrained(folder / "text")
    whisper = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 80, "vocab_size": 30}
    whisper |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    whisper |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
    config = WhisperConfig(**whisper, **ends, max_source_positions=50, max_target_positions=8, init_std=0.2)
    WhisperModel(config).save_pretrained(folder / "audio")
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder / "audio")


def make_rows(folder: Path) -> list[dict]:
    """A table of houses, with a picture each; some have none."""
    draw = np.random.default_rng(0)
    rows = []
    (folder / "photos").mkdir(parents=True)
    for number in range(48):
        colour = list(COLOURS)[draw.integers(3)]
        beds = int(draw.integers(1, 6))
        pixels = np.clip(np.array(COLOURS[colour]) + draw.integers(-30, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{number}.png")
        rows.append(
            {
                "photo": "" if number % 12 == 5 else f"photos/{number}.png",
                "text": f"what colour is the {['big', 'small'][beds < 3]} house ?",
                "beds": beds,
                "kind": ["new", "old"][beds % 2],
                "colour": colour,
                "price": round(40.0 * beds + 25 * list(COLOURS).index(colour) + draw.normal(), 2),
            }
        )
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def make_checkpoint(folder: Path, model, processor, items: dict):
    """A checkpoint with what it answers, a batch of rows and the very inputs that its processor made of them."""
    for name, parameter in model.named_parameters():
        if name.endswith("gates"):
            parameter.data.fill_(0.5)
        elif parameter.ndim > 1 and not parameter.any():  # heads of numbers start from zero
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.unlink()
    batch = processor(**items)
    more = {}
    if isinstance(model, MMFusionForConditionalGeneration):
        more["labels"] = processor.target_ids(["red", "green house", "blue", "a", None])
    with torch.no_grad():
        outputs = model(**batch, **more)
    logits = outputs.logits if "logits" in outputs else outputs.logits_per_text
    answers = {f"logits {task}": values for task, values in logits.items()} if isinstance(logits, dict) else None
    answers = {"logits": logits} if answers is None else answers
    if isinstance(model, MMFusionForConditionalGeneration | MMFusionForCTC):
        answers["written"] = model.generate(**batch, max_new_tokens=6)
    tensors = {f"input {name}": values for name, values in {**batch, **more}.items()} | answers
    save_file({name: values.contiguous() for name, values in tensors.items()}, folder / "answers.safetensors")


def make_checkpoints(folder: Path, encoders: Path, rows: list[dict], pictures: Path):
    """One a head, and one of numbers."""
    chosen = rows[3:8]
    photos = [Image.open(pictures / row["photo"]) if row["photo"] else None for row in chosen]
    texts = [row["text"] for row in chosen]
    sounds = [np.sin(np.arange(n) * 0.03).astype(np.float32) for n in (16000, 9000, 12000)]
    schema = TableSchema.fit({"beds": [row["beds"] for row in rows], "kind": [row["kind"] for row in rows]})
    table = [{"beds": 3, "kind": "old"}, {"beds": None, "kind": "new"}, {"beds": 9, "kind": "ruin"}]
    series = [np.cumsum(np.ones((length, 2)), 0) for length in (4, 7, 5)]
    scaler = SeriesScaler.fit(series)
    pair = {"vision": encoders / "vision", "text": encoders / "text"}
    sources = {"fusion_module_config": FUSION}
    labels = {"num_labels": 3, "id2label": dict(enumerate(COLOURS))}
    labels["label2id"] = {name: number for number, name in labels["id2label"].items()}
    both = MMFusionProcessor.from_encoders_pretrained(**pair)
    items = {"images": photos, "text": texts}
    torch.manual_seed(1)
    own = {"tabular_config": TabularConfig.from_schema(schema, hidden_size=16)}
    own["series_config"] = RecurrentConfig(input_size=2, hidden_size=16)
    single = {"problem_type": "single_label_classification", **labels}
    tasks = {
        "colour": {"problem_type": "single_label_classification", "labels": list(COLOURS)},
        "price": {"problem_type": "regression"},
        "seen": {"problem_type": "multi_label_classification", "labels": ["door", "tree"]},
    }
    ears = MMFusionProcessor.from_encoders_pretrained(audio=encoders / "audio", max_audio_seconds=1)
    ears.tokenizer = letter_tokenizer(["red green blue"])
    build = "from_encoders_pretrained"
    for name, cls, arguments, processor, given in (
        ("classification", MMFusionForClassification, {**pair, **single, "fusion": "concat"}, both, items),
        ("question_answering", MMFusionForQuestionAnswering, {**pair, **single}, both, items),
        (
            "regression",
            MMFusionForClassification,
            {**own, "num_labels": 1, "problem_type": "regression"},
            MMFusionProcessor(table_schema=schema, series_scaler=scaler),
            {"table": table, "series": series},
        ),
        ("multi_task", MMFusionForMultiTask, {**pair, "tasks": tasks, "fusion": "gated"}, both, items),
        ("retrieval", MMFusionForRetrieval, {**pair, "projection_dim": 8}, both, {**items, "images": photos[:2]}),
        ("generation", MMFusionForConditionalGeneration, {**pair, "decoder_layers": 1}, both, items),
        (
            "ctc",
            MMFusionForCTC,
            {
                "audio": encoders / "audio",
                "max_audio_seconds": 1,
                "vocab_size": len(ears.tokenizer),
                "pad_token_id": ears.tokenizer.pad_token_id,
            },
            ears,
            {"audio": sounds},
        ),
    ):
        if name == "retrieval":
            given = {"images": photos[:2], "text": texts[:2]}
        make_checkpoint(folder / name, getattr(cls, build)(**arguments, **sources), processor, given)


def make_states(folder: Path):
    """A run of each script, stopped in the middle, and the weights that it ended with where nobody stopped it."""
    common = {
        "vision_encoder": "encoders/vision",
        "dataset": "rows/rows.csv",
        "image_column": "photo",
        "table_columns": ["beds"],
        "fusion_hidden_size": 16,
        "fusion_layers": 1,
        "fusion_heads": 2,
        "max_steps": 12,
        "eval_steps": 3,
        "save_total_limit": 9,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "floors": False,
        "report_to": "none",
        "ema_decay": 0.8,
    }
    recipes = {
        "train": {
            **common,
            "text_encoder": "encoders/text",
            "text_column": "text",
            "label_column": ["colour", "price"],
        },
        "finetune": {**common, "label_column": "price", "fusion": "concat", "freeze_encoders": True},
    }
    for script, recipe in recipes.items():
        state = folder / script
        state.mkdir()
        # JSON is YAML too.
        (state / "recipe.yaml").write_text(json.dumps(recipe, indent=1))
        for part in ("encoders", "rows"):
            shutil.copytree(folder.parent / part, state / part)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        words = [sys.executable, str(REPOSITORY / f"training/{script}.py"), "recipe.yaml", "--output_dir", "run"]
        subprocess.run(words, cwd=state, env=environment, check=True)
        run = state / "run"
        (run / "model.safetensors").rename(state / "ended.safetensors")
        kept = {"recipe.json", "rows.json", "checkpoint-6"}
        for path in run.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        # The code beside the Trainer's weights is this repository's own.
        manifest = json.loads((run / "checkpoint-6/complete.json").read_text())
        for code in (run / "checkpoint-6").glob("*.py"):
            code.unlink()
            del manifest["files"][code.name]
        (run / "checkpoint-6/complete.json").write_text(json.dumps(manifest))
        for part in ("encoders", "rows"):
            shutil.rmtree(state / part)


def main(folder: Path):
    make_encoders(folder / "encoders")
    rows = make_rows(folder / "rows")
    make_checkpoints(folder / "heads", folder / "encoders", rows, folder / "rows")
    (folder / "states").mkdir()
    make_states(folder / "states")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
