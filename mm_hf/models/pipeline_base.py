# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The base of all pipelines: rows are read one by one, prepared and answered in batches, and keep their order."""

from collections.abc import Mapping, Sized
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import PipelineIterator
from transformers.utils import logging

from .coalitions import Pool, coalition_values, encode_batch
from .evidence import OTHER_ROWS, TOKEN, Said, evidence_of, warnings_of
from .modality import MODALITIES, modality_of
from .names import did_you_mean
from .pipeline_rows import NumberedRows, is_row_of_pandas, row_keys, rows_to_answer
from .raw_rows import ROW_KEY, NotFiniteError, Places, reason_of, why_without_values
from .series import Series  # noqa: F401  importing registers; a checkpoint's own code has a separate registry
from .table_schema import is_missing
from .tabular import Table  # noqa: F401


logger = logging.get_logger(__name__)


ON_ERROR = ("raise", "skip")
EVIDENCE = ("evidence", "background")  # the arguments for evidence


class MMFusionPipeline(Pipeline):
    """Runs rows through a model in batches; each answer is in the place of its row. `MMFusionClassificationPipeline`
    describes the rows; `spell` of each pipeline describes the answers."""

    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False
    kept_items: Any = None  # a cache of encoded items, which a service may set: its `encode(model, inputs)` is called

    def __call__(self, inputs: Any, **kwargs):
        """See the class."""
        inputs = rows_to_answer(inputs)
        if isinstance(inputs, list) and not inputs:  # the library would fail on the missing first row
            return []
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **kwargs):
        return *self._shared_parameters(kwargs, []), {}

    def _shared_parameters(self, kwargs: dict[str, Any], names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of all pipelines: `on_error`, and the processor's. Refuses all others."""
        settings = {}
        if "on_error" in kwargs:
            settings["on_error"] = kwargs.pop("on_error")
            if settings["on_error"] not in ON_ERROR:
                raise ValueError(f"on_error must be one of {list(ON_ERROR)}, got {settings['on_error']!r}.")
        evidence: dict[str, Any] = {name: kwargs.pop(name) for name in EVIDENCE if name in kwargs}
        if not isinstance(evidence.get("evidence", False), bool):
            raise ValueError(f"evidence must be True or False, got {evidence['evidence']!r:.80}.")
        if evidence.get("background") is not None and not evidence.get("evidence", True):
            raise ValueError("background is for evidence=True: its rows replace a modality that is removed.")
        parts = getattr(self.processor, "arguments", None)  # a processor from older code has none
        of_processor = {*kwargs} if parts is None else {"common_kwargs", *parts, *set().union(*parts.values())}
        names = [*names, *EVIDENCE, "on_error", "batch_size", "num_workers"]
        for name in kwargs:
            if name not in of_processor:
                known = [*names, *sorted(parts or ())]
                meant = did_you_mean(name, {*known, *of_processor})
                if "generate_kwargs" in names and hasattr(getattr(self.model, "generation_config", None), name):
                    meant = f" What `generate` takes goes in as generate_kwargs={{{name!r}: …}}."
                raise ValueError(
                    f"{type(self).__name__} has no argument {name!r}; a call has {known}. Put the values of a row "
                    f"into the row, under {list(row_keys())}.{meant}"
                )
        return dict(settings), {**settings, **evidence, **kwargs}

    def preprocess(self, inputs: Any, number: int = 0, on_error: str = "raise") -> dict[str, Any]:
        """Loads the items of a row; its number in the call is for messages. The rest is done when the batch is
        complete."""
        try:
            row = self.as_row(inputs)
        except Exception as error:
            return self._bad_row(number, error, on_error)
        try:
            self.check_keys(row)
        except ValueError as error:  # an error of the caller, not of one row
            raise ValueError(f"Row {number}: {error}") from None
        try:
            return {**self.load_row(row), "number": number}
        except ImportError:  # a package is missing, for all rows
            raise
        except Exception as error:  # Pillow alone raises a dozen types
            return self._bad_row(number, error, on_error)

    def _bad_row(self, number: int, error: Exception, on_error: str) -> dict[str, Any]:
        """Handles a row that cannot be answered: raises, or warns and keeps its place. The error shows the content of
        the row to the caller. The log does not, because logs are kept and read by others."""
        reason = reason_of(error)
        if on_error == "raise":
            raise ValueError(f"Row {number}: {reason}") from error
        logger.warning(f"Row {number} is skipped, its answer is None: {why_without_values(error)}.")
        return {"number": number, "reason": reason}

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """Converts a row to a dict, if it has another form: a row of pandas, or a named tuple."""
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if is_row_of_pandas(inputs):
            return inputs.to_dict()
        if hasattr(inputs, "_asdict"):
            return inputs._asdict()
        raise ValueError(f"A row must be a dict with keys from {list(row_keys())}, got {inputs!r:.200}.")

    def check_keys(self, row: dict[str, Any]):
        """Refuses unknown keys, and keys that this model does not read."""
        known = row_keys()
        if unknown := [key for key in row if key not in known]:
            meant = did_you_mean(unknown[0], known)
            raise ValueError(
                f"A row must be a dict with keys from {list(known)}, got {unknown[0]!r} in {row!r:.200}.{meant}"
            )
        present = {key: value for key, value in row.items() if not is_missing(value)}
        for modality in MODALITIES.values():
            given = [key for key in modality.row_keys if key in present]
            if len(given) > 1 and not modality.goes_together(self.model.config):
                one, other = given[:2]
                raise ValueError(
                    f"A row has one of {one!r} and {other!r}, not both; got {present[one]!r:.80} and "
                    f"{present[other]!r:.80}."
                )
        modalities = self.model.config.modalities
        for key, value in present.items():
            if known[key] not in modalities:
                raise ValueError(f"The row has {key} {value!r:.80}, but this model reads only {modalities}.")

    def load_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The items of a row by modality, decoded and checked, with their sources: see `load` of `Modality`."""
        loaded: dict[str, dict[str, tuple[Any, Any]]] = {}
        config, known = self.model.config, row_keys()
        for key, value in row.items():
            if not is_missing(value):
                modality = modality_of(known[key])
                try:
                    loaded.setdefault(modality.name, {})[key] = modality.load(self.processor, config, key, value)
                except Exception as error:
                    vars(error)[ROW_KEY] = key
                    raise
        items = {name: modality_of(name).joined(config, of_keys) for name, of_keys in loaded.items()}
        if all(item is None for item, _ in items.values()):
            keys = [key for key, name in known.items() if name in config.modalities]
            needed = [f"{'an' if key[0] in 'aeiou' else 'a'} {key}" for key in keys]
            raise ValueError(f"A row needs {', '.join(needed)}: at least one of these.")
        return {"items": items}

    def _forward(
        self,
        model_inputs: dict | list[dict],
        on_error: str = "raise",
        generate_kwargs: dict | None = None,
        evidence: bool = False,
        background: Any = None,
        **processor_kwargs,
    ) -> dict[str, Any]:
        """The tensors of each row's answer, and under `reasons` why there is no answer (None if there is one). With
        `evidence`, also the contribution of each modality, under `evidence`."""
        rows = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        reasons: list[str | None] = [row.get("reason") for row in rows]
        batch = self._prepare(rows, reasons, on_error, processor_kwargs)
        readable = [place for place, reason in enumerate(reasons) if reason is None]
        answers: dict[str, torch.Tensor] = {}
        shown: list[Any] = []
        if batch is not None:
            inputs: Mapping[str, Any] = batch.to(self.device)
            if self.kept_items is not None:
                inputs = {"encoder_states": self.kept_items.encode(self.model, inputs)}
            elif evidence:
                inputs = {"encoder_states": encode_batch(self.model, inputs)}  # encoded once for both
            answers = self.answer(inputs, len(readable), generate_kwargs or {})
            if evidence:
                shown = self._evidence(inputs["encoder_states"], self.said_of(answers), background, processor_kwargs)
        for name, values in answers.items():
            if values.is_floating_point():
                for place, finite in zip(readable, values.flatten(1).isfinite().all(1).tolist()):
                    if not finite and reasons[place] is None:
                        error = NotFiniteError(f"the model's {name} of this row are not finite numbers.")
                        reasons[place] = self._bad_row(rows[place]["number"], error, on_error)["reason"]
            if len(readable) < len(rows):  # rows without an answer keep their place
                answers[name] = values.new_zeros((len(rows), *values.shape[1:]))
                answers[name][readable] = values
        given = dict(zip(readable, shown))
        more = {"evidence": [given.get(place, {}) for place in range(len(rows))]} if evidence else {}
        return {"reasons": reasons, **answers, **more}

    def said_of(self, answers: Mapping[str, torch.Tensor]) -> Said | None:
        """Which parts of the answers to a batch are explained, see `EvidenceMixin.answers_said`; None: compute the
        model's answers again."""
        return None

    def _evidence(
        self, states: Any, said: Said | None, background: Any, processor_kwargs: dict
    ) -> list[dict[str, Any]]:
        """The contribution of each modality to the answers to a batch, see `evidence_of`, and what replaced the
        removed modalities."""
        pool = None if background is None else self._background(background, processor_kwargs)
        absence = TOKEN if pool is None else OTHER_ROWS
        common = {"absence": absence, "background": 0 if pool is None else pool.rows}
        common["warnings"] = warnings_of(self.model, absence)
        values = coalition_values(self.model, states, pool, said)
        return [{**common, "answers": evidence_of(self.model, row)} for row in values]

    def _background(self, rows: Any, processor_kwargs: dict) -> Pool:
        """The replacement rows, encoded once for all calls with the same object."""
        known = getattr(self, "_background_rows", (None, None))
        if known[0] is not rows:
            given = [rows] if isinstance(rows, Mapping) else list(rows)
            loaded = [self.preprocess(row, number=number) for number, row in enumerate(given)]
            if not loaded:
                raise ValueError("background has no rows: give rows as for a call, or leave it out.")
            batch = self._batch(loaded, **processor_kwargs).to(self.device)
            pool = Pool.of(self.model.explained_base, encode_batch(self.model, batch), with_absent=False)
            known = self._background_rows = rows, pool
        return cast(Pool, known[1])

    def _prepare(self, rows: list[dict], reasons: list[str | None], on_error: str, kwargs: dict) -> Any:
        """The model's inputs for the rows that have no error so far. If the processor refuses them, finds out which
        row is the reason."""
        readable = [place for place, reason in enumerate(reasons) if reason is None]
        if not readable:
            return None
        try:
            return self._batch([rows[place] for place in readable], **kwargs)
        except (ImportError, MemoryError):
            raise
        except Exception:
            for place in readable:
                try:
                    self._batch([rows[place]], **kwargs)
                except Exception as error:
                    reasons[place] = self._bad_row(rows[place]["number"], error, on_error)["reason"]
            if all(reasons[place] is None for place in readable):  # each row alone is valid
                raise
        return self._prepare(rows, reasons, on_error, kwargs)

    def _batch(self, rows: list[dict], **processor_kwargs) -> Any:
        """The model's inputs, with equal items once."""
        loaded: dict[Any, Any] = {}
        arguments: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in rows for name in row["items"]):
            modality, column = modality_of(name), []

            def once(item: Any, source: Any, modality=modality) -> Any:
                if item is None:
                    return None
                return loaded.setdefault((modality.name, modality.source_key(source)), item)

            for row in rows:
                item, source = row["items"].get(name, (None, None))
                column.append(Places(map(once, item, source)) if isinstance(item, Places) else once(item, source))
            if any(item is not None for item in column):
                arguments |= {modality.argument: column, **modality.told(self.processor)}
        return cast(Any, self.processor)(**arguments, deduplicate=True, **processor_kwargs)

    def answer(
        self, batch: Mapping[str, torch.Tensor], rows: int, generate_kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """The model's answers for a batch with this number of rows: tensors by name, with one entry per row.
        `generate_kwargs` is for models that generate."""
        logits = self.model(**batch).logits
        return dict(logits) if isinstance(logits, Mapping) else {"logits": logits}

    def postprocess(self, model_outputs: dict[str, Any], **kwargs) -> Any:
        """Makes the answer of one row; None if it has none."""
        reason = model_outputs["reasons"]
        if (reason[0] if isinstance(reason, list) else reason) is not None:
            return None
        evidence = model_outputs.pop("evidence", None)
        answer = self.spell(model_outputs, **kwargs)
        if evidence is None:
            return answer
        return {"answer": answer, "evidence": evidence[0] if isinstance(evidence, list) else evidence}

    def spell(self, model_outputs: dict[str, torch.Tensor], **kwargs: Any) -> Any:
        """Makes the answer of one row from its tensors."""
        raise NotImplementedError(f"{type(self).__name__} must implement spell, the form of its answers.")

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """As in the library, but batches stay lists of rows: its own collation cannot handle absent or shared items.
        Rows get their number."""
        rows: Any
        if isinstance(inputs, Sized):
            rows = NumberedRows(self, inputs, preprocess_params)
        else:
            num_workers = min(num_workers, 1)  # each worker would read all rows
            rows = PipelineIterator(enumerate(inputs), self._preprocess_numbered, preprocess_params)
        batches = DataLoader(rows, num_workers=num_workers, batch_size=batch_size, collate_fn=list)
        outputs = PipelineIterator(batches, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def _preprocess_numbered(self, numbered: tuple[int, Any], **kwargs) -> dict[str, Any]:
        return self.preprocess(numbered[1], number=numbered[0], **kwargs)
