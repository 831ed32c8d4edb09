"""MMTrainer as people use it who know `transformers.Trainer`, on rows of easy-VQA and on red and blue pictures."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from datasets import Dataset, DatasetDict, Features, Value, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
    BertTokenizer,
    DefaultDataCollator,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mm_hf import MMFusionForClassification, MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.adapters import add_lora, merge_lora
from mm_hf.data import Columns, ImageAugmentation, MultimodalCollator, Rows, load_splits
from mm_hf.trainer import MMTrainer


REPOSITORY = Path(__file__).parent.parent
COLUMNS = Columns(image="image", image_id="image_id", text="question", label="answer")
TRAIN_ROWS, VALIDATION_ROWS = 64, 37
SIZES = (VALIDATION_ROWS, 1)


@pytest.fixture(scope="module")
def data(easy_vqa, tmp_path_factory) -> Path:
    """Folder of a few rows of easy-VQA: those of one picture are scattered."""
    folder = tmp_path_factory.mktemp("easy-vqa") / "few"
    DatasetDict(
        train=easy_vqa["train"].select(range(TRAIN_ROWS)),
        validation=easy_vqa["validation"].select(range(VALIDATION_ROWS)).shuffle(seed=0),
    ).save_to_disk(folder)
    return folder


def tiny_processor(splits: DatasetDict) -> MMFusionProcessor:
    """For the tiny models: the words of the questions, pictures of 32 pixels."""
    words = {word for split in splits.values() for text in split["question"] for word in text.lower()[:-1].split()}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *sorted(words)]
    tokens = tokens[: tiny_models.VOCABULARY]
    return MMFusionProcessor(
        ViTImageProcessorPil(size={"height": tiny_models.IMAGE_SIZE, "width": tiny_models.IMAGE_SIZE}),
        BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=40),
    )


def tiny_model(dropout: float = 0.0, **kwargs) -> MMFusionForQuestionAnswering:
    """A tiny ViT and BERT with 13 answers."""
    settings = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return tiny_models.model(
        MMFusionForQuestionAnswering,
        **{"num_labels": 13, "classifier_dropout": dropout, "settings": settings, **kwargs},
    )


def accuracy(predictions) -> dict[str, float]:
    """As people write it for the library's Trainer."""
    return {"accuracy": (predictions.predictions.argmax(-1) == predictions.label_ids).mean()}


def build(folder: Path, data: Path, settings: dict | None = None, collator: dict | None = None, **kwargs) -> MMTrainer:
    """A trainer of a tiny model over plain data sets.

    Args:
        folder: of the run.
        data: see the fixture.
        settings: TrainingArguments.
        collator: settings of the collator.
        kwargs: of the trainer.
    """
    splits = load_from_disk(data)
    arguments = {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "max_steps": 4,
        **(settings or {}),
    }
    if "model_init" not in kwargs and "model" not in kwargs:
        kwargs["model"] = tiny_model()
    collator = {"processor": tiny_processor(splits), "columns": COLUMNS, **(collator or {})}
    others = {
        "data_collator": MultimodalCollator(**collator),
        "train_dataset": splits["train"],
        "eval_dataset": splits["validation"],
        "compute_metrics": accuracy,
    }
    return MMTrainer(args=TrainingArguments(**arguments), **{**others, **kwargs})


def steps_of_sgd(world_size: int) -> dict:
    """The same three steps on any number of processes."""
    return {
        "max_steps": 3,
        "optim": "sgd",
        "per_device_train_batch_size": 8 // world_size,
        "per_device_eval_batch_size": 4,
        "lr_scheduler_type": "constant",
    }


def measure(trainer: MMTrainer, size: int) -> dict:
    """What evaluation and prediction say of so many rows."""
    part = trainer.eval_dataset.select(range(size))
    metrics, predicted = trainer.evaluate(part), trainer.predict(part)
    return {
        "loss": metrics["eval_loss"],
        "accuracy": metrics["eval_accuracy"],
        "predictions": predicted.predictions.tolist(),
        "labels": predicted.label_ids.tolist(),
    }


def scripted(values: list[float]):
    """Metrics of which the course is known."""
    course = iter(values)
    return lambda predictions: {"score": next(course)}


