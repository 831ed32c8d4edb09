# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The encoder of a table: its columns as tokens.

Notation used for tensor shapes: `U` rows of a table; `N` columns of numbers; `D` columns of dates, represented by `P`
numbers; `K` columns of categories; `H` width of the encoder.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from .config_checks import MAX_LABELS, MAX_WIDTH, MAX_WORDS, check_number, told_in_one_line
from .item_parts import table_columns
from .modality import Modality, register_modality
from .raw_rows import list_of_table_rows
from .table_schema import TableSchema, is_missing


@told_in_one_line
@strict
class TabularConfig(PreTrainedConfig):
    r"""The config of an encoder of a table's columns.

    Args:
        num_numerical (`int`, defaults to 0): N, the number of columns of numbers.
        vocab_sizes (`list[int]`, *optional*): the number of ids of each of the K columns of categories.
        hidden_size (`int`, defaults to 64): width of the tokens.
        date_sizes (`list[int]`, *optional*): how many numbers represent each of the D columns of dates; P is their
            sum.

    Raises:
        ValueError: there is no column, or a size is below 1.
    """

    model_type = "mm_fusion_tabular"

    num_numerical: int = 0
    vocab_sizes: list[int] | None = None
    hidden_size: int = 64
    date_sizes: list[int] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vocab_sizes = list(self.vocab_sizes or [])
        check_number("num_numerical", self.num_numerical, -math.inf, MAX_LABELS)
        check_number("hidden_size", self.hidden_size, -math.inf, MAX_WIDTH)
        check_number("vocab_sizes", max([1, *self.vocab_sizes]), 1, MAX_WORDS)
        check_number("the number of vocab_sizes", len(self.vocab_sizes), 0, MAX_LABELS)
        self.date_sizes = list(self.date_sizes or []) or None
        check_number("date_sizes", max([1, *(self.date_sizes or [])]), 1, MAX_LABELS)
        check_number("date_sizes", min([1, *(self.date_sizes or [])]), 1, MAX_LABELS)
        check_number("the number of date_sizes", len(self.date_sizes or []), 0, MAX_LABELS)
        if self.num_numerical < 0 or self.hidden_size < 1 or min([1, *self.vocab_sizes]) < 1:
            raise ValueError(
                "Sizes of a table must be at least 1 (num_numerical at least 0), got num_numerical "
                f"{self.num_numerical}, vocab_sizes {self.vocab_sizes}, hidden_size {self.hidden_size}."
            )

    @classmethod
    def from_schema(cls, schema: TableSchema, **kwargs: Any) -> "TabularConfig":
        """For the columns of a schema; `kwargs` as in the constructor."""
        kwargs = {"date_sizes": schema.date_sizes or None, **kwargs}
        return cls(num_numerical=len(schema.numerical), vocab_sizes=schema.vocab_sizes, **kwargs)

    @property
    def num_values(self) -> int:
        """Numbers per row: one for each column of numbers, and those that represent its dates."""
        return self.num_numerical + sum(self.date_sizes or [])

    def to_dict(self) -> dict[str, Any]:
        """As in the library; without `date_sizes` if there are no dates, as in older releases."""
        values = super().to_dict()
        if values.get("date_sizes") is None:
            values.pop("date_sizes", None)
        return values


