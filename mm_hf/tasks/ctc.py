"""Transcription: texts that are heard in a sound, written letter by letter."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from ..data import letter_tokenizer, word_tokenizer
from ..models.head_table import CTC
from .generation import Generation
from .registry import register_task


OWN_TOKENIZERS = {"letters": letter_tokenizer, "words": word_tokenizer}


@register_task
@dataclass
class Ctc(Generation):
    """Speech to text; measured in the same way as all texts."""

    name = CTC
    heads = (CTC,)
    transcribes = True
    decodes = False

    @property
    def problem_type(self) -> str:
        """Reports name it by its kind of answers."""
        return Generation.name

    # ---- Measuring

    def linear_answer(self, train, validation, test):
        """None: the words at each moment are not a linear function of the whole sound."""
        return None

    # ---- Training

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses keys for classes, and keys that need a decoder."""
        cls.check_classes(data_args, train_args)
        if model_args.audio_encoder is None:
            raise ValueError(f"audio_column is missing: {cls.name} transcribes sounds.")
        if isinstance(data_args.audio_column, list):
            raise ValueError(f"{cls.name} transcribes one audio_column, got {data_args.audio_column}.")
        without: dict[str, object] = {"num_beams": model_args.num_beams > 1, "streaming": data_args.streaming}
        without |= {"label_smoothing_factor": train_args.label_smoothing_factor > 0}
        without |= {"predict_with_generate false": not train_args.predict_with_generate}
        for key, given in without.items():
            if given:
                raise ValueError(f"{key} does not work with {cls.name}: leave it out.")
        cls.check_tokenizer(model_args, model_args.text_encoder is not None)

    @classmethod
    def check_others(cls, model_args: Any, train_args: Any):
        """Refuses keys for the output tokens of CTC."""
        if model_args.ctc_stride > 1:
            raise ValueError(
                f"ctc_stride is {model_args.ctc_stride}, but the task is {model_args.task}, not {cls.name}."
            )
        cls.check_tokenizer(model_args, True)

    @classmethod
    def check_tokenizer(cls, model_args: Any, unused: bool):
        """Refuses a tokenizer that would not be used."""
        if unused and model_args.tokenizer is not None:
            raise ValueError(
                f"tokenizer is {model_args.tokenizer!r}, but it is only for the task {cls.name} without a "
                "text_encoder (a text_encoder has its own tokenizer): leave it out."
            )

    @classmethod
    def can_answer(cls, data_args: Any) -> bool:
        """Whether the data has a column of sounds."""
        return bool(data_args.audio_column)

    @classmethod
    def head_keys(cls, start: Any, data_args: Any) -> dict[str, Any]:
        """How many tokens of the sound become one, and the output tokens."""
        keys = {"ctc_stride": start.config.ctc_stride}
        return keys if data_args.text_column else {**keys, "tokenizer": start.recipe.get("tokenizer")}

    def prepare(self, processor: Any, model_args: Any, train: Any):
        """Adds the tokenizer of the output, if there is no text encoder with one."""
        if processor.tokenizer is None:
            processor.tokenizer = self.tokenizer(model_args.tokenizer or "letters", train)

    def tokenizer(self, asked: str, train: Any) -> Any:
        """The tokenizer of the output, from the recipe's key `tokenizer`."""
        if asked not in OWN_TOKENIZERS:
            return AutoTokenizer.from_pretrained(asked)
        texts = train[self.column][:]
        if self.names is not None:
            texts = [self.names[number] for number in texts if number is not None and number >= 0]
        if strange := [text for text in texts if text is not None and not isinstance(text, str)]:
            raise ValueError(f"label_column {self.column!r} holds {strange[0]!r}, but {self.name} needs texts.")
        return OWN_TOKENIZERS[asked]([text for text in texts if isinstance(text, str)])

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """The settings of the output tokens."""
        tokenizer = run.processor.tokenizer
        size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return {**size, "ctc_stride": run.model_args.ctc_stride}

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """None: the loss of CTC has no settings."""
        return {}

    def set_up(self, model: Any, model_args: Any):
        """Nothing to set: the length of the text depends on the sound."""
