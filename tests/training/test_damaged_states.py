"""Training states of both scripts, damaged in every way that disks, people and other runs manage: each is set aside by
name and the one before it taken, or refused by name; nothing is overwritten or lost."""

import contextlib
import json
import math
import random
import re
import shutil
import struct
import sys
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_and_resume import Run, call, command, weights
from messages import says
from safetensors.torch import load_file, save_file

from mm_hf import checkpoints, nonfinite, states
from mm_hf.checkpoints import CHECKSUMS, MANIFEST, fault_of, publish, staging_folder
from mm_hf.models.checksums import checksum_of
from mm_hf.optim import EMA
from mm_hf.training import evaluator, finetune, finish, loop, recipe_trainer, train
from mm_hf.training.open_run import open_run


STORED = Path(__file__).parents[1] / "data/checkpoints"
SCRIPTS = {"train": train, "finetune": finetune}
RECIPE = {
    "vision_encoder": str(STORED / "encoders/vision"),
    "text_encoder": str(STORED / "encoders/text"),
    "dataset": str(STORED / "rows/rows.csv"),
    "image_column": "photo",
    "text_column": "text",
    "table_columns": ["beds"],
    "label_column": "colour",
    "fusion_hidden_size": 16,
    "fusion_layers": 1,
    "fusion_heads": 2,
    "fusion_dropout": 0.1,
    "max_steps": 6,
    "eval_steps": 3,
    "save_total_limit": 9,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.01,
    "floors": False,
    "report_to": "none",
    "ema_decay": 0.8,
    "early_stopping_patience": 9,
    "defaults_version": 2,  # the encoders train
}
# What `listed` must find at least: a file that is no longer written would drop out of the tables in silence.
WRITTEN = {
    "train": {"model", "best", "ema", "optimizer", "scheduler", "random_states_0", "progress", "rank_0", "complete"},
    "finetune": {"model", "ema", "optimizer", "scheduler", "rng_state", "trainer_state", "rank_0", "complete"},
}


def write_recipe(folder: Path, output_dir: Path, **keys) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{output_dir.name}.yaml"
    file.write_text(json.dumps({**RECIPE, "output_dir": str(output_dir), **keys}))
    return file


def load(script: str, recipe: Path):
    """What trains, before its first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", str(recipe)])
        job = open_run("", f"{script}.py")
    make = loop.Training if script == "train" else recipe_trainer.build_trainer
    return make(job, job.model, job.collator, job.train_args, job.output_dir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """By script two runs, `run` and `other`, each with the states of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("states")
    for script, module in SCRIPTS.items():
        for seed, name in enumerate(("run", "other")):
            call(module.main, write_recipe(folder, folder / script / name, seed=seed))
    return folder


@pytest.fixture(scope="module")
def loaded(runs) -> dict:
    """By script what trains, ready to go on from the state of step 6."""
    trainings = {}
    for script in SCRIPTS:
        run_dir = runs / f"{script}-loaded/run"
        shutil.copytree(runs / script / "run", run_dir)
        (run_dir / "results.json").unlink()
        trainings[script] = load(script, write_recipe(runs / "loaded", run_dir, seed=0))
    trainer = trainings["finetune"]
    trainer.create_optimizer()
    trainer.create_scheduler(6)
    trainer._load_optimizer_and_scheduler(str(run_dir / "checkpoint-6"))
    return trainings


@pytest.fixture(scope="module")
def takers(loaded) -> dict:
    """By script a function that chooses among the states of a folder, of train.py it loads what it chose."""
    trainer = loaded["finetune"]

    def choose(folder: Path, asked=True):
        trainer.args.output_dir, trainer._checked = str(folder), None
        return Path(trainer.choose_checkpoint(asked))

    return {"train": loaded["train"].take_up, "finetune": choose}


@pytest.fixture
def copied(runs, tmp_path):
    """A function that copies the states of a run into a new folder."""

    def copy(script: str, name: str = "run") -> Path:
        folder = tmp_path / f"case-{len(list(tmp_path.iterdir()))}"
        for state in (runs / script / name).glob("checkpoint-*"):
            shutil.copytree(state, folder / state.name)
        return folder

    return copy


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def content(folder: Path) -> Counter:
    """How often each content is in a folder."""
    return Counter(checksum_of(folder / name) for name in listed(folder))


