"""The craft of training, key by key, as the scripts do it: real encoders, real questions, both scripts, since each has
code of its own for many a key."""

import contextlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from datasets import DatasetDict, load_from_disk
from messages import says
from torch.optim.optimizer import register_optimizer_step_post_hook

from mm_hf.training import finetune, loop, recipe_trainer, train
from mm_hf.training.exits import run_script
from mm_hf.training.model_arguments import ModelArguments
from mm_hf.training.open_run import open_run
from mm_hf.training.run import Run


ROWS = {"train": 200, "validation": 20, "test": 20}
TINY = {"per_device_train_batch_size": 4}  # where the encoders train
# Each key is tried through both scripts; the second way, two minutes in all, by `make test-slow`.
SCRIPTS = pytest.mark.parametrize(
    "script", [pytest.param(train, id="train"), pytest.param(finetune, id="finetune", marks=pytest.mark.slow)]
)


@pytest.fixture(scope="session")
def dataset(easy_vqa, tmp_path_factory) -> Path:
    """The questions of some 20 pictures of easy-VQA to train on."""
    folder = tmp_path_factory.mktemp("easy_vqa") / "small"
    DatasetDict({name: easy_vqa[name].select(range(rows)) for name, rows in ROWS.items()}).save_to_disk(folder)
    return folder