class TabularModel(PreTrainedModel):
    """One token per column, for `AutoModel` (the feature tokenizer of FT-Transformer, Gorishniy et al. 2021, section
    3.3). The token is a number times the column's vector, or a category's vector; plus a bias per column. A date is
    the sum of its parts, each times its own vector. Missing values have a learned vector per column. The blocks over
    these tokens are the fusion's."""

    config_class = TabularConfig
    config: TabularConfig
    base_model_prefix = "tabular"
    main_input_name = "numerical_values"

    def __init__(self, config: TabularConfig):
        super().__init__(config)
        if not config.num_values and not config.vocab_sizes:
            raise ValueError(
                "A table needs at least one column, of numbers or of categories; got num_numerical "
                f"{config.num_numerical} and vocab_sizes {config.vocab_sizes}."
            )
        numbers, width = config.num_numerical, config.hidden_size
        sizes = config.vocab_sizes or []
        self.weights = nn.Parameter(torch.zeros(numbers, width)) if numbers else None
        self.missing = nn.Parameter(torch.zeros(numbers, width)) if numbers else None
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        dates = config.date_sizes or []
        self.date_weights = nn.Parameter(torch.zeros(sum(dates), width)) if dates else None
        self.date_missing = nn.Parameter(torch.zeros(len(dates), width)) if dates else None
        self.biases = nn.Parameter(torch.zeros(numbers + len(dates) + len(sizes), width))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.hidden_size**-0.5
        if isinstance(module, (TabularModel, nn.Embedding)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=std)

    def get_input_embeddings(self) -> nn.Module:
        """Raises an error, because a table has no word embeddings."""
        raise NotImplementedError("A table has no word embeddings.")

    @can_return_tuple
    def forward(
        self,
        numerical_values: torch.Tensor | None = None,
        categorical_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Makes the tokens.

        Args:
            numerical_values: `(U, N + P)` float, standardised, NaN for missing values.
            categorical_ids: `(U, K)` int64: 0 for missing values, 1 for unknown values.
            kwargs: inputs of other encoders; they are ignored.

        Returns:
            `last_hidden_state` `(U, N + D + K, H)`.

        Raises:
            ValueError: columns of one kind are missing, or their number differs from the table's.
        """
        tokens = []
        expected = {"numerical_values": self.config.num_values, "categorical_ids": len(self.embeddings)}
        given = {"numerical_values": numerical_values, "categorical_ids": categorical_ids}
        for name, columns in expected.items():
            value = given[name]
            if (0 if value is None else value.shape[-1]) != columns:
                shape = None if value is None else tuple(value.shape)
                raise ValueError(f"{name} must have {columns} columns, got {shape}.")
        if numerical_values is not None and self.weights is not None and self.missing is not None:
            of_columns = numerical_values[:, : self.config.num_numerical]
            numbers = of_columns.to(self.weights.dtype).unsqueeze(-1)  # (U, N, 1)
            tokens.append(torch.where(numbers.isnan(), self.missing, numbers.nan_to_num() * self.weights))
        if numerical_values is not None and self.date_weights is not None and self.date_missing is not None:
            sizes = self.config.date_sizes or []
            parts = numerical_values[:, self.config.num_numerical :].to(self.date_weights.dtype)  # (U, P)
            for values, weights, missing in zip(
                parts.split(sizes, 1), self.date_weights.split(sizes), self.date_missing
            ):
                token = values.nan_to_num() @ weights  # (U, H)
                tokens.append(torch.where(values[:, :1].isnan(), missing, token)[:, None])
        if categorical_ids is not None:
            tokens += [table(ids)[:, None] for table, ids in zip(self.embeddings, categorical_ids.unbind(1))]
        return BaseModelOutput(last_hidden_state=torch.cat(tokens, dim=1) + self.biases)


AutoConfig.register(TabularConfig.model_type, TabularConfig, exist_ok=True)
AutoModel.register(TabularConfig, TabularModel, exist_ok=True)
TabularConfig.register_for_auto_class()
TabularModel.register_for_auto_class("AutoModel")


@register_modality
class Table(Modality):
    """The columns of a table: the columns of one row make one item."""

    name = "tabular"
    order = 3
    inputs = ("numerical_values", "categorical_ids")
    floats = ("numerical_values",)
    several_places = False
    model_type = TabularConfig.model_type
    argument = "table"
    part = "table_schema"
    part_class = TableSchema
    item = "row of a table"
    row_keys = ("table",)

    def dummy_inputs(self, config, device=None, dtype=None):
        numbers = torch.zeros(1, config.num_values, device=device, dtype=dtype)
        ids = torch.zeros(1, len(config.vocab_sizes), dtype=torch.long, device=device)
        inputs = {"numerical_values": numbers, "categorical_ids": ids}
        return {name: value for name, value in inputs.items() if value.shape[1]}

    def list_rows(self, value):
        """See `list_of_table_rows`."""
        return list_of_table_rows(value)

    def check(self, item, processor, settings):
        """A row with only gaps counts as absent, as in training."""
        if not isinstance(item, Mapping):
            raise ValueError(f"a table's row must be a dict of columns, got {item!r:.80}.")
        for column, value in item.items():
            if isinstance(value, (list, tuple, dict, np.ndarray)):
                raise ValueError(
                    f"column {column!r} takes one value per row, got {value!r:.80}; several rows are a list of "
                    "dicts, or a table of pandas."
                )
        processor.table_schema.check(item)
        return None if all(map(processor.table_schema.is_missing, item.values())) else item

    def parts(self, shapes, mask, config, item=None, processor=None):
        """The columns."""
        schema = getattr(processor, self.part, None)
        return table_columns(shapes[0][0], None if schema is None else schema.columns)

    def compared(self, parts, config):
        schema = parts.get(self.part)
        if schema is None:
            return []
        return [
            ("columns of numbers in the table", len(schema.numerical), config.num_numerical),
            ("numbers of each column of dates", schema.date_sizes, list(getattr(config, "date_sizes", None) or [])),
            ("ids of each column of categories", list(schema.vocab_sizes), list(config.vocab_sizes or [])),
        ]

    def load(self, processor, config, key, value):
        rows = list_of_table_rows(value)
        if len(rows) != 1 or not isinstance(rows[0], Mapping):
            raise ValueError(f"the {key} of a row must be a single row, a dict of columns, got {value!r:.80}.")
        return None if all(map(is_missing, rows[0].values())) else rows[0], rows[0]
