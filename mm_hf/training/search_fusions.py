"""`--fusion auto`: chooses a fusion and a learning rate by successive halving on validation.

All settings train for a few steps; the best five then train for three times as many (Jamieson and Talwalkar 2016; the
most aggressive bracket of Hyperband, Li et al. 2018). After few steps the higher rate is always ahead, and the score
of a setting is only known to a point or two. So the last round has the leading fusion at both rates, and the fusion
that a run without a search would use. The search and the whole training of the winner take about a fifth of the steps
that full trainings of all settings would take. Each trial has its own whole schedule, and starts from the seed's
weights. Encoders are frozen, and their features are computed once for all trials. At the end a linear model is
fitted, which takes no steps: it is chosen if it is better than all trials.

Every finished trial is in `fusion_search.json` in the run's folder: a search that was killed resumes from there.
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
# The fusions to try, the cheaper ones first: with equal scores the first one wins.
TRIED = (
    *("concat", "sum", "gated", "deep_cross", "late"),
    *("cross_attention", "co_attention", "merged_attention", "bottleneck"),
)
RATES = (1.0, 3.0)  # learning rates to try, as multiples of the recipe's
# For each round: the number of settings, and their steps as a share of the steps of the whole training.
ROUNDS = ((len(TRIED) * len(RATES), 1 / 27), (5, 1 / 9), (3, 1 / 3))
USUAL = ModelArguments().fusion  # the fusion of a run without a search
FEWEST_STEPS = 20


def check_search(model_args: ModelArguments, data_args: DataArguments, tasks: Sequence[Task]):
    """Refuses recipes for which a search is not possible.

    Raises:
        ValueError: encoders train, the data is a stream, or the head needs a certain fusion.
    """
    if by_head := [task.name for task in tasks if task.by_head]:
        known = [task.name for task in TASKS.values() if not task.by_head]
        raise ValueError(f"fusion {AUTO} is for {', '.join(known)}, not for {by_head[0]}: name a fusion.")
    if data_args.streaming:
        raise ValueError(f"fusion {AUTO} does not work with streaming: every trial reads all rows. Name a fusion.")
    frozen: Any = model_args.freeze_encoders
    named = [name for name in columns_by_modality(data_args) if name in pretrained_modalities()]
    trains = [name for name in named if frozen is not True and name not in (frozen or ())]
    if trains:
        raise ValueError(
            f"fusion {AUTO} tries all fusions with frozen encoders, but freeze_encoders is {frozen}, so the encoders "
            f"of {trains} train. Set --freeze_encoders true, or name a fusion."
        )


def search_fusions(run: Run, fit: Fit):
    """If the recipe asks for a search, searches, sets the run's fusion and learning rate to the best ones, and builds
    its model. After that the run is the same as with a recipe that names both. All processes call it.

    Args:
        run: its model has a placeholder fusion, and its features are cached.
        fit: trains a model in place.

    Raises:
        ValueError: no setting could be trained, or the file of a former search is damaged.
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
        left_out = "; rounds with the same number of steps are merged" if len(rounds) < len(ROUNDS) else ""
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
            raise ValueError(
                f"fusion auto: no setting could be trained. The error of the first one: {trials[0].get('fault')}"
            )
        ended.sort(key=lambda pair: goodness(pair[0]), reverse=True)  # equal scores keep their order
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
    """The settings of the last round: the leading fusion at all rates, and the setting of a run without a search."""
    first = settings[0]
    others = [{**first, "learning_rate": rate} for rate in rates]
    usual = {"fusion": USUAL, "learning_rate": rates[RATES.index(1.0)]}
    each = [first, *others, usual]
    return [setting for place, setting in enumerate(each) if setting not in each[:place]]


def rounds_of(total: int) -> list[tuple[int, int]]:
    """For each round, the number of settings and the steps for each; the whole training has `total` steps. In a short
    training two rounds may have the same number of steps. The second one would repeat the first, so they are
    merged."""
    rounds: dict[int, int] = {}
    for count, share in ROUNDS:
        rounds.setdefault(min(total, max(FEWEST_STEPS, round(share * total))), count)
    return [(count, steps) for steps, count in rounds.items()]


def steps_of(run: Run) -> int:
    """The number of optimizer steps of the whole training."""
    args = run.train_args
    if args.max_steps > 0:
        return args.max_steps
    batches = len(run.training_loader(run.collator))
    return max(1, math.ceil(args.num_train_epochs * -(-batches // args.gradient_accumulation_steps)))


def model_of(run: Run, setting: dict[str, Any]) -> MMFusionPreTrainedModel:
    """The model of a setting, with initial weights from the seed."""
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
        `metric`; `score` (None if the model could not be built or its score is not finite, then with `fault`); and
        `cpu_seconds` of this process.
    """
    began = time.process_time()
    try:
        model = model_of(run, setting)
    except ValueError as error:  # the setting does not fit other keys of the recipe
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
    """The score of a trial, with its sign changed if lower is better: higher is always better."""
    return -trial["score"] if lower_is_better(trial["metric"]) else trial["score"]


def trial_of_line(run: Run, number: int) -> dict[str, Any]:
    """Fits a linear model and measures it on validation; see `run_trial`. The score is None if a linear model cannot
    be kept as a checkpoint."""
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
    """The state of a search in the run's folder: the finished trials, and the winner if there is one. If the training
    has begun already, this state is used as it is. Else the search of another recipe or of other rows is ignored."""
    file, about = run.output_dir / FILE, mark_of(run.output_dir)
    if run.train_args.overwrite_output_dir:
        file.unlink(missing_ok=True)
    kept = read_run_json(file) if file.exists() else {}
    if kept and not (isinstance(kept.get("trials"), list) and isinstance(kept.get("about"), str)):
        raise ValueError(f"{file} is damaged: {shown(kept)}. Remove it: the search then starts again.")
    begun = "winner" in kept and bool(list_checkpoints(run.output_dir))
    return kept if begun or kept.get("about") == about else {"about": about, "trials": []}


def mark_of(output_dir: Path) -> str:
    """A digest of the recipe and the rows in a folder."""
    recipe = {key: value for key, value in read_recipe_of(output_dir).items() if key != WORKING_DIR}
    text = json.dumps([recipe, read_rows_of(output_dir)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def keep(run: Run, search: dict[str, Any]):
    """Writes the state of a search, on one process."""
    if run.accelerator.is_main_process:
        write_json(run.output_dir / FILE, search)


def told(trial: dict[str, Any]) -> str:
    """A line about a trial."""
    setting = trial["fusion"] if trial["fusion"] == LINEAR else f"{trial['fusion']} at {trial['learning_rate']:g}"
    if trial["score"] is None:
        return f"fusion auto: {setting}: left out, {trial['fault']}"
    return f"fusion auto: {setting}: {trial['metric']} {trial['score']:.4f} on validation after {trial['steps']} steps"