@pytest.fixture(autouse=True)
def alone():
    """Accelerate keeps the precision of the first run in a process for all that follow."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def recipe(encoders, dataset, tmp_path, monkeypatch):
    """Writes a recipe of some keys, quick ones where nothing else is asked, and puts it on the command line."""

    def write(**keys) -> Path:
        values = {
            "vision_encoder": str(encoders / "mobilenet-v2"),
            "text_encoder": str(encoders / "minilm-l6"),
            "dataset": str(dataset),
            "output_dir": str(tmp_path / "run"),
            "overwrite_output_dir": True,
            "image_column": "image",
            "text_column": "question",
            "label_column": "answer",
            "fusion_hidden_size": 32,
            "fusion_layers": 1,
            "fusion_heads": 2,
            "fusion_dropout": 0.0,
            "vision_feature_layer": [4, 11],
            "image_size": 64,
            "freeze_encoders": True,
            "learning_rate": 1e-3,
            "warmup_ratio": 0.0,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 20,
            "logging_steps": 1,
            "floors": False,
            "report_to": "none",
            "defaults_version": 2,  # the encoders train where a test says so
            **keys,
        }
        values = {key: value for key, value in values.items() if value is not None}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path / "recipe.yaml")])
        return Path(values["output_dir"])

    return write


@pytest.fixture
def prepared(recipe):
    """Sets a run up as a script does: all but the training. Nothing of the head is dropped, so that a test can tell
    the loss of a batch."""

    def prepare(script: ModuleType, **keys) -> Run:
        recipe(**keys)
        job = open_run("", script.__name__)
        job.model.dropout.p = 0.0
        return job

    return prepare


@pytest.fixture
def trained(prepared, monkeypatch):
    """Sets a run up and trains it as a script does; `change` gets the job in between. Without `keep` as it trains for
    a floor: no checkpoints, and through the Trainer no evaluation.

    Gives the job, the script's own trainer, the loss of each step, and the optimizer.
    """
    trainers = []
    for trainer_class in (loop.Training, recipe_trainer.RecipeTrainer):

        def note(self, *args, _original=trainer_class.__init__, **kwargs):
            _original(self, *args, **kwargs)
            trainers.append(self)

        monkeypatch.setattr(trainer_class, "__init__", note)

    def fit(script: ModuleType, change=None, keep=False, **keys) -> SimpleNamespace:
        job = prepared(script, **keys)
        if change is not None:
            change(job)
        history = script.fit(job, job.model, job.collator, job.train_args, job.output_dir if keep else None)
        trainer = trainers[-1]
        losses = [loss for _, loss in history["loss"]]
        return SimpleNamespace(
            job=job, model=job.model, trainer=trainer, losses=losses, optimizer=trainer.optimizer, history=history
        )

    return fit


@pytest.fixture
def batches(monkeypatch) -> list[tuple]:
    """Every batch that is made from now on: its part, the row ids, and the batch itself, which a test may change."""
    from mm_hf.data import MultimodalCollator

    made, original = [], MultimodalCollator.__call__

    def note(self, rows):
        batch = original(self, rows)
        made.append((rows[0]["split"], [row["row_id"] for row in rows], dict(batch)))
        return batch

    monkeypatch.setattr(MultimodalCollator, "__call__", note)
    return made


@pytest.fixture
def evaluations(monkeypatch) -> list[dict]:
    """The weights of every model that is measured."""
    import mm_hf.trainer
    import mm_hf.training.evaluator
    import mm_hf.training.finish
    from mm_hf.evaluation import predict

    measured = []

    def note(model, *args, **kwargs):
        measured.append(weights_of(model))
        return predict(model, *args, **kwargs)

    monkeypatch.setattr(mm_hf.trainer, "predict", note)
    for module in (mm_hf.training.evaluator, mm_hf.training.finish):
        monkeypatch.setattr(module, "predict", note)
    return measured


@contextlib.contextmanager
def after_each_step(act):
    """Calls `act` behind every step of any optimizer."""
    hook = register_optimizer_step_post_hook(lambda *_: act())
    try:
        yield
    finally:
        hook.remove()


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(one: dict, other: dict, part: str = "") -> bool:
    """Whether all weights whose names contain `part` are the same, bit for bit."""
    names = [name for name in one if part in name]
    assert names
    return all(torch.equal(one[name], other[name]) for name in names)


def one_line(main) -> str:
    """The error that a run ends with."""
    with pytest.raises(SystemExit) as exit_info:
        run_script(main)
    assert "\n" not in str(exit_info.value)
    return str(exit_info.value)


# Averages and stopping


@SCRIPTS
def test_ema_is_what_is_measured_and_kept(script, trained, evaluations):
    steps, jobs = [], []
    with after_each_step(lambda: steps.append(weights_of(jobs[0].model))):
        done = trained(
            script,
            lambda job: (jobs.append(job), steps.append(weights_of(job.model))),
            ema_decay=0.15,
            learning_rate=1e-2,
            max_steps=4,
            eval_steps=4,
            keep=True,
        )
    name = "classifier.weight"
    average = steps[0][name]
    for number, step in enumerate(steps[1:]):
        decay = min(0.15, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * step[name]
    assert len(steps) == 5
    assert (average - steps[-1][name]).abs().max() > 1e-4
    torch.testing.assert_close(done.trainer.train_state.ema.tensors()[name], average)
    torch.testing.assert_close(done.model.classifier.weight.detach(), average)
    assert [measured.keys() for measured in evaluations] == [steps[0].keys()]
    torch.testing.assert_close(evaluations[0][name], average)


@SCRIPTS
def test_early_stopping(script, trained, evaluations):
    done = trained(script, learning_rate=0.0, early_stopping_patience=2, max_steps=9, eval_steps=1, keep=True)
    assert len(evaluations) == 3
    assert len(done.losses) == 3


# The loss


def cross_entropy(logits, labels, **kwargs):
    return torch.nn.functional.cross_entropy(logits, labels, **kwargs)


def focal(logits, labels, counts):
    losses = cross_entropy(logits, labels, reduction="none")
    return ((1 - (-losses).exp()) ** 1.5 * losses).mean()


LOSSES = {
    "label_smoothing_factor": (
        {"label_smoothing_factor": 0.3},
        lambda logits, labels, counts: cross_entropy(logits, labels, label_smoothing=0.3),
    ),
    "class_weights": (
        {"imbalance": "class_weights"},
        lambda logits, labels, counts: (
            (counts.sum() / len(counts) / counts)[labels] * cross_entropy(logits, labels, reduction="none")
        ).mean(),
    ),
    "focal_loss": ({"imbalance": "focal_loss", "focal_gamma": 1.5}, focal),
    "logit_adjustment": (
        {"imbalance": "logit_adjustment"},
        lambda logits, labels, counts: cross_entropy(logits + (counts / counts.sum()).log(), labels),
    ),
}


def sharpen(job: Run):
    """Logits that are far apart, so that losses are too."""
    job.model.classifier.weight.data *= 2


def first_batch(job: Run, batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a new model and labels of the first batch that it was trained on."""
    batch = dict(next(batch for split, _, batch in batches if split == "train"))
    labels = batch.pop("labels")
    model = job.build().eval()
    model.classifier.weight.data *= 2
    with torch.no_grad():
        return model(**batch).logits, labels


