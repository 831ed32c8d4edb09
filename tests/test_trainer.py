"""The library's own Trainer over the collator and the model."""

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import Trainer, TrainingArguments

from mm_hf import MMFusionForClassification, MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, Rows, load_splits


@pytest.fixture
def model(encoders):
    torch.manual_seed(0)
    return MMFusionForClassification.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        vision_feature_layer=[4],
        freeze_encoders=["vision"],
        num_labels=2,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )


def test_the_librarys_trainer(model, encoders, tmp_path):
    """Red or blue, asked about pictures that rows share and lack: the loss falls, evaluation and saving work."""
    colors = ["red", "blue"]
    features = {"image": [], "question": [], "label": []}
    for row in range(24):
        features["image"].append(None if row % 8 == 0 else Image.new("RGB", (32, 32), colors[row % 2]))
        features["question"].append("what color is it?" if row % 8 else colors[row % 2])
        features["label"].append(row % 2)
    types = Features({"image": ImageFeature(), "question": Value("string"), "label": Value("int64")})
    DatasetDict(train=Dataset.from_dict(features, features=types)).save_to_disk(tmp_path / "set")
    columns = Columns(image="image", text="question", label="label")
    rows = Rows(load_splits(tmp_path / "set", columns)["train"], "train")
    processor = MMFusionProcessor.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6"
    )
    processor.image_processor.size = {"height": 32, "width": 32}
    processor.image_processor.do_center_crop = False
    model.config.freeze_encoders = True
    model.base_model.apply_freezing()
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=30,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            logging_steps=1,
            remove_unused_columns=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=MultimodalCollator(processor, columns),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    trainer.save_model(tmp_path / "saved")
    loaded = MMFusionForClassification.from_pretrained(tmp_path / "saved").eval()
    batch = MultimodalCollator(processor, columns)([rows[place] for place in range(8)])
    batch.pop("row_ids")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model.eval()(**batch).logits)
