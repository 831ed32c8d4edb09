"""A dialogue about a picture, with a model that writes.

    mm_hf chat --model runs/easy_vqa_generation --image picture.png
    mm_hf chat --model runs/easy_vqa_generation --image picture.png --question "what shape is it?"

Questions come from the terminal, one per line, or from --question. The earlier turns are put in front of a question as
text. The picture is encoded once for all questions.

In the terminal `/image PATH` shows another picture and forgets the dialogue, `/forget` forgets it, `/quit` ends it.
"""

import sys
from dataclasses import replace
from typing import Any, cast

import torch
from transformers.utils import logging

from .. import EncoderStates, MMFusionConfig, MMFusionForConditionalGeneration, MMFusionModel, MMFusionProcessor
from ..models.text import Text
from ..models.vision import Vision
from ..training.exits import ANSWERING, run_script
from ..training.recipe import import_files_for
from .arguments import chat_parser


class Dialogue:
    """A picture, and the dialogue about it.

    Args:
        model, processor: of the checkpoint.
        turns: number of earlier turns that are put in front of a question.
        settings: arguments of `generate`.
    """

    def __init__(
        self, model: MMFusionForConditionalGeneration, processor: MMFusionProcessor, turns: int, **settings: Any
    ):
        self.model, self.processor, self.turns, self.settings = model, processor, turns, settings
        self.said: list[str] = []  # one text per turn: question and answer
        self.picture: EncoderStates | None = None

    @torch.no_grad()
    def show(self, path: str):
        """Encodes a picture once, and forgets the dialogue about the previous one.

        Raises:
            ValueError: the file is missing, or cannot be read.
        """
        inputs = self.processor(images=[path]).to(self.model.device)
        self.picture = cast(MMFusionModel, self.model.get_encoder()).encode(**inputs)[Vision.name]
        self.said = []

    def text(self, question: str) -> str:
        """The question, after as many earlier turns as fit into the text encoder. The oldest turns are left out first;
        a turn is kept whole or left out whole."""
        tokenizer = self.processor.tokenizer
        kept = self.said[max(0, len(self.said) - self.turns) :]
        for start in range(len(kept) + 1):
            text = " ".join([*kept[start:], question])
            if len(tokenizer(text, verbose=False)["input_ids"]) <= tokenizer.model_max_length:
                break
        return text

    def ask(self, question: str) -> str:
        """Answers, and keeps the turn.

        Raises:
            ValueError: no picture was shown yet.
        """
        if self.picture is None:
            raise ValueError("There is no picture to ask about: call show(path) first.")
        inputs = self.processor(text=[self.text(question)]).to(self.model.device)
        picture = replace(self.picture, index=torch.zeros(1, dtype=torch.int64, device=self.model.device))
        tokens = self.model.generate(**inputs, encoder_states={Vision.name: picture}, **self.settings)
        answer = self.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        self.said.append(f"{question} {answer}")
        return answer


def main():
    """The dialogue, from top to bottom."""
    parser = chat_parser(__doc__, "mm_hf chat")
    try:
        (args,) = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    import_files_for(args.model, args.import_files)
    logging.disable_progress_bar()  # of loading weights: seconds
    config = MMFusionConfig.from_pretrained(args.model)
    architecture = (config.architectures or [config.model_type])[0]
    if architecture != MMFusionForConditionalGeneration.__name__ or set(config.modalities) != {Vision.name, Text.name}:
        raise ValueError(
            f"{args.model} is a {architecture} with {' and '.join(config.modalities)}; a dialogue needs a "
            f"{MMFusionForConditionalGeneration.__name__} with vision and text."
        )
    settings = {name: getattr(args, name) for name in ("max_new_tokens", "num_beams")}
    dialogue = Dialogue(
        MMFusionForConditionalGeneration.from_pretrained(args.model).eval(),
        MMFusionProcessor.from_pretrained(args.model),
        args.turns,
        **{name: value for name, value in settings.items() if value is not None},
    )
    dialogue.show(args.image)
    if args.question is not None:
        for question in filter(str.strip, args.question):
            print(f"{question}\n  {dialogue.ask(question.strip())}", flush=True)
        return
    if sys.stdin.isatty():
        print("Ask about the picture. /image PATH shows another, /forget forgets, /quit ends.", flush=True)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        question = line.strip()
        command, _, path = question.partition(" ")
        if not line or command == "/quit":
            return
        if command == "/image":
            try:
                dialogue.show(path.strip())
            except ValueError as error:
                print(f"error: {error}", flush=True)
        elif command == "/forget":
            dialogue.said = []
        elif question:
            print(f"  {dialogue.ask(question)}", flush=True)


def script():
    """The command line."""
    run_script(main, ANSWERING)


if __name__ == "__main__":
    script()
