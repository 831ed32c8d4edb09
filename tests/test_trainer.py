"""Parameter groups, and the library's own Trainer over the collator and the model."""

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import Trainer, TrainingArguments

from mm_hf import MMFusionForClassification, MMFusionModel, MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, Rows, load_splits
from mm_hf.trainer import parameter_groups


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


def test_every_parameter_that_trains_is_in_one_group(model):
    groups = parameter_groups(model, 1e-3, 0.1, {"text": 1e-5, "fusion": 1e-2, "projections.text": 3e-3})
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    expected = {
        "classifier.weight": (1e-3, 0.1),
        "classifier.bias": (1e-3, 0.0),
        "model.encoders.text.encoder.layer.0.attention.self.query.weight": (1e-5, 0.1),
        "model.encoders.text.embeddings.LayerNorm.weight": (1e-5, 0.0),
        "model.encoders.text.embeddings.word_embeddings.weight": (1e-5, 0.0),
        "model.fusion.layers.0.gates": (1e-2, 0.0),
        "model.fusion.layers.0.mlp.0.weight": (1e-2, 0.1),
        "model.projections.text.levels.0.weight": (3e-3, 0.1),
        "model.projections.vision.levels.0.weight": (1e-3, 0.1),
        "model.projections.vision.absent_token": (1e-3, 0.0),
    }
    parameters = dict(model.named_parameters())
    assert {name: rates[id(parameters[name])] for name in expected} == expected


def test_groups_of_a_model_without_head(encoders):
    model = MMFusionModel.from_encoders_pretrained(text=encoders / "minilm-l6")
    groups = parameter_groups(model, 1e-3, learning_rates={"text": 1e-5})
    assert {group["lr"] for group in groups} == {1e-3, 1e-5}


def test_misspelt_module(model):
    with pytest.raises(ValueError, match="No parameter belongs to 'visoin'"):
        parameter_groups(model, 1e-3, learning_rates={"visoin": 1e-5})


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
