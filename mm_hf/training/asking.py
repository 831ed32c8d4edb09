"""Which missing modality to obtain next, for a run: `missing` is learned on its validation rows, `cost_curve` is
measured on its test rows, and both are written into files."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..data import MultimodalCollator
from ..data.modalities import reader_of
from ..evaluation.plots import plot_cost_curve
from ..evidence.coalition_answers import Coalition, CoalitionAnswers, answering_heads, coalitions_of, look
from ..evidence.cost_curve import cost_curve
from ..evidence.missing import FEW_ROWS, Missing
from ..models.files import read_json
from ..models.names import did_you_mean
from .evaluator import Evaluator
from .reopen import open_checkpoint, parse_arguments
from .run_folder import in_place, write_json


CURVE = "cost_curve"  # .json and .png in the folder of a run
LEARNED_ROWS = 1000  # at most: memory and time grow with their square
MORE_ROWS = 300  # training rows that are added where there are few validation rows
CERTAIN = 2.0  # a set of modalities is refused if it is worse than a constant answer by so many standard errors
BATCH = 32


def open_part(run: str, part: str, rows: int = LEARNED_ROWS) -> Evaluator:
    """Opens the checkpoint of a run and one part of its data: at most `rows` rows, drawn at random."""
    evaluator, name, _ = open_checkpoint(*parse_arguments("", words=[run, "--split", part, "--max_rows", str(rows)]))
    evaluator.splits = {part: evaluator.splits[name]}
    return evaluator


def batches_of(evaluator: Evaluator) -> Iterable[dict[str, Any]]:
    """The batches of the only part of an evaluator."""
    (part,) = evaluator.splits
    return evaluator.loader(part, evaluator.collator)


def learn_missing(run: str) -> Missing:
    """Learns from the validation rows of a run what each missing modality would add. If there are few validation
    rows, it uses training rows too.

    Raises:
        ValueError: the run has no validation part or no labels, its model predicts neither classes nor numbers, or
            its answers are useless when a modality is missing, see `check_absence`.
    """
    if not (Path(run) / "recipe.json").is_file():
        raise ValueError(
            f"What a missing modality would add is learned from the validation rows of a run, and {run} has no "
            "recipe.json that says which rows these are: name the folder of a run."
        )
    evaluator = open_part(run, "validation")
    heads = {name: head for name, (_, head) in answering_heads(evaluator.model).items()}
    (rows,) = evaluator.splits.values()
    batches, notes = batches_of(evaluator), list[str]()
    if len(rows) < FEW_ROWS:
        batches = chain(batches, batches_of(open_part(run, "train", MORE_ROWS)))
        notes.append(
            f"There are only {len(rows)} validation rows, so up to {MORE_ROWS} training rows were used too. "
            "The model has seen the training rows, so the gains may be too large."
        )
    missing = Missing(evaluator.tasks_by_name, heads, look(evaluator.model, batches))
    missing.warnings = [*notes, *missing.warnings, *check_absence(evaluator.model, missing)]
    return missing


def check_absence(model: Any, missing: Missing) -> list[str]:
    """Warnings for a model that was trained without `modality_dropout`: it never learned to answer without a modality,
    and such answers are what is compared here.

    Raises:
        ValueError: without a modality its answers are worse than the best constant answer.
    """
    rates = model.config.fusion_module_config.modality_dropout
    always = np.asarray(missing.answers.present.all(0)).tolist()
    never = [
        name
        for name, in_all in zip(missing.modalities, always)
        if in_all and not (rates.get(name, 0) if isinstance(rates, dict) else rates)
    ]
    if not never or len(missing.modalities) < 2:
        return []
    guess = missing.score[Coalition()]
    for seen in coalitions_of(missing.modalities):
        if not seen or seen.issuperset(never):
            continue
        behind = guess - missing.score[seen]
        behind = behind[np.isfinite(behind)]
        if len(behind) > 1 and behind.mean() > CERTAIN * behind.std(ddof=1) / np.sqrt(len(behind)):
            raise ValueError(
                f"With {', '.join(sorted(seen))} alone the answers are worse than one constant answer "
                f"({np.nanmean(missing.score[seen]):.3f} against {np.nanmean(guess):.3f}). The model was trained with "
                f"modality_dropout 0 for {', '.join(never)}, so it has not learned to answer without these. Train it "
                "with --modality_dropout 0.3."
            )
    return [
        f"The model was trained with modality_dropout 0 for {', '.join(never)}, so it has not learned to answer "
        "without these. The gains of obtaining them may look larger than they are."
    ]


def read_prices(text: str | None, names: Mapping[str, str]) -> dict[str, float]:
    """Reads prices by modality from a text such as `vision=5,audio=1`.

    Args:
        text: the prices; None: there are none.
        names: modalities by the names that the user may use, see `names_of_modalities`.

    Raises:
        ValueError: the text has another form, or a name is unknown.
    """
    prices: dict[str, float] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, price = part.strip().partition("=")
        try:
            prices[known_name(name, names, "prices")] = float(price if equals else "")
        except ValueError:
            if name not in names:
                raise
            raise ValueError(f"--prices must be of the form vision=5,audio=1; got {part.strip()!r}.") from None
    return prices


def known_name(name: str, names: Mapping[str, str], flag: str) -> str:
    """The modality that a name means; see `names_of_modalities`.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in names:
        raise ValueError(f"--{flag} names {name!r}. Known names: {', '.join(names)}.{did_you_mean(name, names)}")
    return names[name]