def weights_of(model) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]):
    """Bit for bit."""
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def real_model(encoders) -> MMFusionForQuestionAnswering:
    """Frozen MobileNetV2 and MiniLM below a small fusion."""
    torch.manual_seed(0)
    return MMFusionForQuestionAnswering.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        vision_feature_layer=[4],
        freeze_encoders=True,
        num_labels=13,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )


def real_processor(encoders) -> MMFusionProcessor:
    processor = MMFusionProcessor.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6"
    )
    processor.image_processor.size = {"height": 64, "width": 64}
    processor.image_processor.do_center_crop = False
    return processor


# The whole way


def test_real_encoders_from_plain_data_to_a_folder_that_answers(encoders, data, tmp_path):
    """Columns that the model does not know, arguments left alone; the folder alone then takes a raw row."""
    settings = {"max_steps": 16, "per_device_train_batch_size": 16, "load_best_model_at_end": True}
    settings |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 16, "save_steps": 16}
    trainer = build(
        tmp_path / "run", data, settings, {"processor": real_processor(encoders)}, model=real_model(encoders)
    )
    assert {"kind", "row_id"} < set(trainer.train_dataset.column_names)
    assert trainer.args.remove_unused_columns
    first = trainer.evaluate(trainer.train_dataset)
    trainer.train()
    last = trainer.evaluate(trainer.train_dataset)
    assert last["eval_loss"] < 0.7 * first["eval_loss"]
    assert last["eval_accuracy"] > first["eval_accuracy"] + 0.2
    assert_same(weights_of(trainer.model), load_file(Path(trainer.state.best_model_checkpoint, "model.safetensors")))

    row = trainer.eval_dataset[5]
    expected = torch.from_numpy(trainer.predict(trainer.eval_dataset).predictions[5])
    trainer.save_model(tmp_path / "saved")
    for folder in (tmp_path / "saved", trainer.state.best_model_checkpoint):
        model = AutoModelForVisualQuestionAnswering.from_pretrained(folder).eval()
        inputs = AutoProcessor.from_pretrained(folder)(images=row["image"], text=row["question"])
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits[0], expected, atol=1e-4, rtol=0)


# The best weights


def test_the_best_weights_come_back_bit_for_bit(data, tmp_path):
    """A ViT tower, whose weights the library saves under other names, and a limit that the best is exempt from."""
    settings = {"max_steps": 8, "eval_steps": 2, "save_steps": 2, "eval_strategy": "steps", "save_strategy": "steps"}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "save_total_limit": 2}
    trainer = build(tmp_path, data, settings, compute_metrics=scripted([0.1, 0.9, 0.5, 0.6, 0.0]))
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert {"checkpoint-4", "checkpoint-8"} <= set(checkpoints(tmp_path))
    assert "checkpoint-2" not in checkpoints(tmp_path)
    best, last = (load_file(tmp_path / f"checkpoint-{step}/model.safetensors") for step in (4, 8))
    assert_same(weights_of(trainer.model), best)
    assert sum(not torch.equal(best[name], last[name]) for name in best) > len(best) / 2


def test_the_best_of_those_that_were_saved_comes_back(data, tmp_path):
    """Evaluated more often than saved: the very best is on no disk."""
    settings = {"max_steps": 8, "eval_steps": 2, "save_steps": 4, "eval_strategy": "steps", "save_strategy": "steps"}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "save_total_limit": 1}
    trainer = build(tmp_path, data, settings, compute_metrics=scripted([0.2, 0.5, 0.9, 0.4]))
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-4"]  # as the library does with a limit of one
    assert_same(weights_of(trainer.model), load_file(tmp_path / "checkpoint-4/model.safetensors"))


def test_only_what_is_better_is_saved(data, tmp_path):
    settings = {"max_steps": 6, "eval_steps": 2, "eval_strategy": "steps", "save_strategy": "best"}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score"}
    trainer = build(tmp_path, data, settings, compute_metrics=scripted([0.1, 0.9, 0.5]))
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert_same(weights_of(trainer.model), load_file(tmp_path / "checkpoint-4/model.safetensors"))


# Taking up a run


