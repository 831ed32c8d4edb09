"""The features of one modality's items for a linear model, and writing a fitted linear model into a model with the
fusion `linear`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...models.linear_fusion import pool_levels
from ...models.modality import modality_of


if TYPE_CHECKING:
    from ..linear_features import LinearItems


WORDS = 5000  # how many of the most frequent words are features


def pooled_features(items: "LinearItems") -> np.ndarray:
    """The mean of the tokens at each level of the encoder's output, concatenated, `(U, F)` float32."""
    return items.table(
        (numbers, torch.cat([level.float() for level in pool_levels(states)], dim=-1).cpu().numpy())
        for numbers, states in items.states()
    )


def step_features(items: "LinearItems") -> np.ndarray:
    """Statistics of items that have steps of numbers (a series, frames of a sound): for each channel the mean,
    standard deviation, minimum, maximum and last value, `(U, 5 * C)` float32."""
    kind = modality_of(items.modality)
    main, mask_name = kind.inputs[0], next((name for name in kind.inputs if name.endswith("attention_mask")), None)

    def statistics(inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        values, mask = inputs[main].float(), inputs.get(str(mask_name))
        rows = []
        for place, steps in enumerate(values):
            present = steps if mask is None else steps[mask[place].bool()]
            parts = [
                present.mean(0),
                present.std(0, correction=0),
                present.amin(0),
                present.amax(0),
                present[-1],
            ]
            rows.append(torch.cat(parts))
        return torch.stack(rows).numpy()

    return items.table((numbers, statistics(inputs)) for numbers, inputs in items.batches())


def table_features(items: "LinearItems") -> np.ndarray:
    """The features of a table, `(U, F)` float32: the numbers, standardised by the schema; an indicator for each
    missing number; and one-hot vectors of the categories, which include "missing" and "unknown"."""
    sizes = items.collator.processor.table_schema.vocab_sizes
    numbers_name, ids_name = modality_of(items.modality).inputs

    def columns(inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        parts = []
        if (numbers := inputs.get(numbers_name)) is not None:
            parts += [numbers.nan_to_num().float(), numbers.isnan().float()]
        if (ids := inputs.get(ids_name)) is not None:
            each = zip(ids.unbind(1), sizes)
            parts += [torch.nn.functional.one_hot(column.long(), size).float() for column, size in each]
        return torch.cat(parts, dim=-1).numpy()

    return items.table((numbers, columns(inputs)) for numbers, inputs in items.batches())


def word_features(items: "LinearItems") -> np.ndarray:
    """The words of texts, weighted by how rare they are in the training texts (TF-IDF), `(U, F)` float32."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text for _, text in items.items()]
    known = [text for text, learned in zip(texts, items.learned) if learned]
    try:
        words = TfidfVectorizer(max_features=WORDS, dtype=np.float32).fit(known)
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 0), dtype=np.float32)
    return words.transform(texts).toarray()


# Writing a fitted linear model into a model

Place = tuple[np.ndarray, np.ndarray]  # for one place: the weights of its features (F, D), and of its absence (D,)


@torch.no_grad()
def write_pooled(model: Any, modality: str, places: list[Place]):
    """Writes a linear model on `pooled_features` into the projection of a modality.

    Args:
        model: the base model, with the fusion `linear`.
        modality: its name.
        places: the weights of each place of a row, see `Place`.
    """
    projection = model.projections[modality]
    for place, (weights, absent) in enumerate(places):
        projection.absent_token[place] = torch.from_numpy(absent)
        start = 0
        for level in projection.levels:
            width = level.in_features
            rows = slice(place * len(absent), (place + 1) * len(absent))
            if len(weights):  # empty if no row has an item
                level.weight[rows] = torch.from_numpy(weights[start : start + width].T.copy()).to(level.weight)
            else:
                level.weight[rows] = 0.0
            level.bias[rows] = 0.0
            start += width


@torch.no_grad()
def write_table(model: Any, modality: str, places: list[Place]):
    """Writes a linear model on `table_features` into the encoder of a table. The weight of a number becomes the vector
    that the number is multiplied by. The weight of a category becomes its vector. The projection sums the columns.

    Args:
        model, modality, places: see `write_pooled`.
    """
    ((weights, absent),) = places
    encoder, projection = model.encoders[modality], model.projections[modality]
    width, (level,) = len(absent), projection.levels
    columns = encoder.config.num_numerical + len(encoder.embeddings)
    sizes = [embedding.weight for embedding in encoder.embeddings]
    numbers = encoder.config.num_numerical
    matrix = torch.zeros(2 * numbers + sum(map(len, sizes)), encoder.config.hidden_size)
    if len(weights):  # empty if no row has an item
        matrix[:, :width] = torch.from_numpy(weights)
    start = 0
    for parameter in (encoder.weights, encoder.missing):
        if parameter is not None:
            parameter.copy_(matrix[start : start + len(parameter)])
            start += len(parameter)
    for embedding in encoder.embeddings:
        embedding.weight.copy_(matrix[start : start + len(embedding.weight)])
        start += len(embedding.weight)
    encoder.biases.zero_()
    level.weight.copy_(columns * torch.eye(width, level.in_features))  # their sum: the mean times their number
    level.bias.zero_()
    projection.absent_token[0] = torch.from_numpy(absent)