def build_is_repeatable(job: Run):
    """Lets `job.build` give the very model that trains."""
    start = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    build = job.build

    def again():
        model = build()
        model.load_state_dict(start)
        return model

    job.build = again


@SCRIPTS
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_the_first_batch(name, script, trained, batches, dataset):
    keys, expected = LOSSES[name]
    done = trained(script, lambda job: (build_is_repeatable(job), sharpen(job)), max_steps=1, **keys)
    logits, labels = first_batch(done.job, batches)
    answers = torch.tensor(load_from_disk(str(dataset))["train"]["answer"])
    counts = answers.bincount(minlength=13).clamp(min=1).float()
    plain, expected = cross_entropy(logits, labels).item(), expected(logits, labels, counts).item()
    assert abs(plain - expected) > 0.02
    assert done.losses[0] == pytest.approx(expected, abs=2e-4)  # the library rounds what it logs


@SCRIPTS
def test_mixup_in_training_alone(script, trained, monkeypatch):
    from mm_hf.models import modeling_mm_fusion

    mixed, original = [], modeling_mm_fusion.mixup

    def note(pooled, labels, alpha):
        mixed.append((alpha, labels, *original(pooled, labels, alpha)))
        return mixed[-1][2:]

    monkeypatch.setattr(modeling_mm_fusion, "mixup", note)
    heads = []
    done = trained(
        script,
        lambda job: (sharpen(job), heads.append(weights_of(job.model.classifier))),
        mixup_alpha=0.7,
        max_steps=2,
        eval_steps=1,
        keep=True,
    )
    assert len(mixed) == 2
    alpha, labels, pooled, chosen, share = mixed[0]
    partners = labels[chosen]
    assert alpha == 0.7
    assert not torch.equal(labels, partners)
    logits = (pooled @ heads[0]["weight"].T + heads[0]["bias"]).detach()
    expected = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, partners)
    assert done.losses[0] == pytest.approx(expected.item(), abs=2e-4)


@SCRIPTS
def test_weights_of_rows(script, trained, batches, dataset, tmp_path):
    weighted = load_from_disk(str(dataset))
    for name, part in weighted.items():
        weighted[name] = part.add_column("reliability", [0.0 if row % 2 else 3.0 for row in range(len(part))])
    weighted.save_to_disk(tmp_path / "weighted")
    done = trained(
        script,
        lambda job: (build_is_repeatable(job), sharpen(job)),
        dataset=str(tmp_path / "weighted"),
        weight_column="reliability",
        max_steps=1,
    )
    rows, batch = next((rows, batch) for split, rows, batch in batches if split == "train")
    weights = torch.tensor([0.0 if row % 2 else 3.0 for row in rows])
    assert torch.equal(batch["sample_weight"], weights)
    logits, labels = first_batch(done.job, batches)
    losses = cross_entropy(logits, labels, reduction="none")
    assert abs(losses.mean() - (weights * losses).mean()) > 0.02
    assert done.losses[0] == pytest.approx((weights * losses).mean().item(), abs=2e-4)