def drawing(folder: Path, data: Path, steps: int = 8, **kwargs) -> MMTrainer:
    """A run in which much is drawn at random: four steps an epoch, saved in the middle of both."""
    settings = {"max_steps": steps, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    collator = {"augment": ImageAugmentation(crop=True, color=0.3), "token_dropout": 0.3}
    return build(folder, data, settings, collator, **{"model": tiny_model(dropout=0.2), **kwargs})


def test_a_run_is_taken_up_in_the_middle_of_an_epoch(data, tmp_path):
    whole = drawing(tmp_path / "whole", data)
    whole.train()
    assert whole.state.epoch == 2
    expected = weights_of(whole.model)
    losses = {entry["step"]: entry["loss"] for entry in whole.state.log_history if "loss" in entry}
    for torn, begins in ((False, 6), (True, 3)):
        folder = tmp_path / f"from-{begins}"
        shutil.copytree(tmp_path / "whole", folder, ignore=shutil.ignore_patterns("checkpoint-8"))
        trainer = drawing(folder, data)
        began = []
        trainer.add_callback(on_train_begin(lambda state, began=began: began.append(state.global_step)))
        if torn:
            with open(folder / "checkpoint-6/optimizer.pt", "r+b") as file:
                file.truncate(1000)
            with pytest.warns(UserWarning, match="checkpoint-6 .*optimizer.pt .*1000 bytes"):
                trainer.train(resume_from_checkpoint=True)
        else:
            trainer.train(resume_from_checkpoint=True)
        assert began == [begins]
        assert_same(weights_of(trainer.model), expected)
        assert {e["step"]: e["loss"] for e in trainer.state.log_history if "loss" in e} == losses


def on_train_begin(action) -> TrainerCallback:
    """A callback that looks at the state when the training begins."""
    callback = TrainerCallback()
    callback.on_train_begin = lambda args, state, control, **kwargs: action(state)
    return callback


def test_there_must_be_something_to_take_up(data, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint .*nothing\b"):
        build(tmp_path / "nothing", data).train(resume_from_checkpoint=True)


def test_adapters_train_and_resume_and_merge(data, tmp_path):
    def adapted():
        return add_lora(tiny_model(dropout=0.2), "text", dropout=0.1)

    whole = drawing(tmp_path / "whole", data, model=adapted())
    before = weights_of(whole.model)
    whole.train()
    moved = {name for name, tensor in whole.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(".lora_B." in name for name in moved)
    assert not [name for name in moved if "encoders.text" in name and ".lora_" not in name]
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"whole/checkpoint-{step}")
    resumed = drawing(tmp_path / "whole", data, model=adapted())
    resumed.train(resume_from_checkpoint=True)
    assert_same(weights_of(resumed.model), weights_of(whole.model))

    expected = resumed.predict(resumed.eval_dataset).predictions
    with pytest.raises(ValueError, match="merge_lora"):
        resumed.save_model(tmp_path / "merged")
    merge_lora(resumed.model)
    resumed.save_model(tmp_path / "merged")
    loaded = build(tmp_path, data, model=MMFusionForQuestionAnswering.from_pretrained(tmp_path / "merged"))
    np.testing.assert_allclose(loaded.predict(loaded.eval_dataset).predictions, expected, atol=1e-5)


# Evaluation and prediction


def test_predictions_are_in_the_order_of_the_rows(data, tmp_path):
    trainer = build(tmp_path, data)
    part = trainer.eval_dataset
    order = [row for batch in trainer.get_test_dataloader(part) for row in batch["row_ids"].tolist()]
    assert sorted(order) == list(range(len(part)))
    assert order != sorted(order)  # the rows of one picture come together
    predicted = trainer.predict(part)
    assert predicted.label_ids.tolist() == part["answer"][:]
    assert predicted.metrics["test_accuracy"] == (predicted.predictions.argmax(-1) == part["answer"][:]).mean()
    processor, model = trainer.data_collator.processor, trainer.model.eval()
    for row, logits in zip(part, predicted.predictions):
        with torch.no_grad():
            alone = model(**processor(images=row["image"], text=row["question"])).logits[0]
        torch.testing.assert_close(torch.from_numpy(logits), alone, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(trainer.predict(part.with_format("torch")).predictions, predicted.predictions)
    # What nobody knows the answers of.
    unlabelled = trainer.predict(part.remove_columns("answer"))
    np.testing.assert_array_equal(unlabelled.predictions, predicted.predictions)
    assert unlabelled.label_ids is None
    assert "test_accuracy" not in unlabelled.metrics
    rows = Rows(load_splits(data, Columns(image="image", image_id="image_id", text="question"))["validation"], "x")
    np.testing.assert_allclose(trainer.predict(rows).predictions, predicted.predictions, atol=1e-5)


def test_evaluation_of_several_parts_and_of_the_loss_alone(data, tmp_path):
    train = load_from_disk(data)["train"]
    parts = {"ten": train.select(range(10)), "three": train.select(range(3))}
    trainer = build(tmp_path, data, {"eval_strategy": "steps", "eval_steps": 4}, eval_dataset=parts)
    trainer.train()
    metrics = trainer.evaluate()
    for name, part in parts.items():
        alone = trainer.evaluate(part)
        assert metrics[f"eval_{name}_loss"] == alone["eval_loss"] == trainer.evaluate(name)["eval_loss"]
        assert metrics[f"eval_{name}_accuracy"] == alone["eval_accuracy"]
        logged = [entry for entry in trainer.state.log_history if f"eval_{name}_loss" in entry]
        assert logged[0][f"eval_{name}_loss"] == alone["eval_loss"]

    trainer.args.prediction_loss_only = True
    predicted = trainer.predict(parts["ten"])
    assert (predicted.predictions, predicted.label_ids) == (None, None)
    assert "test_accuracy" not in predicted.metrics
    assert predicted.metrics["test_loss"] == metrics["eval_ten_loss"]
    trainer.args.prediction_loss_only, trainer.compute_metrics = False, None
    assert trainer.evaluate(parts["ten"])["eval_loss"] == metrics["eval_ten_loss"]
    assert trainer.predict(parts["ten"]).predictions.shape == (10, 13)


def test_logits_can_be_changed_for_the_metrics(data, tmp_path):
    seen = []

    def to_classes(logits, labels):
        assert logits.shape == (VALIDATION_ROWS, 13)
        assert labels.shape == (VALIDATION_ROWS,)
        return logits.argmax(-1)

    def compute_metrics(predictions):
        seen.append(predictions.predictions.shape)
        return {}

    trainer = build(tmp_path, data, preprocess_logits_for_metrics=to_classes, compute_metrics=compute_metrics)
    predicted = trainer.predict(trainer.eval_dataset)
    assert seen == [(VALIDATION_ROWS,)] == [predicted.predictions.shape]


def test_augmentation_is_for_training_alone(data, tmp_path):
    plain, noisy = build(tmp_path, data), drawing(tmp_path, data, model=tiny_model())
    expected = plain.evaluate()
    assert noisy.evaluate()["eval_loss"] == expected["eval_loss"]
    noisy.train()
    plain.model.load_state_dict(noisy.model.state_dict())
    assert noisy.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"] != expected["eval_loss"]
    batches = [next(iter(trainer.get_train_dataloader())) for trainer in (plain, noisy)]
    assert torch.equal(batches[0]["row_ids"], batches[1]["row_ids"])
    assert not torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    assert not torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])


def test_an_optimizer_with_other_weights_for_evaluation(data, tmp_path):
    """As the ones without a schedule have them: training and evaluation each ask for theirs."""

    class Switching(torch.optim.SGD):
        modes: list[str] = []

        def train(self):
            self.modes.append("train")

        def eval(self):
            self.modes.append("eval")

    model = tiny_model()
    optimizer = Switching(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    build(tmp_path, data, settings, model=model, optimizers=(optimizer, schedule)).train()
    assert Switching.modes == ["train", "eval"] * 2


# Two processes


@pytest.fixture(scope="module")
def two_processes(data, tmp_path_factory) -> SimpleNamespace:
    """What the two processes of the worker wrote."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, str(REPOSITORY / "tests/trainer_worker.py"), str(data), str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return SimpleNamespace(
        folder=folder,
        reports=[json.loads((folder / f"report{rank}.json").read_text()) for rank in range(2)],
        weights=[torch.load(folder / f"weights{rank}.pt", weights_only=True) for rank in range(2)],
    )


@pytest.mark.slow  # `make reliability` runs it
def test_two_processes_count_every_row_once(two_processes, data, tmp_path):
    trainer = build(tmp_path, data, steps_of_sgd(world_size=1))
    for size in SIZES:
        expected = measure(trainer, size)
        for report in two_processes.reports:
            assert report["world_size"] == 2
            part = report["parts"][str(size)]
            assert part["labels"] == expected["labels"] == trainer.eval_dataset["answer"][:size]
            np.testing.assert_allclose(part["predictions"], expected["predictions"], atol=1e-5)
            assert part["accuracy"] == expected["accuracy"]
            assert part["loss"] == pytest.approx(expected["loss"], abs=1e-6)


@pytest.mark.slow  # `make reliability` runs it
def test_two_processes_train_as_one_with_twice_the_batch(two_processes, data, tmp_path):
    trainer = build(tmp_path, data, steps_of_sgd(world_size=1))
    before = weights_of(trainer.model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    for report, weights in zip(two_processes.reports, two_processes.weights):
        assert report["losses"] == pytest.approx(losses, rel=1e-4)
        for name, tensor in trainer.model.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    assert any((weights[name] - before[name]).abs().max() > 1e-3 for name in weights)
    assert [report["saves"] for report in two_processes.reports] == [2, 0]  # the processor, by one of them
    assert checkpoints(two_processes.folder / "run") == ["checkpoint-2", "checkpoint-3"]


# The loss


@pytest.mark.parametrize("given", ["model", "model_init", "model_init of a trial"])
def test_label_smoothing_keeps_the_models_own_loss(given, data, tmp_path):
    """One step that changes nothing: the loss is the formula's, with what else the model has in it."""
    class_weights = [1.0 + number for number in range(13)]

    def init():
        return tiny_model(class_weights=class_weights, problem_type="single_label_classification")

    source = {"model": init()} if given == "model" else {"model_init": init}
    if given == "model_init of a trial":
        source = {"model_init": lambda trial: init()}
    settings = {"max_steps": 1, "learning_rate": 0.0, "label_smoothing_factor": 0.3}
    trainer = build(tmp_path, data, settings, **source)
    trainer.train()
    assert trainer.model.config.label_smoothing == 0.3
    assert trainer.args.label_smoothing_factor == 0.3  # for trackers, and for the next trainer
    batch = next(iter(trainer.get_train_dataloader()))
    labels, _ = batch.pop("labels"), batch.pop("row_ids")
    with torch.no_grad():
        log_p = trainer.model.eval()(**batch).logits.log_softmax(-1)
    targets = 0.7 * torch.nn.functional.one_hot(labels, 13) + 0.3 / 13
    expected = -(targets * torch.tensor(class_weights) * log_p).sum(-1).mean()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    # Evaluation measures the plain one.
    predicted = trainer.predict(trainer.train_dataset)
    plain = torch.nn.functional.cross_entropy(
        torch.from_numpy(predicted.predictions), torch.from_numpy(predicted.label_ids)
    )
    assert predicted.metrics["test_loss"] == pytest.approx(plain.item(), rel=1e-5)


def test_missing_numbers_do_not_count_in_the_loss(data, tmp_path):
    """Two batches of four, unequally full, have the gradients of one batch of eight."""
    train = load_from_disk(data)["train"].remove_columns("answer")
    scores = [None if row % 8 in (0, 2, 3, 5) else row / 32 - 1 for row in range(TRAIN_ROWS)]
    train = train.add_column("answer", scores)
    gradients, losses = [], []
    for batch_size, accumulation in ((4, 2), (8, 1)):
        settings = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        settings |= {"max_steps": 1, "max_grad_norm": 0.0}
        trainer = build(
            tmp_path,
            data,
            settings,
            {"problem_type": "regression"},
            model=tiny_model(num_labels=1, problem_type="regression"),
            train_dataset=train,
        )
        kept: dict[str, torch.Tensor] = {}
        callback = TrainerCallback()
        callback.on_pre_optimizer_step = lambda args, state, control, model, kept=kept, **kwargs: kept.update(
            {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        )
        trainer.add_callback(callback)
        trainer.train()
        gradients.append(kept)
        losses.append(trainer.state.log_history[0]["loss"])
        batches = list(trainer.get_train_dataloader())[:accumulation]
        present = [int((~batch["labels"].isnan()).sum()) for batch in batches]
        assert 0 < sum(present) < 8
        if accumulation == 2:
            assert present[0] != present[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-2


# What else belongs to the Trainer


@pytest.mark.slow  # `make reliability` runs it
def test_hyperparameter_search(data, tmp_path):
    objectives = []

    def compute_objective(metrics):
        objectives.append(metrics["eval_accuracy"] - metrics["eval_loss"])
        return objectives[-1]

    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = build(tmp_path, data, {**settings, "label_smoothing_factor": 0.1}, model_init=lambda: tiny_model())
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-6, 3e-2])},
        compute_objective=compute_objective,
        n_trials=2,
        direction="maximize",
        backend="optuna",
        sampler=grid({"learning_rate": [1e-6, 3e-2]}),
    )
    assert objectives[0] != objectives[1]
    assert best.objective == max(objectives)
    assert best.run_id == str(int(np.argmax(objectives)))
    assert best.hyperparameters["learning_rate"] in (1e-6, 3e-2)
    assert sorted(path.name for path in tmp_path.glob("run-*")) == ["run-0", "run-1"]
    assert (tmp_path / "run-1/checkpoint-2/complete.json").is_file()
    trainer.args.learning_rate = best.hyperparameters["learning_rate"]
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] - trainer.evaluate()["eval_loss"] == pytest.approx(best.objective)


