"""The first losses of a head are those of a guess, for every fusion that the builders make."""

import math

import pytest
import tiny_models as tiny
import torch
from messages import says

from mm_hf import (
    FUSIONS,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForMultiTask,
    MMFusionForRetrieval,
    TabularConfig,
)
from mm_hf.models.recurrent import RecurrentConfig


CLASSES = 5
GUESS = math.log(CLASSES)
LENGTHS = (6, 4, 7, 5) * 16
TASKS = {"kind": {"problem_type": "single_label_classification", "labels": list("abcde")}}


def first_losses(fusion: str, output_norm: bool, head=MMFusionForClassification, steps: int = 12) -> list[float]:
    """Of steps at a high learning rate, on labels that nothing tells."""
    own = {"tasks": TASKS} if head is MMFusionForMultiTask else {}
    torch.manual_seed(0)
    settings = tiny.config(fusion=fusion, settings={"initializer_range": None, "output_norm": output_norm}, **own)
    model = head(settings).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = tiny.batch(LENGTHS)
    labels = torch.randint(CLASSES, (len(LENGTHS),), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(steps):
        loss = model(**batch, labels={"kind": labels} if own else labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("head", [MMFusionForClassification, MMFusionForMultiTask])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_first_losses_are_those_of_a_guess(fusion, head):
    losses = first_losses(fusion, True, head)
    assert abs(losses[0] - GUESS) < 0.35, losses
    assert max(losses) < GUESS + 0.35, losses


def test_without_the_norm_they_are_not():
    """Checkpoints of before have none, and class defaults stay."""
    assert not tiny.config().fusion_module_config.output_norm
    assert max(first_losses("concat", False)) > GUESS + 0.4


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    "head",
    [MMFusionForClassification, MMFusionForMultiTask, MMFusionForRetrieval, MMFusionForConditionalGeneration],
)
def test_the_norm_takes_part_in_every_head(fusion, head):
    """A parameter without a gradient stops training on several processes."""
    more = {"tasks": TASKS} if head is MMFusionForMultiTask else {}
    if head is MMFusionForConditionalGeneration:
        more = {"decoder_config": tiny.TEXT_CONFIGS["bert"](), "decoder_start_token_id": 1, "eos_token_id": 2}
    model = tiny.model(head, fusion=fusion, settings={"output_norm": True}, **more).train()
    classes = torch.tensor([0, 1, 2, 3])
    labels: dict = {"labels": {"kind": classes} if head is MMFusionForMultiTask else classes}
    if head is MMFusionForRetrieval:
        labels = {"text_ids": classes, "vision_ids": classes}
    if head is MMFusionForConditionalGeneration:
        labels = {"labels": torch.tensor([[5, 2]] * 4)}
    model(**tiny.batch(), **labels).loss.backward()
    norms = [name for name, _ in model.named_parameters() if "output_norm" in name or ".fusion.norms." in name]
    assert len(norms) == {"late": 4, "linear": 0}.get(fusion, 2)  # a norm would bend a line
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking


def test_builders_turn_it_on(encoders):
    sources = {"text": encoders / "minilm-l6", "num_labels": 2}
    for given, expected in (({}, True), ({"output_norm": False}, False)):
        model = MMFusionForClassification.from_encoders_pretrained(
            **sources, fusion="concat", fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, **given}
        )
        assert model.config.fusion_module_config.output_norm is expected


@pytest.mark.parametrize(
    ("settings", "modalities", "query"),
    [
        ({}, {"vision", "tabular"}, "tabular"),  # pictures would ask it with hundreds of tokens
        ({"query_modality": "vision"}, {"vision", "tabular"}, "vision"),
        ({"query_modality": None}, {"vision", "tabular"}, "vision"),  # as before
        ({}, {"vision"}, "vision"),
        ({}, {"vision", "text", "tabular"}, "text"),
        ({}, {"audio", "tabular"}, "tabular"),  # the sound would ask it with 1500 tokens
        ({}, {"audio", "vision"}, "vision"),
    ],
)
def test_a_table_asks_the_pictures(encoders, settings, modalities, query):
    sources = {"vision": "mobilenet-v2", "text": "minilm-l6", "audio": "whisper-tiny-en"}
    sources = {name: encoders / folder for name, folder in sources.items() if name in modalities}
    table = TabularConfig(hidden_size=64, num_numerical=3, vocab_sizes=[])
    model = MMFusionForClassification.from_encoders_pretrained(
        **sources, tabular_config=table if "tabular" in modalities else None, fusion_module_config=settings
    )
    fusion = model.config.fusion_module_config
    assert fusion.query_modality == query
    width = 384 if modalities & {"text"} else 256 if "vision" in modalities else 384
    assert fusion.hidden_size == width  # that of the text, else of the first one


def test_the_one_with_the_fewest_tokens_asks(encoders):
    """A table of sixty columns has more tokens than the 49 of a picture, and fewer than two of them; series may be of
    any length, and do not ask where something of a known size is beside them."""

    def asks(columns: int = 0, series: bool = False, **kwargs) -> str:
        table = TabularConfig(hidden_size=64, num_numerical=columns, vocab_sizes=[]) if columns else None
        model = MMFusionForClassification.from_encoders_pretrained(
            vision=encoders / "mobilenet-v2",
            tabular_config=table,
            series_config=RecurrentConfig(input_size=2, hidden_size=8) if series else None,
            fusion_module_config={"hidden_size": 64, "num_hidden_layers": 1},
            **kwargs,
        )
        return model.config.fusion_module_config.query_modality

    assert asks(60) == "vision"
    assert asks(60, num_images=2) == "tabular"
    assert asks(series=True) == "vision"
    assert asks(series=True, query_modality="series") == "series"
    with pytest.raises(ValueError, match=says("query_modality", "text", "vision")):
        asks(query_modality="text")