@SCRIPTS
def test_balanced_sampler(script, trained, batches, dataset):
    trained(script, imbalance="balanced_sampler", num_train_epochs=5)
    answers = load_from_disk(str(dataset))["train"]["answer"]
    drawn = torch.tensor([answers[row] for split, rows, _ in batches if split == "train" for row in rows])
    classes = sorted(set(answers))
    counts = drawn.bincount(minlength=13)[classes]
    mean = len(drawn) / len(classes)
    assert len(drawn) == 1000
    assert (counts - mean).abs().max() < 4 * mean**0.5, counts
    usual = torch.tensor(answers).bincount(minlength=13)[classes]
    assert usual.max() > 3 * usual.float().mean()


# How fast each part learns


@SCRIPTS
def test_learning_rates_by_module_and_layer(script, trained):
    done = trained(
        script,
        freeze_encoders=False,
        learning_rate=1e-3,
        vision_learning_rate=1e-4,
        text_learning_rate=2e-4,
        layer_decay=0.5,
        max_steps=1,
        **TINY,
    )
    rates = {id(p): group["lr"] for group in done.optimizer.param_groups for p in group["params"]}
    rates = {name: rates[id(p)] for name, p in done.model.named_parameters() if p.requires_grad}
    text, vision = "model.encoders.text.", "model.encoders.vision."
    expected = {
        "classifier.": 1e-3,
        "model.fusion.": 1e-3,
        "model.projections.": 1e-3,
        f"{text}encoder.layer.5.": 2e-4,
        f"{text}encoder.layer.0.": 2e-4 * 0.5**5,
        f"{text}embeddings.": 2e-4 * 0.5**6,
        f"{vision}layer.11.": 1e-4,
        f"{vision}layer.9.": 1e-4 * 0.5**2,
        f"{vision}conv_stem.": 1e-4 * 0.5**12,
    }
    for part, rate in expected.items():
        found = {value for name, value in rates.items() if name.startswith(part)}
        assert list(found) == [pytest.approx(rate)], part


@SCRIPTS
def test_encoders_learn_at_a_fifth_or_as_asked(script, trained):
    for asked, expected in ((None, 2e-4), (7e-5, 7e-5)):
        done = trained(script, freeze_encoders=False, encoder_learning_rate=asked, max_steps=1, **TINY)
        rates = {group["module"]: group["lr"] for group in done.optimizer.param_groups}
        assert rates == {"vision": pytest.approx(expected), "text": pytest.approx(expected), "all": 1e-3}


@SCRIPTS
def test_gradual_unfreezing(script, trained):
    steps, jobs = [], []
    with after_each_step(lambda: steps.append(weights_of(jobs[0].model))):
        trained(
            script,
            lambda job: (jobs.append(job), steps.append(weights_of(job.model))),
            freeze_encoders=False,
            per_device_train_batch_size=4,
            unfreeze_epochs=0.04,  # of fifty steps
            max_steps=5,
        )
    start, text, vision = steps[0], "encoders.text.encoder.layer.", "encoders.vision.layer."
    assert not equal(start, steps[1], "classifier.")
    assert equal(start, steps[2], "encoders.")
    assert not equal(start, steps[3], text + "5.")
    assert not equal(start, steps[3], vision + "11.")
    assert equal(start, steps[4], text + "4.")
    assert equal(start, steps[4], vision + "10.")
    assert not equal(start, steps[5], text + "4.")
    assert not equal(start, steps[5], vision + "10.")
    assert equal(start, steps[5], text + "3.")
    assert equal(start, steps[5], "encoders.text.embeddings.")


# What a batch is


@SCRIPTS
def test_modality_dropout(script, trained):
    indices = {True: [], False: []}  # of pictures, in training and not

    def watch(job):
        projection = job.model.base_model.projections["vision"]
        projection.register_forward_pre_hook(lambda module, args: indices[module.training].append(args[1]))
        start.update(weights_of(job.model))

    vision, text = (f"model.projections.{name}.absent_token" for name in ("vision", "text"))
    start: dict = {}
    done = trained(script, watch, modality_dropout=0.5, max_steps=5, keep=True)
    share = (torch.cat(indices[True]) == -1).float().mean().item()
    assert 0.12 < share < 0.4  # a quarter: where both would go, both stay
    assert (torch.cat(indices[False]) >= 0).all()
    assert not torch.equal(done.model.get_parameter(vision), start[vision])
    done = trained(script, watch, modality_dropout={"text": 0.5}, max_steps=5)
    assert torch.equal(done.model.get_parameter(vision), start[vision])
    assert not torch.equal(done.model.get_parameter(text), start[text])


