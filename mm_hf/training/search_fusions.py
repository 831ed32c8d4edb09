"""`--fusion auto`: which fusion, and which learning rate, by successive halving on validation.

All settings learn for a few steps; the best five go on to three times as many (Jamieson and Talwalkar 2016; the
sharpest bracket of Hyperband, Li et al. 2018). Of few steps the higher rate always makes more, and the score of a
setting is known to a point or two: so the last round has the fusion that is ahead at both rates, and what a run
without a search would take. The search and the whole training of the winner take about a fifth of the steps that all
settings would take to the end. Each trial has its whole schedule, and starts from the seed's weights. Encoders are
frozen, and what they give is computed once for all trials. Behind them comes a straight line, which takes no steps: it
is chosen where it is ahead of all.

Every trial that ended is in `fusion_search.json` in the run's folder: a search that was killed goes on from there.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from .. import MMFusionPreTrainedModel
from ..checkpoints import list_checkpoints
from ..evaluation.comparisons import lower_is_better
from ..models.linear_fusion import LINEAR
from ..models.names import shown
from ..states import agreed
from ..tasks import TASKS, Task
from .by_modality import columns_by_modality, pretrained_modalities
from .data_arguments import DataArguments
from .evaluator import evaluate
from .finish import Fit
from .linear_fit import fit_linear
from .model_arguments import AUTO, ModelArguments
from .places import WORKING_DIR
from .run import Run
from .run_folder import read_recipe_of, read_rows_of, read_run_json, write_json


FILE = "fusion_search.json"
# The fusions that are tried, the cheaper first: of equal scores the first one stays.
TRIED = (
    *("concat", "sum", "gated", "deep_cross", "late"),
    *("cross_attention", "co_attention", "merged_attention", "bottleneck"),
)
RATES = (1.0, 3.0)  # times the recipe's
# Of each round, how many settings take part, and for which share of the steps of the whole training.
ROUNDS = ((len(TRIED) * len(RATES), 1 / 27), (5, 1 / 9), (3, 1 / 3))
USUAL = ModelArguments().fusion  # what a run without a search takes
FEWEST_STEPS = 20


def check_search(model_args: ModelArguments, data_args: DataArguments, tasks: Sequence[Task]):
    """Refuses what no search can be made for.

    Raises:
        ValueError: encoders that train, a stream, or a head that is built upon its fusion.
    """
    if by_head := [task.name for task in tasks if task.by_head]:
        known = [task.name for task in TASKS.values() if not task.by_head]
        raise ValueError(f"fusion {AUTO} is for {', '.join(known)}, not for {by_head[0]}: name a fusion.")
    if data_args.streaming:
        raise ValueError(f"fusion {AUTO} does not go with streaming: every trial reads all rows. Name a fusion.")
    frozen: Any = model_args.freeze_encoders
    named = [name for name in columns_by_modality(data_args) if name in pretrained_modalities()]
    trains = [name for name in named if frozen is not True and name not in (frozen or ())]
    if trains:
        raise ValueError(
            f"fusion {AUTO} tries all fusions on what frozen encoders give, and freeze_encoders is {frozen}, where "
            f"those of {trains} train: --freeze_encoders true, or name a fusion."
        )


def search_fusions(run: Run, fit: Fit):
    """Where the recipe leaves the fusion to a search, searches, sets the run's fusion and rate to the best, and builds
    its model: what follows is the run of a recipe that names both. All processes call it.

    Args:
        run: its model is one with some fusion, its features are kept.
        fit: trains a model in place.

    Raises:
        ValueError: no setting could be trained, or what is kept of a search is damaged.
    """
    if not run.searches_fusions:
        return
    started = time.perf_counter()
    kept = agreed(lambda: kept_of(run))
    trials: list[dict[str, Any]] = kept["trials"]
    total = steps_of(run)
    rates = [rate * run.train_args.learning_rate for rate in RATES]
    settings: list[dict[str, Any]] = [{"fusion": name, "learning_rate": rate} for name in TRIED for rate in rates]
    winner, rounds = kept.get("winner"), rounds_of(total)
    if winner is None:
        each = ", then ".join(f"{count} settings for {steps} steps" for count, steps in rounds)
        left_out = f"; rounds of as many steps are one: {total} steps are few" if len(rounds) < len(ROUNDS) else ""
        run.say(f"fusion auto: {each}, then the best for {total}{left_out}")
    ended: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number, (count, steps) in enumerate(rounds if winner is None else ()):
        ended = []
        if 0 < number == len(rounds) - 1:
            settings = finalists(settings, rates)
        for setting in settings[:count]:
            known = next((trial for trial in trials if {**setting, "steps": steps}.items() <= trial.items()), None)
            if known is None:
                known = {"round": number, **setting, "steps": steps, **run_trial(run, fit, setting, steps)}
                trials.append(known)
                keep(run, {**kept, "trials": trials})
                run.say(told(known))
            ended.append((known, setting))
        ended = [(trial, setting) for trial, setting in ended if trial["score"] is not None]
        if not ended:
            raise ValueError(f"fusion auto: no setting could be trained. The first one: {trials[0].get('fault')}")
        ended.sort(key=lambda pair: goodness(pair[0]), reverse=True)  # equal ones keep their order
        settings = [setting for _, setting in ended]
    if winner is None:
        line = trial_of_line(run, len(rounds))
        trials.append(line)
        run.say(told(line))
        ahead = line["score"] is not None and goodness(line) > goodness(ended[0][0])
        winner = {name: line[name] for name in settings[0]} if ahead else settings[0]
        keep(run, {**kept, "trials": trials, "winner": winner})
    run.fusion_search = {"trials": trials, "winner": winner}
    run.seconds["search"] = time.perf_counter() - started
    how = "" if winner["fusion"] == LINEAR else f" at learning_rate {winner['learning_rate']:g}, trained to the end"
    run.say(f"fusion auto: {winner['fusion']}{how}")
    run.model = model_of(run, winner)
    run.model_args, run.train_args = copy.copy(run.model_args), copy.copy(run.train_args)
    run.model_args.fusion, run.train_args.learning_rate = winner["fusion"], winner["learning_rate"]


def finalists(settings: Sequence[dict[str, Any]], rates: Sequence[float]) -> list[dict[str, Any]]:
    """The settings of the last round: the fusion that is ahead at its rate and at the other ones, and what a run
    without a search would take."""
    first = settings[0]
    others = [{**first, "learning_rate": rate} for rate in rates]
    usual = {"fusion": USUAL, "learning_rate": rates[RATES.index(1.0)]}
    each = [first, *others, usual]
    return [setting for place, setting in enumerate(each) if setting not in each[:place]]


def rounds_of(total: int) -> list[tuple[int, int]]:
    """Of each round how many settings take part, and for how many steps each, where the whole training has `total`. Of
    a short one two rounds may have the same steps, which would tell the same again: they are one."""
    rounds: dict[int, int] = {}
    for count, share in ROUNDS:
        rounds.setdefault(min(total, max(FEWEST_STEPS, round(share * total))), count)
    return [(count, steps) for steps, count in rounds.items()]


def steps_of(run: Run) -> int:
    """Optimizer steps of the whole training."""
    args = run.train_args
    if args.max_steps > 0:
        return args.max_steps
    batches = len(run.training_loader(run.collator))
    return max(1, math.ceil(args.num_train_epochs * -(-batches // args.gradient_accumulation_steps)))


def model_of(run: Run, setting: dict[str, Any]) -> MMFusionPreTrainedModel:
    """The model of a setting as the seed starts it."""
    asked, run.model_args = run.model_args, copy.copy(run.model_args)
    run.model_args.fusion = setting["fusion"]
    try:
        set_seed(run.train_args.seed)
        return run.build().to(run.accelerator.device)
    finally:
        run.model_args = asked


def run_trial(run: Run, fit: Fit, setting: dict[str, Any], steps: int) -> dict[str, Any]:
    """Trains one setting for some steps and measures it on validation.

    Returns:
        `metric`, `score` (None where it could not be built or its score is not finite, with the `fault`),
        and `cpu_seconds` of this process.
    """
    began = time.process_time()
    try:
        model = model_of(run, setting)
    except ValueError as error:  # it does not go with other keys of the recipe
        return {"metric": run.first_metric(), "score": None, "fault": str(error), "cpu_seconds": 0.0}
    args = copy.copy(run.train_args)
    args.max_steps, args.eval_steps, args.early_stopping_patience = steps, steps, None
    args.learning_rate = setting["learning_rate"]
    fit(run, model, run.collator, args)
    _, report = evaluate(run, model, run.collator, "validation")
    metric, score = next(iter(report["metrics"].items()))
    of_trial: dict[str, Any] = {"metric": metric, "score": score}
    if not math.isfinite(score):
        of_trial |= {"score": None, "fault": f"its {metric} on validation is {score}"}
    return {**of_trial, "cpu_seconds": round(time.process_time() - began, 2)}


def goodness(trial: dict[str, Any]) -> float:
    """The score of a trial, more for a better one whatever its metric."""
    return -trial["score"] if lower_is_better(trial["metric"]) else trial["score"]


def trial_of_line(run: Run, number: int) -> dict[str, Any]:
    """Fits a straight line and measures it on validation; see `run_trial`. The score is None where none can be kept as
    a checkpoint."""
    began = time.process_time()
    setting = {"fusion": LINEAR, "learning_rate": run.train_args.learning_rate}
    trial = {"round": number, **setting, "steps": 0, "metric": run.first_metric()}
    try:
        curve = fit_linear(run, model_of(run, setting), run.collator, run.train_args)
    except ValueError as error:
        return {**trial, "score": None, "fault": str(error), "cpu_seconds": 0.0}
    ((_, score),) = curve["validation"]
    return {**trial, "score": score, "cpu_seconds": round(time.process_time() - began, 2)}


def kept_of(run: Run) -> dict[str, Any]:
    """What the run's folder has of its search: the trials that ended, and the winner where there is one. A training
    that has begun goes on with that; else a search of another recipe or of other rows does not count."""
    file, about = run.output_dir / FILE, mark_of(run.output_dir)
    if run.train_args.overwrite_output_dir:
        file.unlink(missing_ok=True)
    kept = read_run_json(file) if file.exists() else {}
    if kept and not (isinstance(kept.get("trials"), list) and isinstance(kept.get("about"), str)):
        raise ValueError(f"{file} is damaged: {shown(kept)}. Remove it: the search starts anew.")
    begun = "winner" in kept and bool(list_checkpoints(run.output_dir))
    return kept if begun or kept.get("about") == about else {"about": about, "trials": []}


def mark_of(output_dir: Path) -> str:
    """A mark of the recipe and the rows of a folder."""
    recipe = {key: value for key, value in read_recipe_of(output_dir).items() if key != WORKING_DIR}
    text = json.dumps([recipe, read_rows_of(output_dir)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def keep(run: Run, search: dict[str, Any]):
    """Writes what there is of a search, on one process."""
    if run.accelerator.is_main_process:
        write_json(run.output_dir / FILE, search)


def told(trial: dict[str, Any]) -> str:
    """A line about a trial."""
    setting = trial["fusion"] if trial["fusion"] == LINEAR else f"{trial['fusion']} at {trial['learning_rate']:g}"
    if trial["score"] is None:
        return f"fusion auto: {setting}: left out, {trial['fault']}"
    return f"fusion auto: {setting}: {trial['metric']} {trial['score']:.4f} on validation after {trial['steps']} steps"
