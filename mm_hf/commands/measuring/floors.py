"""The floors (baselines) of an evaluation: answers that use no input, or only the pictures."""

import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from ...data import Rows
from ...models.vision import Vision
from ...progress_bar import progress_bar
from ...tasks import Task
from ...training.evaluator import Evaluator


def constant_floors(
    task: Task, labels: torch.Tensor, learned: torch.Tensor | None, outputs: int
) -> dict[str, tuple[torch.Tensor, dict[str, str]]]:
    """The best constant answers by name, repeated for each row, with notes: where they come from, and, if there are
    several, the metric for which each is the best."""
    usable = learned is not None and bool(task.has_label(learned).any())
    known = learned if learned is not None and usable else labels
    source = "train" if usable else "the evaluated rows"
    guesses = {name: guess for name, guess in task.constants(known, outputs).items() if guess.listed}
    floors = {}
    for name, guess in guesses.items():
        notes = {"meaning": f"{guess.words} of {source}, for every row", "from": source}
        if len(guesses) > 1:
            notes["metric"] = guess.metric
        floors[name] = guess.answer.expand(len(labels), *guess.answer.shape), notes
    return floors


def nearest_pictures(run: Evaluator, rows: Rows) -> torch.Tensor:
    """For each row, the number of the training row with the nearest picture, `(N,)`. The distance is the cosine of the
    features of the model's own vision encoder; each level is averaged over its positions."""

    def features(rows: Rows, title: str) -> torch.Tensor:
        batch_size = run.batch_size
        loader = DataLoader(rows, batch_size=batch_size, collate_fn=run.collator)
        vectors = []
        for batch in progress_bar(loader, desc=title, leave=False, disable=not run.accelerator.is_main_process):
            batch = send_to_device(batch, run.accelerator.device)
            inputs = {key: batch[key] for key in ("pixel_values", "encoder_states") if key in batch}
            with torch.no_grad():
                states = run.model.base_model.encode({Vision.name: batch.get("vision_index")}, **inputs)[Vision.name]
            levels = [level.flatten(2).mean(-1) if level.ndim == 4 else level.mean(1) for level in states.levels]
            items = torch.nn.functional.normalize(torch.cat(levels, dim=-1), dim=-1)
            vectors.append(items[states.index].masked_fill((states.index < 0)[:, None], 0).cpu())
        return torch.cat(vectors)

    known = features(Rows(run.splits["train"], "train"), "pictures of train")
    return (features(rows, "nearest pictures") @ known.T).argmax(-1)


def picture_keys(run: Evaluator, rows: Rows) -> list[tuple | None]:
    """A key for the pictures of each row: rows with the same pictures have the same key. None without pictures."""
    keys: list[tuple | None] = []
    for row in rows:
        key = tuple(run.collator.item_keys(row, Vision.name))
        keys.append(key if any(key) else None)
    return keys