def padding(drawn: list[list[int]], lengths: list[int]) -> int:
    return sum(max(lengths[row] for row in rows) * len(rows) - sum(lengths[row] for row in rows) for rows in drawn)


@SCRIPTS
def test_group_by_length(script, trained, batches, dataset):
    questions = load_from_disk(str(dataset))["train"]["question"]
    drawn = {}
    for strategy in ("random", "group_by_length"):
        batches.clear()
        done = trained(script, train_sampling_strategy=strategy, num_train_epochs=3)
        drawn[strategy] = [rows for split, rows, _ in batches if split == "train"]
    lengths = [len(ids) for ids in done.job.processor.tokenizer(list(questions))["input_ids"]]
    for rows in drawn.values():
        assert len(rows) == 30
        for epoch in range(3):
            assert sorted(row for batch in rows[10 * epoch : 10 * epoch + 10] for row in batch) == list(range(200))
    grouped = drawn["group_by_length"]
    assert grouped[:10] != grouped[10:20]
    assert padding(grouped, lengths) < 0.4 * padding(drawn["random"], lengths)


@SCRIPTS
def test_token_dropout(script, trained, batches):
    done = trained(script, token_dropout=0.5, max_steps=3, keep=True)
    assert done.job.collator.cache.modalities == ["vision"]
    tokenizer = done.job.processor.tokenizer
    shares = {}
    for part in ("train", "validation"):
        ids = torch.cat([batch["input_ids"].flatten() for split, _, batch in batches if split == part])
        masks = (ids == tokenizer.mask_token_id).sum().item()
        shares[part] = masks / (masks + (~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))).sum().item())
    assert shares["validation"] == 0
    assert 0.4 < shares["train"] < 0.6


@SCRIPTS
def test_augmentation(script, trained, batches):
    done = trained(script, augment=["crop", "color"], max_steps=3, keep=True)
    assert done.job.collator.cache.modalities == ["text"]
    from mm_hf.data import Rows

    for part, changes in (("train", True), ("validation", False)):
        rows, batch = next((rows, batch) for split, rows, batch in batches if split == part)
        plain = done.job.collator(Rows(done.job.splits[part], part).__getitems__(rows))["pixel_values"]
        assert plain.shape == batch["pixel_values"].shape
        assert torch.equal(plain, batch["pixel_values"]) != changes


# How a step is computed


@SCRIPTS
def test_gradient_checkpointing(script, trained):
    calls, ends = [], []

    def watch(job):
        block = job.model.base_model.fusion.layers[0]
        block.self_attn.q_proj.register_forward_pre_hook(lambda module, args: calls.append(module.training))

    for checkpointing in (False, True):
        calls.clear()
        keys = {"gradient_checkpointing": checkpointing, "freeze_encoders": False, "max_steps": 2, **TINY}
        ends.append(weights_of(trained(script, watch, **keys).model))
        assert sum(calls) == (4 if checkpointing else 2)  # once more in the backward pass
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=0, atol=1e-6)


@SCRIPTS
def test_bf16(script, trained):
    kinds = set()

    def watch(job):
        sharpen(job)
        job.model.base_model.projections["text"].register_forward_hook(
            lambda module, args, states: kinds.add((module.training, states.tokens.dtype))
        )
        linear = next(m for m in job.model.base_model.fusion.modules() if isinstance(m, torch.nn.Linear))
        linear.register_forward_hook(lambda module, args, output: kinds.add((module.training, output.dtype)))

    exact = trained(script, sharpen, max_steps=2)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    mixed = trained(script, watch, bf16=True, max_steps=2, keep=True)
    assert {(True, torch.bfloat16), (False, torch.bfloat16)} <= kinds
    assert mixed.trainer.accelerator.mixed_precision == "bf16"
    assert {parameter.dtype for parameter in mixed.model.parameters()} == {torch.float32}
    assert mixed.losses != exact.losses
    assert mixed.losses == pytest.approx(exact.losses, abs=0.03)


