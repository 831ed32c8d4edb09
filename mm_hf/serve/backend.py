"""Backends, which answer the rows of a service. `PipelineBackend` uses the pipeline of a checkpoint, in torch.
`OnnxBackend` uses an export. Another backend has to implement the same few methods."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..hub import pipeline
from ..models.how_sure import CLASSES, SEVERAL
from ..models.raw_rows import reason_of
from .kept_items import KeptItems


@dataclass(frozen=True)
class Answer:
    """The answer to one row.

    Args:
        value: the answer of the pipeline, as JSON values.
        confidences: by task, the score of its best class, for monitoring; the key of a single task is "". Tasks
            without probabilities are left out.
        evidence: if it was requested.
    """

    value: Any
    confidences: dict[str, float] = field(default_factory=dict)
    evidence: Any = None


@dataclass(frozen=True)
class RowError:
    """Why a row has no answer. `ours` is True if the error is in the service, not in the row."""

    message: str
    ours: bool = False


class Backend(Protocol):
    """Answers rows. `load` is called from many threads at the same time, `answer` from one thread.

    Attributes:
        name: one word.
        config: a `MMFusionConfig`, or an object with the same attributes about modalities and their places.
        processor: a `MMFusionProcessor`, or an object with the same attributes about tables, series and text windows.
        options: names of the options that a request may have beside its rows.
        explains: whether it gives evidence. If not, requests for evidence are refused.
    """

    name: str
    config: Any
    processor: Any
    options: tuple[str, ...]
    explains: bool

    def load(self, row: dict[str, Any]) -> Any:
        """Decodes a row into the form that `answer` takes. Its files are bytes.

        Raises:
            ValueError: it cannot be read, or has a key that the model does not read.
        """
        ...

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Checks the options of a request.

        Raises:
            ValueError: an option has a value that is not allowed.
        """
        ...

    def answer(
        self, rows: list[Any], options: Sequence[Mapping[str, Any]], evidence: bool = False
    ) -> list[Answer | RowError]:
        """Answers rows together, each with the options of its request; with `evidence`, also the contribution of each
        modality. A row that cannot be answered gets an error instead of an answer. An exception means that the whole
        batch failed."""
        ...


class PipelineBackend:
    """Answers rows with a pipeline of the checkpoint.

    Args:
        pipe: a `MMFusionPipeline`, of this package or of the checkpoint's own code.
        keep_encoded: bytes of memory for encoded items, see `KeptItems`; 0: no items are kept.

    Raises:
        ValueError: `keep_encoded` is set, but the checkpoint's own code does not support it.
    """

    name = "torch"
    explains = True

    def __init__(self, pipe: Any, keep_encoded: int = 0):
        self.pipe, self.config, self.processor = pipe, pipe.model.config, pipe.processor
        self.kept_items = KeptItems(keep_encoded) if keep_encoded else None
        if self.kept_items is not None and not hasattr(pipe, "kept_items"):
            raise ValueError(
                f"keep_encoded is {keep_encoded}, but the code in this checkpoint cannot keep encoded items: leave it "
                "out."
            )
        pipe.kept_items = self.kept_items
        parameters = inspect.signature(pipe._sanitize_parameters).parameters.values()
        named = [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
        self.options = tuple(name for name in named if name != "generate_kwargs")  # these would change the computation
        pipe._bad_row = bad_row  # older code in a checkpoint would write the content of a row into a log

    @classmethod
    def open(
        cls,
        run: str,
        trust_remote_code: bool = False,
        device: str | None = None,
        keep_encoded: int = 0,
        **settings: Any,
    ):
        """Opens a checkpoint.

        Args:
            run: folder, or Hub id.
            trust_remote_code: run the code in the checkpoint instead of this package's code.
            device: default: the GPU, if there is one.
            keep_encoded: see the class.
            settings: arguments of each call.

        Raises:
            OSError, ValueError: it is not a checkpoint, or a setting does not fit.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if trust_remote_code:
            from transformers import pipeline as pipeline_of_library

            pipe: Any = pipeline_of_library(model=run, trust_remote_code=True, device=device, **settings)
        else:
            pipe = pipeline(model=run, device=torch.device(device), **settings)
        pipe.model.eval()
        return cls(pipe, keep_encoded)

    def load(self, row: dict[str, Any]) -> Any:
        """See `Backend`."""
        try:
            self.pipe.check_keys(row)
            return self.pipe.load_row(row)
        except ImportError:  # a package is missing; the row is not the cause
            raise
        except Exception as error:  # Pillow alone raises a dozen types
            raise ValueError(reason_of(error)) from None

    def check_options(self, options: Mapping[str, Any]) -> None:
        """See `Backend`."""
        self.pipe._sanitize_parameters(**options)

    def answer(
        self, rows: list[Any], options: Sequence[Mapping[str, Any]], evidence: bool = False
    ) -> list[Answer | RowError]:
        """See `Backend`."""
        numbered = [{**row, "number": number} for number, row in enumerate(rows)]
        settings = {**self.pipe._forward_params, "on_error": "skip", "evidence": evidence}
        outputs = self.pipe.forward(numbered, **settings)
        reasons, shown = outputs.pop("reasons"), outputs.pop("evidence", None)
        answers: list[Answer | RowError] = []
        for place, reason in enumerate(reasons):
            if reason is not None:
                answers.append(RowError(reason))
                continue
            of_row = {name: values[place : place + 1] for name, values in outputs.items()}
            value = self.spell(of_row, options[place])
            answers.append(Answer(value, self.confidences(of_row), None if shown is None else shown[place]))
        return answers

    def spell(self, outputs: dict[str, torch.Tensor], options: Mapping[str, Any]) -> Any:
        """The answer of one row, from its tensors."""
        _, _, asked = self.pipe._sanitize_parameters(**options)
        return self.pipe.spell(dict(outputs), **{**self.pipe._postprocess_params, **asked})

    def confidences(self, outputs: dict[str, torch.Tensor]) -> dict[str, float]:
        """See `Answer`. They do not depend on the options of a request, so that they can be compared over time."""
        if not hasattr(self.pipe, "_heads"):
            return {}
        best = self.pipe.spell(dict(outputs), top_k=1)
        heads = self.pipe._heads()
        by_task = best if isinstance(best, Mapping) else {None: best}
        return {
            task or "": by_task[task][0]["score"]
            for task, head in heads.items()
            if head.label_kind in (CLASSES, SEVERAL) and by_task[task]
        }


def bad_row(number: int, error: Exception, on_error: str) -> dict[str, Any]:
    """Why a row cannot be answered. It replaces the method of a pipeline, and logs nothing."""
    if on_error == "raise":
        raise ValueError(reason_of(error)) from None
    return {"number": number, "reason": reason_of(error)}
