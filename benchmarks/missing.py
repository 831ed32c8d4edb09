"""What to ask for next (`mm_hf explain --missing`): how good answers are at which price, against what is possible.

    python benchmarks/missing.py smart_home              # trains the recipe with modality_dropout; three seeds
    python benchmarks/missing.py video --seeds 0
    python benchmarks/missing.py smart_home --runs DIR   # where runs are, or go: DIR/smart_home-0 …

The plan learns from validation rows and is played on test rows, which are shown one modality after the other as it is
obtained. Both recipes are made by rules, so that the most that anybody can do at each price is known exactly:
`bound` plays the best plan on all that can happen. The figures go into `results/missing.json`.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm_hf.evaluation.plots import plot_cost_curve
from mm_hf.evidence.cost_curve import Point, cost_curve, price_of, score_at
from mm_hf.prepare import moving_shapes, smart_home
from mm_hf.training import train
from mm_hf.training.asking import answers_of_part, learn_missing
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.recipe_files import packaged_recipes
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/missing.json"
DROPOUT = {
    "smart_home": "{audio: 0.3, tabular: 0.1}",
    "video": "{vision: 0.3, text: 0.1, audio: 0.3}",
}
START = {"smart_home": [], "video": ["text"]}
# What a row lacks is learned beside all else: the recipe's own epochs and seconds are too few for both.
LONGER = {"smart_home": ["--num_train_epochs", "60"], "video": []}
RECORDINGS = 50_000  # of which the builder's order of actions is drawn

Joint = Mapping[tuple[Mapping[str, Any], str], float]  # what rows hold by modality, and the label: its probability


def bound(joint: Iterable[tuple[dict[str, Any], str, float]], start: Sequence[str], prices: Mapping[str, float]):
    """The best that any plan can do, as the corners of a line of `price` (a share of that of everything) and `score`.

    Args:
        joint: all that can happen: by modality what a row holds, its label, and the probability of both.
        start: modalities that are given.
        prices: of the others.
    """
    rows = [(values, label, share) for values, label, share in joint if share > 0]
    rest, total = list(prices), sum(prices.values())

    def best(held: list[tuple], known: frozenset[str], worth: float) -> tuple[float, float, float]:
        """Value, score and price of the best plan for rows that look alike."""
        of_labels: Counter[str] = Counter()
        for _, label, share in held:
            of_labels[label] += share
        weight = sum(of_labels.values())
        chosen = (max(of_labels.values()), max(of_labels.values()), 0.0)
        if chosen[1] > weight - 1e-12:
            return chosen
        for name in rest:
            if name in known:
                continue
            parts: defaultdict[Any, list[tuple]] = defaultdict(list)
            for row in held:
                parts[row[0][name]].append(row)
            plans = [best(part, known | {name}, worth) for part in parts.values()]
            score = sum(plan[1] for plan in plans)
            price = weight * prices[name] / total + sum(plan[2] for plan in plans)
            if score - worth * price > chosen[0] + 1e-12:
                chosen = (score - worth * price, score, price)
        return chosen

    groups: defaultdict[tuple, list[tuple]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[0][name] for name in start)].append(row)

    def at(worth: float) -> tuple[float, float]:
        plans = [best(group, frozenset(start), worth) for group in groups.values()]
        return round(sum(plan[2] for plan in plans), 9), sum(plan[1] for plan in plans)

    # Between two corners the worth that makes them equal finds the corner between them, if there is one.
    corners = {at(1e-6), at(1e6)}
    waiting = [tuple(sorted(corners))]
    while waiting:
        pair = waiting.pop()
        if len(pair) < 2 or pair[1][0] - pair[0][0] < 1e-6:
            continue
        worth = (pair[1][1] - pair[0][1]) / (pair[1][0] - pair[0][0])
        middle = at(worth)
        if middle not in corners and middle[1] - worth * middle[0] > pair[0][1] - worth * pair[0][0] + 1e-9:
            corners.add(middle)
            waiting += [(pair[0], middle), (middle, pair[1])]
    return [{"price": price, "score": score} for price, score in sorted(corners)]


@lru_cache(maxsize=1)
def smart_home_rows() -> list[tuple[dict[str, Any], str, float]]:
    """All that `mm_hf prepare smart_home` can make, and how often: the actions as it draws them, every state in which
    an action is right equally often."""
    modes, sides = smart_home.MODES, ("open", "closed")
    states = [
        {"level": level, "mode": mode, "window": side} for level in range(10) for mode in modes for side in sides
    ]
    right: dict[tuple[int, str], list[tuple]] = {}
    for said in range(10):
        for action in smart_home.ACTIONS:
            fitting = [state for state in states if smart_home.action_of(said, state) == action]
            fitting = [state for state in fitting if state["mode"] != "locked"] or fitting
            right[said, action] = [tuple(state.values()) for state in fitting]
    draw, counts, drawn = random.Random(0), Counter(), Counter()
    for _ in range(RECORDINGS):
        said = draw.randrange(10)
        possible = [action for action in smart_home.ACTIONS if right[said, action]]
        action = min(possible, key=lambda action: (counts[action], draw.random()))
        counts[action] += 1
        drawn[said, action] += 1
    return [
        ({"audio": said, "tabular": state}, action, count / RECORDINGS / len(right[said, action]))
        for (said, action), count in drawn.items()
        for state in right[said, action]
    ]


@lru_cache(maxsize=1)
def video_rows() -> list[tuple[dict[str, Any], str, float]]:
    """All that `mm_hf prepare moving_shapes` can make, and how often: three or four questions a clip."""
    rows, shapes = [], moving_shapes
    questions = 3 + 2 / 3  # a clip, on average
    for kind, pairs in (("yes", shapes.SAME), ("no", shapes.OPPOSITE), (None, shapes.OTHERS)):
        for way, sound in pairs:
            for colour in shapes.COLOURS:
                answers = {"colour": colour, "way": way, "tone": sound} | ({"both": kind} if kind else {})
                share = 1 / 3 / len(pairs) / len(shapes.COLOURS) / questions
                for asked, answer in answers.items():
                    rows.append(({"text": asked, "vision": (colour, way), "audio": sound}, answer, share))
    return rows


POSSIBLE = {"smart_home": smart_home_rows, "video": video_rows}


def run_of(recipe: str, seed: int, folder: Path) -> Path:
    """The run of a seed, trained where it is not there."""
    run = folder / f"{recipe}-{seed}"
    if not (run / "results.json").exists():
        words = [str(packaged_recipes()[f"{recipe}.yaml"]), "--output_dir", str(run), "--seed", str(seed)]
        words += [*LONGER[recipe], "--max_train_seconds", "86400"]
        train.train([*words, "--modality_dropout", DROPOUT[recipe], "--floors", "false", "--report_to", "none"])
    return run


def measure(recipe: str, run: Path) -> dict[str, Any]:
    """The curve of a run beside the bound, and what is to be read from it."""
    start = START[recipe]
    missing, rows = learn_missing(str(run)), answers_of_part(str(run), "test", start)
    curve = cost_curve(missing, rows, start)
    line = bound(POSSIBLE[recipe](), start, curve["prices"])
    curve["lines"] = {"bound": line, **curve["lines"]}
    everything = curve["lines"]["random_order"][-1]["score"]
    plan, fixed = curve["lines"]["plan"], curve["lines"]["fixed_order"]
    return {
        **curve,
        "with_everything": everything,
        "at_bound": [against(point, plan, fixed) for point in line],
        "price_of_95_percent": {name: price_of(curve["lines"][name], 0.95 * everything) for name in curve["lines"]},
        "warnings": missing.warnings,
    }


def against(point: Point, plan: Sequence[Point], fixed: Sequence[Point]) -> dict[str, float]:
    """The bound at a price, what the plan gives there, and the best fixed order."""
    price = point["price"]
    values = {"price": price, "bound": point["score"], "plan": score_at(plan, price)}
    return {name: round(value, 4) for name, value in {**values, "fixed_order": score_at(fixed, price)}.items()}


def main(words: Sequence[str] | None = None):
    """Measures the seeds of a recipe, and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=list(POSSIBLE))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/missing")
    parser.add_argument("--report", type=Path, default=REPORT)
    args = parser.parse_args(words)
    for seed in args.seeds:
        run = run_of(args.recipe, seed, args.runs)
        measured = measure(args.recipe, run)
        report = json.loads(args.report.read_text()) if args.report.exists() else {}
        about = {"commit": commit_or_version(), "hardware": hardware()}
        report.setdefault(args.recipe, {})[str(seed)] = {**measured, **about}
        write_json(args.report, report)
        plot_cost_curve(measured, run / "cost_curve.png", "accuracy")
        print(f"{args.recipe}, seed {seed}: with everything {measured['with_everything']:.4f}")
        for row in measured["at_bound"]:
            print("  " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
        print("  price of 95 % of that: ", measured["price_of_95_percent"])


if __name__ == "__main__":
    main()