def names_of_modalities(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Modalities by the names that the user may use: the modality's own name, and its column if it has only one."""
    alone = {of_name[0]: name for name, of_name in columns.items() if len(of_name) == 1}
    return {**alone, **{name: name for name in columns}}


def missing_section(
    run: str,
    model: Any,
    collator: MultimodalCollator,
    rows: Sequence[dict[str, Any]],
    prices: str | None = None,
    until: float | None = None,
    given: Sequence[str] | None = None,
    missing: Missing | None = None,
) -> dict[str, Any]:
    """The section `missing` of evidence.json: for each row the expected gain of each modality that it lacks, and, if
    there are prices or `until`, which one to obtain next.

    Args:
        run: folder of the run; its validation rows are used to learn.
        model, collator: of the rows.
        rows: as the collator takes them, each with its `row_id`.
        prices: as `read_prices` takes them.
        until: an answer is sure enough once its expected score reaches this value, at most 1.
        given: modalities that rows have from the beginning. If it is not None, the curve of score against price is
            also measured on the run's test rows, see `write_cost_curve`.
        missing: what was learned before; None: it is learned now.
    """
    if until is not None and not until <= 1:
        raise ValueError(f"--until must be at most 1 (1 means that no error is left), got {until}.")
    parts = {name: reader_of(name).data_columns(collator.columns) for name in model.config.modalities}
    names = names_of_modalities(parts)
    by_modality, plans = read_prices(prices, names), prices is not None or until is not None
    answering_heads(model)  # refuses other heads before anything is opened
    missing = learn_missing(run) if missing is None else missing
    batches = (collator(list(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH))
    answers = look(model, batches, [Coalition(missing.modalities)])
    told = missing.gains(answers)
    if plans:
        told = [{**gains, **plan} for gains, plan in zip(told, missing.plan(answers, by_modality, until))]
    curve = None
    if given is not None:
        curve = write_cost_curve(run, missing, by_modality, [known_name(name, names, "given") for name in given])
    return {
        "learned_from": int(np.isfinite(missing.score[Coalition()]).sum()),
        "scale": scale_of(missing),
        "columns": parts,
        "prices": missing.checked(by_modality) if plans else None,
        "until": until,
        "warnings": missing.warnings,
        "curve": curve,
        "rows": [{"row": row["row_id"], **of_row} for row, of_row in zip(rows, told)],
    }


def scale_of(missing: Missing) -> list[dict[str, Any]]:
    """For each task: what a score of 1 means in the unit of the task, and what a score of 0 means."""
    scores = missing.scores
    return [
        {"task": name, "unit": task.row_score, "one_is": scores.units[name], "zero_is": scores.zeros[name]}
        for name, task in scores.tasks.items()
    ]


def lines_of_missing(section: Mapping[str, Any]) -> list[str]:
    """The result, for the terminal. Rows that lack the same modalities share a line: the mean gain of each modality,
    and for how many rows it is the next one to obtain."""
    lines = []
    by_lack: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in section["rows"]:
        by_lack.setdefault(tuple(row["missing"]), []).append(row)
    for lacking, rows in by_lack.items():
        if not lacking:
            lines.append(f"{len(rows):,} rows lack nothing")
            continue
        said = []
        for name in lacking:
            known = [row["gains"][name] for row in rows if row["gains"][name] is not None]
            gain = f"{np.mean(known):+.3f}" if known else "unknown"
            first = sum(row.get("next") == name for row in rows)
            said.append(f"{name} {gain}" + (f" (next of {first:,})" if "next" in rows[0] else ""))
        sure = [row["sure"] for row in rows if row["sure"] is not None]
        expected = f"{np.mean(sure):.3f}" if sure else "unknown"
        lines.append(
            f"{len(rows):,} rows lack {', '.join(lacking)}; score to expect {expected}, gain of {', '.join(said)}"
        )
    return lines + [f"note: {warning}" for warning in section["warnings"]]


def write_cost_curve(
    run: str, missing: Missing, prices: Mapping[str, float] | None = None, start: Sequence[str] = ()
) -> dict[str, Any]:
    """Measures on the test rows of a run which score the plan reaches at which price. Writes it beside the checkpoint,
    as JSON and as a picture. The report of `mm_hf evaluate` shows it.

    Args:
        run: folder of the run.
        missing: what was learned from its validation rows.
        prices, start: see `cost_curve`.
    """
    curve = cost_curve(missing, answers_of_part(run, "test", start), start, prices)
    curve = {"scale": scale_of(missing), "warnings": missing.warnings, **curve}
    if os.path.isdir(run):
        write_json(Path(run) / f"{CURVE}.json", curve)
        in_place(Path(run) / f"{CURVE}.png", lambda file: plot_cost_curve(curve, file))
    return curve


def kept_curve(run: str) -> dict[str, Any] | None:
    """What `write_cost_curve` wrote; None if there is no file."""
    file = Path(run) / f"{CURVE}.json"
    return read_json(file) if file.is_file() else None


def answers_of_part(run: str, part: str = "test", start: Collection[str] = ()) -> CoalitionAnswers:
    """The answers of a run's model to one part, for every set of modalities that contains `start`."""
    evaluator = open_part(run, part)
    sets = coalitions_of(evaluator.model.config.modalities, start)
    return look(evaluator.model, batches_of(evaluator), sets)