# Adapters


@SCRIPTS
@pytest.mark.parametrize(
    "where", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("vision", "text", "encoders")), "fusion", "all"]
)
def test_lora(where, script, trained):
    starts = {}
    done = trained(
        script,
        lambda job: starts.update({name: tensor.clone() for name, tensor in job.model.state_dict().items()}),
        lora=where,
        lora_rank=2,
        max_steps=2,
        learning_rate=1e-2,
    )
    end = done.model.state_dict()
    parts = {"vision": ["encoders.vision"], "text": ["encoders.text"], "fusion": ["fusion"]}
    parts |= {"encoders": ["encoders.vision", "encoders.text"]}
    parts["all"] = [*parts["encoders"], *parts["fusion"]]
    adapted = {name for name in end if ".lora_B." in name}
    assert {part for part in parts["all"] if any(f"model.{part}." in name for name in adapted)} == set(parts[where])
    moved = {name for name in end if not torch.equal(end[name], starts[name])}
    assert adapted <= moved
    assert not [name for name in moved if "encoders." in name and ".lora_" not in name]
    assert not [name for name in moved if ".base_layer." in name]
    assert "classifier.weight" in moved
    assert ("model.fusion.layers.0.gates" in moved) or not [name for name in end if name.endswith("gates")]


@SCRIPTS
def test_lora_leaves_an_ordinary_checkpoint(script, recipe, monkeypatch):
    """Through a checkpoint in the middle, from which a second process goes on with the adapters as they were."""
    from safetensors.torch import load_file

    from mm_hf import MMFusionForQuestionAnswering

    keys = {"lora": "all", "lora_rank": 2, "learning_rate": 1e-2, "eval_steps": 2, "freeze_encoders": True}
    keys |= {"overwrite_output_dir": False, "lr_scheduler_type": "constant"}
    ends = {}
    for name in ("whole", "resumed"):
        folder = recipe(**keys, max_steps=4)
        folder = recipe(**keys, max_steps=4, output_dir=str(folder.parent / name))
        if name == "resumed":
            with interrupted_after(2, monkeypatch):
                script.main()
        script.main()
        ends[name] = load_file(folder / "model.safetensors")
    model = MMFusionForQuestionAnswering.from_pretrained(folder)
    assert set(model.state_dict()) == set(ends["whole"])
    assert not [name for name in ends["whole"] if "lora" in name or "base_layer" in name]
    assert equal(ends["whole"], ends["resumed"])


@contextlib.contextmanager
def interrupted_after(steps: int, monkeypatch):
    """Lets the process end in the step behind so many, once what was due has been written."""

    class Killed(BaseException):
        pass

    made = []

    def act():
        made.append(1)
        if len(made) > steps:
            raise Killed

    with after_each_step(act):
        try:
            yield
        except Killed:
            pass
    assert len(made) > steps


# What is not finite


@pytest.fixture
def break_rows(monkeypatch):
    """Puts a pixel that is no number into the training batches that hold one of these rows, and gives the rows of all
    training batches."""
    from mm_hf.data import MultimodalCollator

    original = MultimodalCollator.__call__

    def start(broken) -> list[list[int]]:
        drawn = []

        def spoil(self, rows):
            batch = original(self, rows)
            if rows[0]["split"] == "train":
                drawn.append([row["row_id"] for row in rows])
                if set(drawn[-1]) & set(broken):
                    batch["pixel_values"][0, 0, 0, 0] = float("nan")
            return batch

        monkeypatch.setattr(MultimodalCollator, "__call__", spoil)
        return drawn

    return start


