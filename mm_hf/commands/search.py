"""Searches with a checkpoint: measure the search, embed a data set, or send a query.

    mm_hf search evaluate --model runs/openmoji_retrieval
    mm_hf search build --model runs/openmoji_retrieval --gallery runs/gallery
    mm_hf search query --model runs/openmoji_retrieval --gallery runs/gallery --text "a tired cat"
    mm_hf search query --model runs/openmoji_retrieval --gallery runs/gallery --image drawing.png

A model of texts and sounds takes --text or --audio. mm_hf train leaves recipe.json beside its checkpoint. For such a
run, the data set and the columns need not be named again. `build` embeds all parts of the data, or the part that
--split names, and keeps the name of the part with each row. `evaluate` measures the plain search and the reranked
search. In the reranked search, the fusion scores the best results again; the weight of its score is chosen on the
validation part. `evaluate` writes retrieval.json and retrieval.png into the folder evaluation/ of the checkpoint.
`query` prints the results and draws them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers.utils import logging

from .. import MMFusionConfig, MMFusionForRetrieval, MMFusionProcessor
from ..data import Columns, MultimodalCollator, Rows, data_root_of, load_splits
from ..data.all_rows import PART, AllRows, rows_of_all
from ..data.modalities.sound import picture_of_sound
from ..data.rows import SOURCE_ROW
from ..evaluation import bootstrap, chance_recall, compare, plot_finds, ranking_metrics, ranks, verdict
from ..models.files import read_json
from ..models.image import open_image
from ..models.image_processors import picture_settings
from ..models.retrieval_mm_fusion import ITEMS
from ..models.sound import Sound, load_sound
from ..models.text import Text
from ..models.vision import Vision
from ..retrieval import Gallery, choose_weight, combine, empty_index, encode, rerank, score_gallery
from ..training.data_arguments import DatasetArguments
from ..training.exits import MEASURING, run_script
from ..training.lock import lock_folder
from ..training.provenance import origin
from ..training.reopen import config_of, load_part, parse_arguments
from ..training.run_folder import write_json
from ..training.run_report import picture_and_text
from ..training.splits import AS_MEANT, reading_of
from .arguments import COMMANDS, RetrieveArguments


SEARCHES = MMFusionForRetrieval.__name__
SHOWN = 6  # number of searches that are drawn


@dataclass
class Search:
    """A checkpoint with its data: the arguments, the recipe of the run, and the columns of texts and of pictures or
    sounds."""

    args: RetrieveArguments
    data_args: DatasetArguments
    recipe: dict[str, Any]
    model: MMFusionForRetrieval
    collator: MultimodalCollator
    columns: Columns

    def part(self, split: str | None) -> tuple[str, Dataset]:
        """Name and rows of a part of the data."""
        name, part, _ = load_part(replace(self.args, split=split), self.data_args, self.recipe, self.columns)
        return name, part

    def all_rows(self) -> Rows:
        """The rows of all parts that the data have; with `max_rows`, a random draw of them."""
        file = Path(self.args.model) / "rows.json"
        cells = read_json(file).get("cells") if file.exists() else None
        cells = cells if self.recipe else AS_MEANT
        splits = load_splits(
            self.data_args.source,
            self.columns,
            data_root=self.data_args.data_root,
            validation_fraction=0.0,
            test_fraction=0.0,
            **reading_of(cells),
        )
        return rows_of_all(dict(splits), self.args.max_rows, self.args.seed)

    def gallery(self, rows: Rows) -> Gallery:
        """All items of these rows."""
        args = self.args
        return Gallery.build(self.model, self.collator, rows, args.index_factory, args.per_device_eval_batch_size)

    @property
    def directions(self) -> tuple[str, str]:
        """Names of the two search directions."""
        item = ITEMS[self.model.item_modality]
        return f"text_to_{item}", f"{item}_to_text"

    @property
    def logit_scale(self) -> float:
        """The factor by which training multiplied similarities."""
        return self.model.logit_scale.exp().item()

    @property
    def folder(self) -> Path:
        """The folder that `evaluate` writes to."""
        local = Path(self.args.model)
        return (local if local.is_dir() else Path("runs", local.name)) / "evaluation"


def main():
    """Opens the checkpoint and does what the command says."""
    args, data_args, recipe = parse_arguments(__doc__, RetrieveArguments, COMMANDS, "mm_hf search")
    needed: dict[str, list[str]] = {"evaluate": [], "build": ["gallery"], "query": ["gallery"]}
    missing = [f"--{name}" for name in needed[args.command] if getattr(args, name) is None]
    missing += [f"--{name}" for name in ("dataset", "text_column") if getattr(data_args, name) is None]
    if args.command == "query" and sum(given is not None for given in (args.text, args.image, args.audio)) != 1:
        missing.append("exactly one of --text, --image and --audio")
    if missing:
        raise ValueError(f"mm_hf search {args.command} requires {', '.join(missing)}.")
    {"evaluate": evaluate, "build": build, "query": query}[args.command](open_search(args, data_args, recipe))


def open_search(args: RetrieveArguments, data_args: DatasetArguments, recipe: dict[str, Any]) -> Search:
    """Loads the model, and sets up how its rows are read.

    Raises:
        ValueError: the checkpoint is not a retrieval model.
    """
    config = config_of(args.model)
    architectures = config.architectures or [config.model_type]
    if not isinstance(config, MMFusionConfig) or architectures[0] != SEARCHES:
        raise ValueError(
            f"{args.model} is a checkpoint of {', '.join(architectures)}; mm_hf search requires MMFusionForRetrieval."
        )
    for modality, name in ITEMS.items():
        column = f"{name}_column"
        if (modality in config.modalities) != (getattr(data_args, column) is not None):
            asked = "requires" if modality in config.modalities else "does not use"
            raise ValueError(f"{args.model} searches with {config.modalities}: it {asked} --{column}.")
    logging.disable_progress_bar()  # of loading weights: seconds
    image = data_args.image_column
    columns = Columns(
        image=image[0] if isinstance(image, list) and len(image) == 1 else image,
        image_id=data_args.image_id_column or None,
        text=data_args.text_column,
        audio=data_args.audio_column,
    )
    collator = MultimodalCollator(
        MMFusionProcessor.from_pretrained(args.model),
        columns,
        on_error=data_args.on_error,
        root=data_root_of(data_args.source, data_args.data_root),
        pair_ids=True,
    )
    model = MMFusionForRetrieval.from_pretrained(args.model, freeze_encoders=True)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Search(args, data_args, recipe, model, collator, columns)


def evaluate(search: Search):
    """Measures both directions, plain and reranked."""
    args = search.args
    lock_folder(search.folder)
    name, part = search.part(args.split)
    rows = Rows(part, name)
    looks = args.rerank_top > 0 and search.model.config.matching_weight > 0
    weights = chosen_weights(search, name) if looks else {}
    gallery = search.gallery(rows)
    relevant = gallery.relevant()
    if not relevant.any():
        raise ValueError(
            f"No row of part {name!r} has both a text and an item to find, so nothing can be measured: name another "
            "part with --split."
        )
    texts, items = gallery.embeddings.values()
    similarities = texts @ items.T
    matching = score_gallery(search.model, search.collator, rows, gallery) if looks else None

    forth, back = search.directions
    item = ITEMS[search.model.item_modality]
    report: dict[str, Any] = {"split": name, "texts": len(texts), "items": len(items), "metrics": {}}
    floors = []
    for direction, scores, right in ((forth, similarities, relevant), (back, similarities.T, relevant.T)):
        asked = right.any(-1)  # an item without a partner is no query; it can only be a wrong result
        ranks_of = {"plain": ranks(scores, right)[asked]}
        if matching is not None:
            word = matching if direction == forth else matching.T
            again = rerank(scores, word, weights[direction], search.logit_scale, args.rerank_top)
            ranks_of["reranked"] = ranks(again, right)[asked]
        for method, places in ranks_of.items():
            report["metrics"][f"{direction}, {method}"] = with_intervals(places, args)
            chance = right[asked].float().mean().item()  # how often a random order has a right item first
            floors.append(("chance_recall_at_1", f"{direction}, {method}, recall_at_1", chance))
    recalls = {f"{method}, recall_at_1": metrics["recall_at_1"] for method, metrics in report["metrics"].items()}
    comparisons = compare(
        {name: recall["value"] for name, recall in recalls.items()},
        floors,
        {name: (recall["low"], recall["high"]) for name, recall in recalls.items()},
    )
    report |= {
        "comparisons": comparisons,
        "verdict": verdict(comparisons),
        "chance": chance_recall({item: torch.arange(len(items))}),
        "rerank": {"top": args.rerank_top, "weights": weights} if looks else None,
        "intervals": {"confidence": 0.95, "samples": args.bootstrap_samples, "unit": "queries"},
        "run": origin(),
    }
    draw_searches(search, rows, gallery, similarities, relevant)
    write_json(search.folder / "retrieval.json", report)
    print(table(report))
    print(f"written: {search.folder / 'retrieval.json'}, {search.folder / 'retrieval.png'}")
    print(report["verdict"])  # last, because it is the main result


def chosen_weights(search: Search, measured: str) -> dict[str, float]:
    """The weight of the fusion's score, by direction: --rerank_weight, else the best weight on the validation part.

    Raises:
        ValueError: the measured part is the validation part, or there is no validation part.
    """
    args, directions = search.args, search.directions
    if args.rerank_weight is not None:
        return dict.fromkeys(directions, args.rerank_weight)
    if measured == "validation":
        raise ValueError(
            "The weight of the reranking is chosen on the validation part, but the validation part is measured: give "
            "--rerank_weight."
        )
    try:
        name, part = search.part("validation")
    except ValueError as error:
        reason = (
            "The weight of the reranking is chosen on the validation part. If there is none, give --rerank_weight."
        )
        raise ValueError(f"{reason} {error}") from None
    rows = Rows(part, name)
    gallery = search.gallery(rows)
    texts, items = gallery.embeddings.values()
    scores = texts @ items.T
    matching, right = score_gallery(search.model, search.collator, rows, gallery), gallery.relevant()
    both = ((scores, matching, right), (scores.T, matching.T, right.T))
    weights = {}
    for direction, (similarities, word, relevant) in zip(directions, both):
        asked = relevant.any(-1)
        weights[direction] = choose_weight(
            similarities[asked], word[asked], relevant[asked], search.logit_scale, args.rerank_top
        )
    return weights


def with_intervals(places: torch.Tensor, args: RetrieveArguments) -> dict[str, dict[str, float | None]]:
    """`ranking_metrics` with their intervals."""
    return bootstrap(
        lambda rows: ranking_metrics(places[rows]), torch.arange(len(places)), args.bootstrap_samples, args.seed
    )


def table(report: dict[str, Any]) -> str:
    """The metrics beside chance, for the terminal."""
    lines = [f"\n{report['split']}: {report['texts']:,} texts, {report['items']:,} items"]
    lines.append(f"{'':<26}{'R@1':>22}{'R@5':>22}{'R@10':>22}{'median rank':>14}")
    for name, metrics in report["metrics"].items():
        cells = "".join(
            f"{100 * metrics[f'recall_at_{k}']['value']:8.1f} [{100 * metrics[f'recall_at_{k}']['low']:.1f}, "
            f"{100 * metrics[f'recall_at_{k}']['high']:.1f}]"
            for k in (1, 5, 10)
        )
        lines.append(f"{name:<26}{cells}{metrics['median_rank']['value']:14.0f}")
    chance = "".join(f"{100 * report['chance'][f'chance_recall_at_{k}']:8.1f}{'':14}" for k in (1, 5, 10))
    lines.append(f"{'floor: chance':<26}{chance}")
    if report["rerank"]:
        lines.append(f"reranked: the best {report['rerank']['top']}, weights {report['rerank']['weights']}")
    return "\n".join(lines)


def draw_searches(search: Search, rows: Rows, gallery: Gallery, similarities, relevant):
    """Draws some random texts of the part with the pictures (or spectra of sounds) that they find."""
    generator = torch.Generator().manual_seed(search.args.seed)
    asked = torch.randperm(len(similarities), generator=generator)[:SHOWN].tolist()
    searches = []
    for text in asked:
        best = similarities[text].topk(min(search.args.top_k, similarities.shape[1])).indices.tolist()
        finds = [
            (
                shown(search, rows, gallery, search.model.item_modality, place)[0],
                f"{similarities[text, place]:.2f}",
                bool(relevant[text, place]),
            )
            for place in best
        ]
        searches.append((gallery.keys[Text.name][text], finds))
    plot_finds(searches, search.folder / "retrieval.png")


def row_of_item(search: Search, rows: Rows, gallery: Gallery, modality: str, place: int) -> dict[str, Any]:
    """The row of an item.

    Raises:
        ValueError: the gallery was built from other rows.
    """
    number = gallery.places[modality][place]
    row = rows[number] if number < len(rows) else None
    if row is None or search.collator.item_key(row, modality) != gallery.keys[modality][place]:
        raise ValueError(
            f"{search.data_args.dataset} now has other rows than the gallery was built from: give the same --dataset, "
            "--max_rows and --seed as for build, or build the gallery again."
        )
    return row


def shown(
    search: Search, rows: Rows, gallery: Gallery, modality: str, place: int
) -> tuple[Image.Image | None, str | None]:
    """Picture (for a sound, its spectrum) and text of the row of an item."""
    return picture_and_text(row_of_item(search, rows, gallery, modality, place), search.collator)


def build(search: Search):
    """Embeds the data, or one part of them, and writes the gallery."""
    folder = search.args.gallery_folder
    lock_folder(Path(folder))
    empty_index(search.model.config.projection_dim, search.args.index_factory)  # so a wrong name fails before the work
    name, rows = rows_of(search, search.args.split)
    gallery = search.gallery(rows)
    if not gallery.embeddings:
        raise ValueError(
            f"{rows.split} has no text and no other item that can be read, so nothing can be searched: name other "
            "columns, or another part with --split."
        )
    parts = rows.counts() if isinstance(rows, AllRows) else {rows.split: len(rows)}
    gallery.source = {"split": name, "parts": parts, "model": search.args.model}
    gallery.save(folder)
    of_parts = ", ".join(f"{count:,} of {part}" for part, count in parts.items())
    counts = " and ".join(f"{len(keys):,} of {modality}" for modality, keys in gallery.keys.items())
    print(f"rows: {of_parts}; distinct items in {folder}: {counts}")


def rows_of(search: Search, split: str | None) -> tuple[str | None, Rows]:
    """The name of the part and the rows of a gallery. The name is None for all parts, one after the other."""
    if split is None:
        return None, search.all_rows()
    name, part = search.part(split)
    return name, Rows(part, name)


def query(search: Search):
    """Finds pictures or sounds by a text, or texts by a picture or a sound."""
    args, model = search.args, search.model
    folder = args.gallery_folder
    gallery = Gallery.load(folder, model)
    source = gallery.source or {}
    if "split" not in source:
        raise ValueError(f"{folder} does not name the part of the data it was built from: build it again.")
    _, rows = rows_of(search, source["split"])
    asked, shown_query, inputs = prepare_query(search)
    sought = model.item_modality if asked == Text.name else Text.name
    inputs = {key: value.to(model.device) for key, value in inputs.items()}
    with torch.no_grad():
        states = {asked: model.model.encode({}, None, **inputs)[asked]}
        features = model.get_features(asked, states)
    looks = args.rerank_top > 0 and model.config.matching_weight > 0
    (scores,), (ranked,) = gallery.search(features, sought, max(args.top_k, args.rerank_top if looks else 0))
    places = ranked.tolist()
    for place in places:
        row_of_item(search, rows, gallery, sought, place)  # refuses other rows before the fusion looks at them
    if looks:
        states[sought] = encode(
            model, search.collator, sought, rows, [gallery.places[sought][p] for p in places], progress=False
        )
        scores = combine(
            scores, model.score_pairs(states).flatten().float().cpu(), weight_of(search), search.logit_scale
        )
    finds = []
    for place in scores.argsort(descending=True)[: args.top_k].tolist():
        picture_of, text = shown(search, rows, gallery, sought, places[place])
        row = rows[gallery.places[sought][places[place]]]
        where = f"{row[SOURCE_ROW]} of {row[PART]}" if PART in row else row["row_id"]
        print(f"{scores[place]:9.3f}  row {where}  {text or ''}")
        finds.append((picture_of, text or "", None))
    output = args.output or os.path.join(folder, "query.png")
    plot_finds([(shown_query, finds)], output)
    print(f"drawn: {output}")


def prepare_query(search: Search) -> tuple[str, Any, Mapping[str, torch.Tensor]]:
    """The query: its modality, the text or picture that shows it, and the inputs of the model.

    Raises:
        ValueError: the model does not have this modality, or the picture or sound cannot be read.
    """
    args, processor = search.args, search.collator.processor
    if args.text is not None:
        return Text.name, args.text, processor(text=[args.text])
    asked, flag = (Vision.name, "--image") if args.image is not None else (Sound.name, "--audio")
    if asked != search.model.item_modality:
        raise ValueError(f"{args.model} searches with {search.model.config.modalities}: it does not take {flag}.")
    if asked == Vision.name:
        picture = open_image(args.image, **picture_settings(processor))
        return asked, picture, processor(images=[picture])
    rate = processor.feature_extractor.sampling_rate
    sound = load_sound(args.audio, rate)
    return asked, picture_of_sound(sound, rate), processor(audio=[sound], sampling_rate=rate)


def weight_of(search: Search) -> float:
    """The weight of the fusion's score in a query: --rerank_weight, else the choice of `evaluate`, else 1."""
    if search.args.rerank_weight is not None:
        return search.args.rerank_weight
    file = search.folder / "retrieval.json"
    if not file.exists():
        return 1.0
    chosen = read_json(file).get("rerank")
    direction = search.directions[search.args.text is None]
    return chosen["weights"][direction] if chosen else 1.0


def script():
    """The command line."""
    run_script(main, MEASURING)


if __name__ == "__main__":
    script()
