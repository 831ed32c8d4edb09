"""Texts that are heard, written letter by letter."""

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
    """What is said in a sound; measured as all texts are."""

    name = CTC
    heads = (CTC,)
    transcribes = True
    decodes = False

    @property
    def problem_type(self) -> str:
        """Reports know it by its answers."""
        return Generation.name

    # ---- Measuring

    def linear_answer(self, train, validation, test):
        """None: what is said at a moment is no linear map of the whole sound."""
        return None

    # ---- Training

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses what is for classes, and what only a decoder can do."""
        cls.check_classes(data_args, train_args)
        if model_args.audio_encoder is None:
            raise ValueError(f"audio_column is missing: {cls.name} writes what is heard.")
        if isinstance(data_args.audio_column, list):
            raise ValueError(f"{cls.name} writes what is heard in one audio_column, got {data_args.audio_column}.")
        without: dict[str, object] = {"num_beams": model_args.num_beams > 1, "streaming": data_args.streaming}
        without |= {"label_smoothing_factor": train_args.label_smoothing_factor > 0}
        without |= {"predict_with_generate false": not train_args.predict_with_generate}
        for key, given in without.items():
            if given:
                raise ValueError(f"{key} does not go with {cls.name}.")
        cls.check_tokenizer(model_args, model_args.text_encoder is not None)

    @classmethod
    def check_others(cls, model_args: Any, train_args: Any):
        """Refuses what is for the tokens that it writes in."""
        if model_args.ctc_stride > 1:
            raise ValueError(
                f"ctc_stride is {model_args.ctc_stride}, but the task is {model_args.task}, not {cls.name}."
            )
        cls.check_tokenizer(model_args, True)

    @classmethod
    def check_tokenizer(cls, model_args: Any, unused: bool):
        """Refuses a tokenizer that nothing would use."""
        if unused and model_args.tokenizer is not None:
            raise ValueError(
                f"tokenizer is {model_args.tokenizer!r}: it is for {cls.name} without a text_encoder, which brings "
                "its own."
            )

    @classmethod
    def can_answer(cls, data_args: Any) -> bool:
        """Where there is something to hear."""
        return bool(data_args.audio_column)

    @classmethod
    def head_keys(cls, start: Any, data_args: Any) -> dict[str, Any]:
        """How many tokens of the sound become one, and what it writes in."""
        keys = {"ctc_stride": start.config.ctc_stride}
        return keys if data_args.text_column else {**keys, "tokenizer": start.recipe.get("tokenizer")}

    def prepare(self, processor: Any, model_args: Any, train: Any):
        """The tokens that it writes in, where no text encoder has brought them."""
        if processor.tokenizer is None:
            processor.tokenizer = self.tokenizer(model_args.tokenizer or "letters", train)

    def tokenizer(self, asked: str, train: Any) -> Any:
        """The tokens that it writes in, as the recipe's `tokenizer` asks."""
        if asked not in OWN_TOKENIZERS:
            return AutoTokenizer.from_pretrained(asked)
        texts = train[self.column][:]
        if self.names is not None:
            texts = [self.names[number] for number in texts if number is not None and number >= 0]
        if strange := [text for text in texts if text is not None and not isinstance(text, str)]:
            raise ValueError(f"label_column {self.column!r} holds {strange[0]!r}, and {self.name} writes texts.")
        return OWN_TOKENIZERS[asked]([text for text in texts if isinstance(text, str)])

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """The tokens that it writes in."""
        tokenizer = run.processor.tokenizer
        size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return {**size, "ctc_stride": run.model_args.ctc_stride}

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """None: the loss of CTC has no settings."""
        return {}

    def set_up(self, model: Any, model_args: Any):
        """Nothing: it writes as long as it hears."""
