"""The model card: what its template says of a recipe."""

from importlib import resources

import pytest
from jinja2 import Template


RESULTS = {
    "metrics": {"accuracy": 0.5},
    "by_kind": {},
    "floors": {},
    "comparisons": [],
    "verdict": "",
    "seconds": {},
    "versions": {},
    "hardware": {"cores": 2},
}


@pytest.mark.parametrize(
    ("columns", "example", "order"),
    [
        (
            {"text_column": ["title", "body"], "image_column": ["front", "back"]},
            '"text": ["a text", "a text"]',
            "`image` front, back; `text` title, body",
        ),
        ({"text_column": "title"}, '"text": "a text"', None),
        ({"text_column": ["title"], "image_column": ["front"]}, '"image": "picture.png"', None),
    ],
)
def test_the_example_says_which_place_is_which_column(columns, example, order):
    text = (resources.files("mm_hf.evaluation") / "card.md").read_text(encoding="utf-8")
    values = {"rows": {"test": 1}, "answers": {"y": "classes"}, "encoders": {}, "tasks": {}, "problem_types": {}}
    card = Template(text).render(results={**RESULTS, "recipe": columns}, figure=str, **values)
    assert example in card
    assert ("These keys take a list" in card) == (order is not None)
    assert order is None or order in card