def republish(folder: Path, checksums: bool = True):
    """Makes the manifest match what is in a state now; without checksums, as runs of before wrote it."""
    staged = staging_folder(folder)
    staged.parent.mkdir(exist_ok=True)
    folder.rename(staged)
    publish(folder)
    checkpoints.clear_staging(folder.parent)
    if not checksums:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({"files": manifest["files"]}))


def flip(file: Path, seed: int = 0):
    data, draw = bytearray(file.read_bytes()), random.Random(f"{file.name} {seed}")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def flip_a_number(file: Path):
    """A bit of a tensor in what `torch.save` wrote; it has room between them that nobody reads."""
    with zipfile.ZipFile(file) as archive:
        entry = random.choice([entry for entry in archive.infolist() if "/data/" in entry.filename])
        numbers = archive.read(entry)
    data = bytearray(file.read_bytes())
    data[data.index(numbers, entry.header_offset)] ^= 1
    file.write_bytes(data)


def truncate(file: Path):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def assert_set_aside(take, folder: Path, *words: str):
    """The state of step 3 is taken; that of step 6 is there as it was, under a name that says so and why."""
    before = content(folder)
    with pytest.warns(UserWarning, match="checkpoint-6 .*skipped") as caught:
        assert take(folder) == folder / "checkpoint-3"
    said = " ".join(str(warning.message) for warning in caught)
    for word in (*words, "damaged-checkpoint-6"):
        assert word in said, said
    assert content(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-3", "damaged-checkpoint-6"]


# Every file, in every way


@pytest.mark.parametrize("damage", ["removed", "truncated", "flipped", "swapped"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_damaged_file(script, damage, runs, takers, copied):
    names = listed(runs / script / "run/checkpoint-6")
    assert {Path(name).stem for name in names} >= WRITTEN[script]
    folder, changed = copied(script), 0
    for name in names:
        file, other = folder / "checkpoint-6" / name, runs / script / "other/checkpoint-6" / name
        whole = file.read_bytes()
        if damage == "swapped" and other.read_bytes() == whole:
            continue  # the same code, the same tokenizer
        if damage == "removed":
            file.unlink()
        elif damage == "swapped":
            shutil.copy(other, file)
        else:
            {"truncated": truncate, "flipped": flip}[damage](file)
        # A bit in the list of files may say that any other file is not as it was.
        expected = "" if name == MANIFEST and damage in ("flipped", "swapped") else name
        assert expected in fault_of(folder / "checkpoint-6", checksums=True)
        if Path(name).stem in WRITTEN[script]:
            assert_set_aside(takers[script], folder, expected)
            (folder / "damaged-checkpoint-6").rename(folder / "checkpoint-6")
        file.write_bytes(whole)
        changed += 1
    assert changed >= len(WRITTEN[script]) - 2  # what both runs have alike: the step, and rows that were left out
    assert takers[script](folder) == folder / "checkpoint-6"


def test_every_bit_of_the_manifest_counts(copied):
    """Its names, sizes, checksums and brackets."""
    folder = copied("train") / "checkpoint-6"
    whole = (folder / MANIFEST).read_bytes()
    assert fault_of(folder, checksums=True) is None
    for seed in range(150):
        flip(folder / MANIFEST, seed)
        assert fault_of(folder, checksums=True) is not None, (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_bytes(whole)


# None whole, one by name, the best one


@pytest.mark.parametrize("script", SCRIPTS)
def test_none_is_whole(script, takers, copied):
    """The run does not begin anew in silence."""
    folder = copied(script)
    flip(folder / "checkpoint-3/model.safetensors")
    (folder / "checkpoint-6/scheduler.pt").unlink()
    before = {state: content(folder / state) for state in ("checkpoint-3", "checkpoint-6")}
    with pytest.raises(
        ValueError, match=r"checkpoint-6: scheduler\.pt .*checkpoint-3: model\.safetensors .*--overwrite_output_dir"
    ):
        takers[script](folder)
    assert {path.name: content(path) for path in folder.iterdir()} == before


def test_one_that_is_named(takers, copied):
    choose = takers["finetune"]
    folder = copied("finetune")
    before = content(folder)
    assert choose(folder, folder / "checkpoint-3") == folder / "checkpoint-3"
    with pytest.raises(ValueError, match=r"checkpoint-4 .*folder"):
        choose(folder, folder / "checkpoint-4")
    (folder / "checkpoint-6" / MANIFEST).unlink()  # as the library's own Trainer leaves it
    with pytest.warns(UserWarning, match=r"complete\.json"):
        assert choose(folder, str(folder / "checkpoint-6")) == folder / "checkpoint-6"
    with_nan(math.nan)(folder / "checkpoint-6/model.safetensors")
    unlisted, unfit = (
        pytest.warns(UserWarning, match=r"complete\.json"),
        r"checkpoint-6 .*model\.safetensors.*finite",
    )
    with unlisted, pytest.raises(ValueError, match=unfit):
        choose(folder, folder / "checkpoint-6")
    flip(folder / "checkpoint-3/optimizer.pt")
    with pytest.raises(ValueError, match=r"checkpoint-3 .*optimizer\.pt .*damaged"):
        choose(folder, folder / "checkpoint-3")
    assert sum((before - content(folder)).values()) == 3  # nothing but what was changed here


@pytest.mark.parametrize("damage", ["flipped", "NaN", "removed", "gone", "moved"])
def test_the_best_one(damage, loaded, takers, copied):
    """A state needs the checkpoint that was the best: it comes back at the end."""
    folder, choose, trainer = copied("finetune"), takers["finetune"], loaded["finetune"]
    state, best = folder / "checkpoint-6", folder / "checkpoint-3"
    for name, value in {"best_global_step": 3, "best_model_checkpoint": f"elsewhere/{best.name}"}.items():
        key(name, value=value)(state / "trainer_state.json")
    republish(state)
    if damage == "moved":
        assert choose(folder) == state
        return
    trainer.state.best_model_checkpoint = str(best)
    trainer._load_best_model()
    if damage == "gone":
        shutil.rmtree(best)
    elif damage == "NaN":
        with_nan(math.nan)(best / "model.safetensors")
        republish(best)
    elif damage == "removed":
        (best / "model.safetensors").unlink()
    else:
        flip(best / "model.safetensors")
    word = {"gone": "folder", "NaN": "finite", "removed": "missing", "flipped": "damaged"}[damage]
    with pytest.raises(ValueError, match=f"checkpoint-6: .*checkpoint-3: .*{word}"):
        choose(folder)
    with pytest.raises(ValueError, match=f"checkpoint-3.* best .*{word}"):
        trainer._load_best_model()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_damaged_run_ends_as_a_whole_one(script, runs, copied):
    """The whole way: the newest state is set aside, the run goes on from the one before, and keeps what is damaged."""
    folder = copied(script).rename(runs / script / "damaged")
    for name in ("recipe.json", "rows.json"):
        shutil.copy(runs / script / "run" / name, folder)
    flip(folder / "checkpoint-6/optimizer.bin" if script == "train" else folder / "checkpoint-6/optimizer.pt")
    damaged = content(folder / "checkpoint-6")
    with pytest.warns(UserWarning, match=r"checkpoint-6 .*optimizer.*damaged"):
        call(SCRIPTS[script].main, write_recipe(runs, folder, seed=0))
    assert content(folder / "damaged-checkpoint-6") == damaged
    assert weights(folder) == weights(runs / script / "run")
    assert fault_of(folder / "checkpoint-6", checksums=True) is None
    aside = checkpoints.set_aside(folder / "checkpoint-6")
    assert aside.name == "damaged-checkpoint-6.2"
    checkpoints.rotate(folder, 1)
    assert content(folder / "damaged-checkpoint-6") == damaged


# Runs of before, whose manifest has no checksums


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_state_of_before(script, takers, copied):
    """Sizes, and what the files themselves tell: archives of torch have checksums, safetensors a list of contents."""
    folder = copied(script)
    state = folder / "checkpoint-6"
    republish(state, checksums=False)
    assert CHECKSUMS not in json.loads((state / MANIFEST).read_text())
    assert takers[script](folder) == state
    optimizer = "optimizer.bin" if script == "train" else "optimizer.pt"
    huge = json.dumps({"w": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}).encode()
    header = struct.pack("<Q", len(huge)) + huge
    cases = [(optimizer, flip_a_number)] * 3
    cases += [("model.safetensors", lambda file: file.write_bytes(header + file.read_bytes()[len(header) :]))]
    cases += [
        ("model.safetensors", lambda file: file.write_bytes(b"\xff" * file.stat().st_size)),
        (optimizer, truncate),
    ]
    for name, change in cases:
        whole = (state / name).read_bytes()
        change(state / name)
        assert_set_aside(takers[script], folder, name)
        (folder / "damaged-checkpoint-6").rename(state)
        (state / name).write_bytes(whole)


@pytest.mark.parametrize("change", ["text", "empty", "other shapes"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_no_check_finds_ends_in_one_line(script, change, loaded, copied):
    """An optimizer of another model, say, in a state of before."""
    state = copied(script) / "checkpoint-6"
    (file,) = state.glob("optimizer.*")
    empty = pickled(lambda state: {"state": {}, "param_groups": []})
    {"text": text("no optimizer"), "empty": empty, "other shapes": pickled(transposed)}[change](file)
    training = loaded[script]
    with pytest.raises(ValueError, match=f"{state} .*") as error:  # which job.run makes one line of
        training.train_state.take_up(state) if script == "train" else training._load_optimizer_and_scheduler(
            str(state)
        )
    assert "before it" in str(error.value)


def transposed(state):
    for moments in state["state"].values():
        if moments["exp_avg"].ndim == 2:
            moments["exp_avg"] = moments["exp_avg"].T.contiguous()[:1]


# Random states


@pytest.mark.parametrize("script", SCRIPTS)
def test_random_states_of_other_processes(script, takers, copied):
    """With a list of files to match. Refused: no state of this run would do."""
    folder = copied(script)
    state = folder / "checkpoint-6"
    if script == "train":
        shutil.copy(state / "random_states_0.pkl", state / "random_states_1.pkl")
        names = ["random_states_1.pkl"]
    else:
        names = ["rng_state_0.pth", "rng_state_1.pth"]
        for name in names:
            shutil.copy(state / "rng_state.pth", state / name)
        (state / "rng_state.pth").unlink()
    republish(state)
    before = content(folder)
    with pytest.raises(ValueError, match=r"2 process\(es\)") as error:
        takers[script](folder)
    assert all(name in str(error.value) for name in names)
    assert content(folder) == before
    assert not list(folder.glob("damaged-*"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_random_states_that_cannot_be_set_stop_the_resume(script, loaded, copied):
    """Where accelerate and the library would say it in a log, or nowhere, and go on."""
    state = copied(script) / "checkpoint-6"
    training, trainer = loaded["train"], loaded["finetune"]
    file = state / ("random_states_0.pkl" if script == "train" else "rng_state.pth")
    load = (
        partial(training.train_state.take_up, state)
        if script == "train"
        else partial(trainer._load_rng_state, str(state))
    )
    load()
    drawn = random.random(), torch.rand(1)
    load()
    assert (random.random(), torch.rand(1)) == drawn
    for change in (text(""), without(states.ACCELERATE_KEYS[2] if script == "train" else "cpu"), Path.unlink):
        whole = file.read_bytes()
        change(file)
        with pytest.raises(ValueError, match=file.name):
            load()
        file.write_bytes(whole)


# What is not finite while a run goes on


@contextlib.contextmanager
def unfit(training, what: str):
    """Within, there is a NaN in one part of a training, where nothing but a look at it finds it; gives its name."""
    model, optimizer = training.model, training.optimizer
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad and p in optimizer.state]
    name, parameter = trained[-1]
    tensor = {
        "weights": lambda: parameter.data,
        "average": lambda: training.train_state.ema.averages[name],
        "first moment": lambda: optimizer.state[parameter]["exp_avg"],
        "second moment": lambda: optimizer.state[parameter]["exp_avg_sq"],
        "best": lambda: training.train_state.best_weights[name],
    }[what]()
    kept = tensor.clone()
    tensor.view(-1)[0] = math.inf if what == "second moment" else math.nan
    try:
        yield name
    finally:
        tensor.copy_(kept)


PARTS = [(script, what) for script in SCRIPTS for what in ("weights", "average", "first moment", "second moment")]


@pytest.mark.parametrize(("script", "what"), [*PARTS, ("train", "best")])
def test_nothing_is_published_that_is_not_finite(script, what, loaded, copied):
    training, folder = loaded[script], copied(script)
    if script == "train":
        training.train_state.take_up(folder / "checkpoint-6")
        training.folder, training.progress.step, save = folder, 7, training.save
        training.progress.best_step = 7
    else:
        training.args.output_dir, training.state.global_step = str(folder), 7
        save = partial(training._save_checkpoint, training.model, None)
    before = content(folder)
    with unfit(training, what) as name, pytest.raises(nonfinite.NonFiniteWeightsError) as error:
        save()
    for word in (name, "finite", f"{folder / 'checkpoint-6'}"):
        assert word in str(error.value)
    assert content(folder) == before
    save()
    assert fault_of(folder / "checkpoint-7", checksums=True) is None


@pytest.mark.parametrize("script", SCRIPTS)
def test_weights_that_are_not_finite_are_not_measured(script, loaded, copied, monkeypatch):
    """Neither on validation, nor their average, nor at the end, whatever the accuracy of NaN may be."""
    training, folder = loaded[script], copied(script)
    job, score = training.run, training.evaluate
    if script == "train":
        training.train_state.take_up(folder / "checkpoint-6")
    else:
        training.args.output_dir = str(folder)
    for what in ("average", "weights"):  # where there is an average, it is measured in the place of the weights
        with (
            unfit(training, what) as name,
            pytest.raises(nonfinite.NonFiniteWeightsError, match=f"{name} .*finite"),
        ):
            score()
        monkeypatch.setattr(training.train_state, "ema", None)
    with unfit(training, "weights") as name, pytest.raises(nonfinite.NonFiniteWeightsError, match=f"{name} .*finite"):
        finish.finish(job, None, {})
    assert not (job.output_dir / "results.json").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_stops_that_becomes_nan(script, tmp_path, monkeypatch):
    """In one line, which names the tensor and what is left."""
    updated = []

    def update(ema):
        updated.append(next(iter(ema.averages)))
        if len(updated) == 5:
            ema.averages[updated[0]].fill_(math.nan)

    monkeypatch.setattr(EMA, "update", update)
    with pytest.raises(SystemExit) as stopped:
        call(SCRIPTS[script].main, write_recipe(tmp_path, tmp_path / "run", seed=0))
    (line,) = str(stopped.value).splitlines()
    for word in ("error:", updated[0], "not finite", str(tmp_path / "run/checkpoint-3")):
        assert word in line
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-3"]
    assert not (tmp_path / "run/model.safetensors").exists()


def test_buffers_count_but_for_masks():
    model = torch.nn.BatchNorm1d(3)
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    model.register_buffer("scratch", torch.tensor([math.nan]), persistent=False)
    nonfinite.check_finite(model)
    model.running_var[1] = math.inf
    with pytest.raises(nonfinite.NonFiniteWeightsError, match=r"running_var .*finite"):
        nonfinite.check_finite(model)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.complex64):
        large = torch.full((70_000,), 400.0).to(dtype)  # the sum of half precision overflows
        assert nonfinite.is_finite(large), dtype
        assert not nonfinite.is_finite(torch.full((3,), math.nan).to(dtype)), dtype
    assert nonfinite.is_finite(torch.tensor([1]))
    assert not nonfinite.is_finite(torch.tensor([math.inf, -math.inf]), mask=True)


def test_a_score_that_is_not_finite_is_never_the_best(loaded, monkeypatch):
    """Not even the first: nothing would be greater than NaN."""
    training, trainer = loaded["train"], loaded["finetune"]
    scores = iter([math.nan, 0.25, math.inf, 0.5, math.nan])
    monkeypatch.setattr(loop, "evaluate", lambda *_: (None, {"metrics": {"accuracy": next(scores)}}))
    progress = training.progress
    progress.best, found = None, []
    for _ in range(5):
        training.keep_if_best()
        found.append(progress.best)
    assert found == [None, 0.25, 0.25, 0.5, 0.5]
    assert progress.evaluations_since == 1
    trainer.state.best_metric, trainer.state.global_step, found = None, 6, []
    for score in (math.nan, 0.25, math.inf, 0.5, np.float32(math.nan)):
        odd = not math.isfinite(score)
        with pytest.warns(UserWarning, match=f"eval_accuracy.*{score}.*6") if odd else contextlib.nullcontext():
            found.append(trainer._determine_best_metric({"eval_accuracy": score}, None))
    assert found == [False, True, False, True, False]
    assert trainer.state.best_metric == 0.5


def test_answers_that_are_not_finite(loaded, monkeypatch, capsys):
    """Weights that are finite may overflow: the test part is refused, on validation the score does not count."""
    training = loaded["train"]
    job, model = training.run, training.model
    monkeypatch.setattr(evaluator, "predict", overflowing(evaluator.predict))
    _, report = evaluator.evaluate(job, model, job.collator, "validation")
    assert all(math.isnan(value) for value in report["metrics"].values())
    assert re.search(says("answers", "finite"), capsys.readouterr().out)
    with pytest.raises(ValueError, match=r"test.*\b\d+ of \d+ .*finite.* 2\b"):
        evaluator.evaluate(job, model, job.collator, "test")


def overflowing(predict):
    def run(*words, **more):
        predictions = predict(*words, **more)
        predictions.logits[2] = math.inf
        return predictions

    return run


# Memory, and several processes


def peak_of(action) -> int:
    """How many bytes a call takes at most on top of what the process had."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    def held(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

    before = held("VmRSS")
    action()
    return held("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's to tell")
def test_memory_for_a_damaged_file(tmp_path):
    """Files of 44 MB, with and without checksums: what is wrong with them is found in less than they take. (Below
    32 MB the allocator may hand out what was freed before, which adds nothing to the peak.)"""
    tensors = {"0": torch.ones(3300, 3300)}
    state = tmp_path / "checkpoint-1"
    staged = checkpoints.begin(state)
    save_file(tensors, staged / "model.safetensors")
    torch.save(tensors, staged / "optimizer.bin")
    publish(state)
    good = peak_of(lambda: [load_file(state / "model.safetensors"), states.load_tensors(state / "optimizer.bin")])
    assert good > 40_000_000
    huge = json.dumps({"0": {"dtype": "F32", "shape": [2**33], "data_offsets": [0, 2**35]}}).encode()
    header = struct.pack("<Q", len(huge)) + huge

    def claims(file: Path):
        with open(file, "r+b") as opened:
            opened.write(header)

    def check():
        faults = [fault_of(state, checksums=True), states.fault_of_tensors(state / "model.safetensors")]
        faults.append(states.fault_of_pickled(state / "optimizer.bin", checked=False))
        found.append(next(filter(None, faults), None))

    for change in (claims, flip, truncate):
        for name in ("model.safetensors", "optimizer.bin"):
            for with_checksums in (True, False):
                shutil.copytree(state, tmp_path / "whole")
                if not with_checksums:
                    republish(state, checksums=False)
                change(state / name)
                found: list = []
                assert peak_of(check) < 1.5 * good
                assert not with_checksums or name in found[0]
                shutil.rmtree(state)
                (tmp_path / "whole").rename(state)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_take_the_same_state(script, tmp_path):
    """One looks, both set aside and go on alike."""
    recipe, folder = write_recipe(tmp_path, tmp_path / "run", per_device_train_batch_size=4), tmp_path / "run"
    Run(command(f"{script}.py", 2, [str(recipe)]), folder).finish()
    ended = weights(folder)
    (folder / "results.json").unlink()
    (folder / "model.safetensors").unlink()
    name = "random_states_1.pkl" if script == "train" else "rng_state_1.pth"
    flip(folder / "checkpoint-6" / name)
    damaged = content(folder / "checkpoint-6")
    again = Run(command(f"{script}.py", 2, [str(recipe)]), folder, "again")
    again.finish()
    assert f"{name} is damaged" in again.text()
    assert again.text().count("kept as damaged-checkpoint-6") == 1
    assert f"resumed from {folder / 'checkpoint-3'}" in again.text()
    assert content(folder / "damaged-checkpoint-6") == damaged
    assert weights(folder) == ended
    for state in folder.glob("checkpoint-*"):
        flip(state / "scheduler.pt")
    (folder / "results.json").unlink()
    refused = Run(command(f"{script}.py", 2, [str(recipe)]), folder, "refused")
    assert refused.process.wait() != 0
    assert "error:" in refused.text()
    assert "scheduler.pt is damaged" in refused.text()
    assert "ValueError" not in refused.text()  # the launcher has a traceback of its own
    assert len(list(folder.glob("checkpoint-*"))) == 2


# What the checksums do not find, since the manifest was made of it


def with_nan(value: float):
    def change(file: Path):
        tensors = load_file(file)
        name = max(tensors, key=lambda name: tensors[name].numel())
        tensors[name].flatten()[-1] = value
        save_file(tensors, file)
        return [name]

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("script", SCRIPTS)
def test_tensors_that_are_not_finite(script, value, runs, takers, copied):
    names = [name for name in listed(runs / script / "run/checkpoint-6") if name.endswith(".safetensors")]
    assert len(names) == (3 if script == "train" else 2)
    for name in names:
        folder = copied(script)
        (tensor,) = with_nan(value)(folder / "checkpoint-6" / name)
        republish(folder / "checkpoint-6")
        assert_set_aside(takers[script], folder, name, tensor, "not finite")


def drop(name: str):
    def change(file: Path):
        tensors = load_file(file)
        del tensors[next(key for key in tensors if key.startswith(name))]
        save_file(tensors, file)

    return change


def reshape(name: str):
    """A tensor of one number: it would be copied into all places."""

    def change(file: Path):
        tensors = load_file(file)
        key = next(key for key in tensors if key.startswith(name))
        save_file({**tensors, key: tensors[key].flatten()[:1].clone()}, file)

    return change


def pickled(change):
    """A change of what `torch.save` wrote; what it returns, if anything, takes the place of it."""

    def rewrite(file: Path):
        state = states.load_tensors(file)
        changed = change(state)
        torch.save(state if changed is None else changed, file)

    return rewrite


def moment(state):
    next(iter(state["state"].values()))["exp_avg_sq"].flatten()[0] = math.nan


def rate(state):
    state["base_lrs"][0] = math.nan


def without(key: str):
    return pickled(lambda state: {name: value for name, value in state.items() if name != key})


def key(*path, value):
    """A value in a JSON file."""

    def change(file: Path):
        values = inner = json.loads(file.read_text())
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        file.write_text(json.dumps(values))

    return change


def text(words: str):
    return lambda file: file.write_text(words)


NUMBERS = [math.nan, math.inf, -1, 0.5, "6", None, True, [6], 10**400]
SENSELESS = {
    "train": [
        ("best.safetensors", drop(""), "lacks"),
        ("best.safetensors", reshape("model.fusion"), "shape"),
        ("ema.safetensors", drop("averages."), "averages."),
        ("ema.safetensors", reshape("averages.model.fusion"), "shape"),
        ("optimizer.bin", pickled(moment), "exp_avg_sq"),
        ("optimizer.bin", text(""), "optimizer.bin"),
        ("scheduler.pt", pickled(rate), "base_lrs"),
        ("scheduler.pt", pickled(lambda state: state.update(last_epoch=2)), "last_epoch is 2"),
        ("scheduler.pt", pickled(lambda state: [1]), "scheduler.pt"),
        ("random_states_0.pkl", without("torch_manual_seed"), "torch_manual_seed"),
        ("random_states_0.pkl", pickled(lambda state: state.update(random_state=(3, (1,), None))), "random_states_0"),
        ("random_states_0.pkl", text("no states"), "random_states_0.pkl"),
        *[("progress.json", key("step", value=value), "step") for value in [*NUMBERS, 0, 5, 7]],
        *[("progress.json", key("epoch", value=value), "epoch") for value in [*NUMBERS, 0, 2]],
        *[("progress.json", key("batch", value=value), "batch") for value in [*NUMBERS, 0, 5]],
        *[
            ("progress.json", key("seconds", value=value), "seconds")
            for value in NUMBERS
            if value not in (0.5, 10**400)
        ],
        *[("progress.json", key("best", value=value), "best") for value in [math.nan, math.inf, "1", [1]]],
        *[("progress.json", key("best_step", value=value), "best_step") for value in [*NUMBERS, 7]],
        *[("progress.json", key("evaluations_since", value=value), "evaluations_since") for value in NUMBERS],
        *[("progress.json", key("done", value=value), "done") for value in [0, None, "true"]],
        *[
            ("progress.json", key("limits", value=value), "limit")
            for value in [None, [], [5, None, None], ["6", 0, 0]]
        ],
        *[
            ("progress.json", key("history", "validation", value=value), "history")
            for value in [None, [3], [[3]], [["3", 1.0]], [[3, None]], [[7, 0.5]], {"3": 1}]
        ],
        ("progress.json", text('{"step": 6}'), "progress.json"),
        ("progress.json", key("stepp", value=6), "stepp"),
        *[
            ("rank_0.json", key("stream_position", value=value), "stream_position")
            for value in [None, [0], [0, -1], 3]
        ],
        *[("rank_0.json", key("losses", value=value), "losses") for value in [None, [3], [{"loss": "3"}]]],
    ],
    "finetune": [
        ("model.safetensors", drop("model.fusion"), "lacks"),
        ("model.safetensors", reshape("model.fusion"), "shape"),
        ("ema.safetensors", drop("averages."), "averages."),
        ("ema.safetensors", reshape("averages.model.fusion"), "shape"),
        ("optimizer.pt", pickled(moment), "exp_avg_sq"),
        ("scheduler.pt", pickled(rate), "base_lrs"),
        ("rng_state.pth", without("cpu"), "cpu"),
        ("rng_state.pth", pickled(lambda state: state.update(numpy=("MT19937", [1, 2]))), "rng_state.pth"),
        *[("trainer_state.json", key("global_step", value=value), "global_step") for value in [*NUMBERS, 0, 5, 7]],
        *[("trainer_state.json", key("max_steps", value=value), "max_steps") for value in [*NUMBERS, 5]],
        *[("trainer_state.json", key("epoch", value=value), "epoch") for value in [math.nan, -1, "1"]],
        *[
            ("trainer_state.json", key("best_metric", value=value), "best_metric")
            for value in [math.nan, math.inf, "1"]
        ],
        *[("trainer_state.json", key("best_global_step", value=value), "best_global_step") for value in [7, -3, "3"]],
        *[
            ("trainer_state.json", key("best_model_checkpoint", value=value), "best")
            for value in [3, "run/checkpoint-5"]
        ],
        *[
            ("trainer_state.json", key("log_history", value=value), "log_history")
            for value in [None, [3], [{"loss": 1.0}], [{"step": 7}]]
        ],
        *[("trainer_state.json", key("stateful_callbacks", value=value), "callbacks") for value in [None, {"A": 3}]],
        ("trainer_state.json", key("stepp", value=6), "stepp"),
        *[("rank_0.json", key("seconds", value=value), "seconds") for value in [math.nan, -1, "1", None]],
        *[("rank_0.json", key("stopped", value=value), "stopped") for value in [True, [1]]],
    ],
}
for script in SCRIPTS:
    SENSELESS[script] += [
        *[("rank_0.json", key("guard", "total", value=value), "guard") for value in [-1, "0", None]],
        *[("rank_0.json", key("guard", "skipped", value=value), "guard") for value in [3, [3], [{"step": -1}]]],
        *[("rank_0.json", key("bad_rows", "entries", value=value), "bad_rows") for value in [3, [3], [{"row": 3}]]],
        *[("rank_0.json", text(words), "rank_0.json") for words in ["", "[]", "{}", "[" * 100_000]],
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_values_out_of_sense(script, loaded, takers, copied):
    folder = copied(script)
    state = folder / "checkpoint-6"
    fault = loaded["train"].train_state.fault if script == "train" else loaded["finetune"].fault_of_state
    assert fault(state) is None
    for name, change, word in SENSELESS[script]:
        whole = (state / name).read_bytes()
        change(state / name)
        said = fault(state)
        assert said is not None, (state / name).read_bytes()[:500]
        assert name in said, said
        assert word in said, said
        (state / name).write_bytes(whole)
    change(state / name)
    republish(state)
    assert_set_aside(takers[script], folder, name, word)