@SCRIPTS
def test_one_bad_loss_costs_one_step(script, trained, break_rows, capsys):
    drawn = break_rows({7})
    done = trained(script, cache_features=False, num_train_epochs=1, keep=True)
    assert done.trainer.train_state.guard.total == 1
    assert done.trainer.train_state.guard.in_a_row == 0
    assert all(weight.isfinite().all() for weight in done.model.parameters())
    (entry,) = json.loads((done.job.output_dir / "nonfinite_rows.json").read_text())
    place = next(place for place, rows in enumerate(drawn) if 7 in rows)
    assert entry == {"step": place + 1, "row_ids": drawn[place]}
    assert re.search(says("1 steps", "finite"), capsys.readouterr().out)
    assert all(loss == loss and loss < 10 for loss in done.losses)


@SCRIPTS
def test_bad_losses_in_a_row_stop_the_run(script, recipe, break_rows):
    drawn = break_rows(range(ROWS["train"]))
    folder = recipe(cache_features=False, max_nonfinite=3)
    message = one_line(script.main)
    assert re.search(says("3 steps"), message)
    assert "nonfinite_rows.json" in message
    entries = json.loads((folder / "nonfinite_rows.json").read_text())
    assert [entry["row_ids"] for entry in entries] == drawn[:3]
    assert not (folder / "model.safetensors").exists()


# How a run ends


ENDS = {
    "num_train_epochs": ({"num_train_epochs": 0.25, "label_smoothing_factor": 0.1, "mixup_alpha": 0.2}, 3),
    "max_steps": ({"max_steps": 2, "imbalance": "class_weights"}, 2),
    "max_train_seconds": ({"num_train_epochs": 5.0, "max_train_seconds": 1e-3, "imbalance": "logit_adjustment"}, 1),
}


