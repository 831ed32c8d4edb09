"""Texts that are heard, written letter by letter."""

from dataclasses import dataclass

from .generation import Generation
from .task import register_task


@register_task
@dataclass
class Ctc(Generation):
    """What is said in a sound; measured as all texts are."""

    name = "ctc"
    heads = ("ctc",)
    transcribes = True

    # ---- Measuring

    @property
    def problem_type(self):
        """Reports know it by its answers."""
        return Generation.name