def grid(space: dict):
    """Each value once."""
    import optuna

    return optuna.samplers.GridSampler(space, seed=0)


def test_trackers_callbacks_and_early_stopping(data, tmp_path):
    class Counting(TrainerCallback):
        evaluated: list[float] = []
        predicted = 0

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            self.evaluated.append(metrics["eval_score"])

        def on_prediction_step(self, args, state, control, eval_dataloader, **kwargs):
            self.predicted += 1

    counting = Counting()
    settings = {"max_steps": 12, "eval_steps": 2, "eval_strategy": "steps", "metric_for_best_model": "score"}
    settings |= {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2}
    trainer = build(
        tmp_path,
        data,
        {**settings, "report_to": "tensorboard"},
        compute_metrics=scripted([0.5, 0.6, 0.4, 0.3, 0.9, 0.9]),
        callbacks=[counting, EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.state.best_global_step == 4
    assert counting.evaluated == [0.5, 0.6, 0.4, 0.3]
    assert counting.predicted == 4 * -(-VALIDATION_ROWS // 8)
    [events] = tmp_path.glob("runs/*/events.out.tfevents.*")
    assert events.stat().st_size > 1000
    assert b"eval/score" in events.read_bytes()


def test_a_processor_that_is_handed_over(data, tmp_path):
    processor = tiny_processor(load_from_disk(data))
    trainer = build(tmp_path, data, processing_class=processor)
    trainer.train()
    trainer.save_model()
    vocabulary = AutoProcessor.from_pretrained(tmp_path).tokenizer.get_vocab()
    assert vocabulary == processor.tokenizer.get_vocab()


def test_what_cannot_work_says_so(data, tmp_path):
    with pytest.raises(ValueError, match=r"data_collator.*MultimodalCollator.*NoneType"):
        build(tmp_path, data, data_collator=None)
    with pytest.raises(ValueError, match=r"data_collator.*MultimodalCollator.*DefaultDataCollator"):
        build(tmp_path, data, data_collator=DefaultDataCollator())
    for name, value in (
        ("batch_eval_metrics", True),
        ("eval_do_concat_batches", False),
        ("include_for_metrics", ["inputs"]),
        ("train_sampling_strategy", "group_by_length"),
        ("bf16_full_eval", True),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{value}"):
            build(tmp_path, data, {name: value})
    for part in ("train_dataset", "eval_dataset"):
        trainer = build(tmp_path, data, **{part: None})
        with pytest.raises(ValueError, match=f"needs {part}"):
            trainer.train() if part == "train_dataset" else trainer.evaluate()
    with pytest.raises(TypeError, match=r"Rows, .*datasets\.Dataset .*StreamBatches.*\blist\b"):
        build(tmp_path, data, train_dataset=[{"image": None}]).train()
    with pytest.raises(ValueError, match="Unknown column 'answer'"):
        build(tmp_path, data, train_dataset=load_from_disk(data)["train"].remove_columns("answer")).train()


def test_several_gpus_in_one_process_are_refused(data, tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    arguments._n_gpu = 2
    collator = MultimodalCollator(tiny_processor(load_from_disk(data)), COLUMNS)
    with pytest.raises(ValueError, match=r"\b2 GPUs.*accelerate launch"):
        MMTrainer(tiny_model(), arguments, collator)


# The library's own Trainer


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