@SCRIPTS
@pytest.mark.parametrize("name", ENDS)
def test_ends(name, script, recipe):
    keys, steps = ENDS[name]
    folder = recipe(**keys)
    made = []
    with after_each_step(lambda: made.append(1)):
        script.main()
    assert len(made) == steps
    results = json.loads((folder / "results.json").read_text())
    assert 0 <= results["metrics"]["accuracy"] <= 1
    config = json.loads((folder / "config.json").read_text())
    assert config["label_smoothing"] == keys.get("label_smoothing_factor", 0)
    assert config["mixup_alpha"] == keys.get("mixup_alpha", 0)
    for setting, imbalance in (("class_weights", "class_weights"), ("class_priors", "logit_adjustment")):
        assert (config[setting] is not None) == (keys.get("imbalance") == imbalance)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ema_decay": 1.0}, says("ema_decay", 1, "1.0")),
        ({"label_smoothing_factor": 1.0}, says("label_smoothing_factor", 1, "1.0")),
        ({"mixup_alpha": -1.0}, says("mixup_alpha", 0, "-1.0")),
        ({"focal_gamma": -1.0}, says("focal_gamma", 0, "-1.0")),
        ({"vision_learning_rate": -1.0}, says("vision_learning_rate", 0, "-1.0")),
        ({"layer_decay": 0.0}, says("layer_decay", 0, "0.0")),
        ({"layer_decay": 1.5}, says("layer_decay", 0, 1, "1.5")),
        ({"unfreeze_epochs": 0.0}, says("unfreeze_epochs", 0, "0.0")),
        ({"num_train_epochs": 0.0}, says("num_train_epochs", 0, "0.0")),
        ({"max_train_seconds": -1.0}, says("max_train_seconds", 0, "-1.0")),
        ({"warmup_ratio": 2.0}, says("warmup_ratio", 0, 1, "2.0")),
        ({"max_nonfinite": 0}, says("max_nonfinite", 1, 0)),
        ({"early_stopping_patience": 0}, says("early_stopping_patience", 1, 0)),
        ({"lora_rank": 0}, says("lora_rank", 1, 0)),
        ({"lora_alpha": 0.0}, says("lora_alpha", 0, "0.0")),
        ({"lora": "head"}, says("lora", "['vision', 'text', 'encoders', 'fusion', 'all']", "'head'")),
        ({"imbalance": "none"}, says("imbalance", "'focal_loss'", "'none'")),
        ({"train_sampling_strategy": "sorted"}, says("train_sampling_strategy", "'group_by_length'", "'sorted'")),
        ({"optim": "adam"}, says("optim", "['adamw_torch_fused', 'sgd']", "'adam'")),
        ({"lr_scheduler_type": "warmup_stable_decay"}, says("lr_scheduler_type", "'cosine'", "'warmup_stable_decay'")),
        ({"token_dropout": 1.0}, says("token_dropout", 1, "1.0")),
    ],
)
def test_wrong_values_in_a_recipe(keys, message, recipe, capsys):
    recipe(**keys)
    with pytest.raises(SystemExit):
        train.main()
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"modality_dropout": 1.0}, says("modality_dropout", "[0, 1)", "1.0")),
        ({"modality_dropout": {"text": "often"}}, says("modality_dropout", "text", "[0, 1)", "'often'")),
        ({"modality_dropout": {"sound": 0.1}}, says("modality_dropout", "['sound']", "['vision', 'text']")),
        ({"image_id_column": "image"}, says("image_id_column", "'image'")),
        ({"augment": ["spin"]}, says("'spin'", "['crop', 'flip', 'color']")),
        ({"token_dropout": -0.1}, says("token_dropout", "[0, 1)", "-0.1")),
        ({"lora": "all", "lora_dropout": 2.0}, says("dropout", 0, 1, "2.0")),
        ({"unfreeze_epochs": 1.0}, says("unfreezing", "freeze_encoders")),
        ({"trained_layers": {"vision": 2}}, says("freeze_encoders", "trained_layers", "freeze_encoders=['text']")),
        ({"trained_layers": {"text": 7}, "freeze_encoders": False}, says("text", "1 to 6", 7)),
        ({"trained_layers": {"image": 2}}, says("trained_layers", "['image']", "['vision', 'text']")),
    ],
)
@SCRIPTS
def test_what_does_not_fit_is_one_line(keys, message, script, recipe):
    recipe(**keys)
    assert re.search(message, one_line(script.main))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trained_layers": 2}, says("trained_layers", "{vision: 2}", 2)),
        ({"trained_layers": {"vision": "two"}}, says("trained_layers", "int", "'two'")),
        (
            {"trained_layers": {"vision": True}},
            says("trained_layers", "bool True"),
        ),
        ({"trained_layers": {"vision": 0}}, says("trained_layers", "{vision: 2}", 1, 0)),
        ({"trained_layers": {"vision": 2}, "lora": "vision"}, says("lora", "'vision'", "trained_layers")),
    ],
)
def test_trained_layers_that_make_no_sense(keys, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**keys)


@SCRIPTS
def test_the_top_layers_train_and_features_are_kept_of_what_is_frozen(script, trained):
    kept = {}

    def note(job):
        kept["modalities"] = job.collator.cache.modalities
        kept["weights"] = {name: p.detach().clone() for name, p in job.model.named_parameters()}

    keys = {"freeze_encoders": ["text"], "trained_layers": {"vision": 2}, "vision_feature_layer": [11]}
    model = trained(script, note, max_steps=2, **keys, **TINY).model
    assert kept["modalities"] == ["text"]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, kept["weights"][name])}
    encoders = {name for name, p in model.named_parameters() if "encoders." in name}
    layers = tuple(f"model.encoders.vision.layer.{number}." for number in (10, 11))
    top = {name for name in encoders if name.startswith(layers)}
    assert top
    assert {name for name in changed if "encoders." in name} == top
    assert {name for name in encoders if model.get_parameter(name).requires_grad} == top
    assert model.config.trained_layers == {"vision": 2}


@pytest.mark.slow
@SCRIPTS
def test_torch_compile(script, trained):
    losses = [trained(script, sharpen, torch_compile=wanted, max_steps=3).losses for wanted in (False, True)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
