"""What a model takes over of another: fusions by modality, heads by the names of labels, numbers in their unit."""

import pytest
import tiny_models as tiny
import torch

from mm_hf import (
    FUSIONS,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionModel,
)
from mm_hf.adapters import add_lora
from mm_hf.models.fusion import Fusion
from mm_hf.parts import load_parts


PETS = {0: "cat", 1: "dog", 2: "bird"}
ZOO = {0: "dog", 1: "ant", 2: "cat", 3: "emu"}
LENGTHS = (6, 4, 7)


def closed(model):
    """Blocks do nothing: what comes out is what the readout makes of its blocks."""
    for name, parameter in model.named_parameters():
        if name.endswith("gates"):
            parameter.data.zero_()
    return model


def emptied(model, fusion: str):
    """Whatever is fresh in the fusion has no effect."""
    for name, value in model.base_model.fusion.state_dict().items():
        value.fill_(-1e9 if fusion == "late" and name == "weights" else 0)
    return model


def answers(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


OF_PACKAGE = sorted(name for name in FUSIONS if FUSIONS[name].__module__.startswith("mm_hf."))


def test_a_line_goes_by_its_projections():
    """The fusion has nothing of its own: a modality more adds what it has for rows without it."""
    settings = {"fusion": "linear", "id2label": PETS, "num_labels": 3}
    batch = tiny.batch(LENGTHS)
    two, three = tiny.model(seed=0, **settings), tiny.model(seed=1, audio="lstm", **settings)
    lines = load_parts(three, two, name="two")
    assert "fusion: from two" in lines
    torch.nn.init.zeros_(three.model.projections["audio"].absent_token)
    torch.testing.assert_close(answers(three, **batch), answers(two, **batch))


@pytest.mark.parametrize("fusion", [name for name in OF_PACKAGE if name != "linear"])
def test_fusions_go_by_modality(fusion):
    """A modality more, one less, another one in its place: what both have does what it did."""
    settings = {"fusion": fusion, "id2label": PETS, "num_labels": 3}
    batch, sounds = tiny.batch(LENGTHS), tiny.sounds("lstm")
    two = closed(tiny.model(seed=0, **settings))
    three = emptied(closed(tiny.model(seed=1, audio="lstm", **settings)), fusion)
    lines = load_parts(three, two, name="two")
    assert "fusion: from two; fresh: what it has for audio" in lines
    expected = answers(two, **batch)
    torch.testing.assert_close(answers(three, **batch, **sounds), expected)
    assert expected.abs().max() > 0.01

    again = emptied(closed(tiny.model(seed=2, **settings)), fusion)
    lines = load_parts(again, three, name="three")
    assert "audio encoder of three: not used" in lines
    assert "fusion: from three" in lines
    torch.testing.assert_close(answers(again, **batch), expected)

    other = emptied(closed(tiny.model(seed=3, vision="vit", text=None, audio="lstm", **settings)), fusion)
    load_parts(other, two, name="two")
    pictures = {"pixel_values": batch["pixel_values"]}
    found = answers(other, **pictures, **sounds)
    torch.testing.assert_close(
        answers(other, **pictures, **{**sounds, "input_features": -sounds["input_features"]}), found
    )
    assert found.std() > 0


def test_a_fusion_of_another_kind_is_fresh():
    model, old = tiny.model(fusion="concat"), tiny.model(fusion="sum")
    before = {name: value.clone() for name, value in model.model.fusion.state_dict().items()}
    assert "fusion: fresh, old has 'sum', not 'concat'" in load_parts(model, old, name="old")
    assert all(torch.equal(value, before[name]) for name, value in model.model.fusion.state_dict().items())


class Registered(Fusion):
    """Of somebody else: nobody knows which of its weights are for which modality."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.layer = torch.nn.Linear(config.hidden_size, config.hidden_size)


def test_a_fusion_from_outside_goes_whole_or_not_at_all(monkeypatch):
    monkeypatch.setitem(FUSIONS, "registered", Registered)
    old, same = (tiny.model(fusion="registered", seed=seed) for seed in (0, 1))
    assert "fusion: from old" in load_parts(same, old, name="old")
    assert torch.equal(same.model.fusion.layer.weight, old.model.fusion.layer.weight)
    other = tiny.model(fusion="registered", seed=1, text=None, audio="lstm")
    (line,) = [line for line in load_parts(other, old, name="old") if line.startswith("fusion")]
    assert line.startswith("fusion: fresh")
    assert not torch.equal(other.model.fusion.layer.weight, old.model.fusion.layer.weight)


def test_what_was_fitted_anew_is_fresh():
    """A table of other columns may have an encoder of the same shape."""
    old, model = (tiny.model(seed=seed, audio="lstm") for seed in (0, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lines = load_parts(model, old, name="old", fresh=["audio"])
    assert "audio encoder and projection: fresh" in lines
    assert "fusion: from old; fresh: what it has for audio" in lines
    for name, value in model.state_dict().items():
        kept = ".encoders.audio." in name or ".projections.audio." in name
        others = old.state_dict()[name]
        if name.startswith("model.") and "readout.0.weight" not in name:
            assert torch.equal(value, before[name] if kept else others), name


def test_another_encoder_stays_as_it_is():
    model, old = tiny.model(text="bert", seed=1), tiny.model(text="distilbert")
    before = {name: value.clone() for name, value in model.model.encoders["text"].state_dict().items()}
    lines = load_parts(model, old, name="old")
    assert "text encoder: not from old, whose distilbert does not fit (bert)" in lines
    assert all(torch.equal(value, before[name]) for name, value in model.model.encoders["text"].state_dict().items())
    assert not torch.equal(model.model.projections["text"].norm.bias, model.model.projections["vision"].norm.bias + 1)


@pytest.mark.parametrize(("places", "old_places"), [(1, 3), (2, 3), (3, 2), (3, 1)])
def test_places(places, old_places):
    model, old = (tiny.model(seed=seed, num_images=count) for seed, count in ((1, places), (0, old_places)))
    torch.nn.init.normal_(old.model.projections["vision"].levels[0].bias)
    before = None if places == 1 else model.model.projections["vision"].place_embeddings.clone()
    (line,) = [line for line in load_parts(model, old, name="old") if line.startswith("vision projection")]
    both = min(places, old_places) if old_places > 1 else 0
    assert (f"{both} of {places} places" in line) == (places > old_places)
    unused = old_places - (places if places > 1 else 0)
    assert (f"not used: {unused} of {old_places} places" in line) == (places < old_places)
    assert torch.equal(
        model.model.projections["vision"].levels[0].bias, old.model.projections["vision"].levels[0].bias
    )
    if places > 1:
        found = model.model.projections["vision"].place_embeddings
        expected = before.clone()
        if both:
            expected[:both] = old.model.projections["vision"].place_embeddings[:both]
        assert torch.equal(found, expected)


# Heads


NUMBER = {"problem_type": "regression"}
CASES = {  # by name the class and settings of the old model and of the new one, and what the head's line says
    "labels by name": (
        (MMFusionForQuestionAnswering, {"id2label": PETS, "num_labels": 3}),
        (MMFusionForClassification, {"id2label": ZOO, "num_labels": 4}),
        "head: 2 of 4 labels from old (dog, cat); fresh: ant, emu; of old not used: bird; "
        "they are those of 'b' there, of 'a' here",
    ),
    "nobody named them": (
        (MMFusionForClassification, {"num_labels": 3}),
        (MMFusionForClassification, {"num_labels": 3}),
        "head: fresh",
    ),
    "no label in common": (
        (MMFusionForClassification, {"id2label": PETS, "num_labels": 3}),
        (MMFusionForClassification, {"id2label": {0: "red", 1: "blue"}, "num_labels": 2}),
        "head: fresh",
    ),
    "numbers of another label": (
        (MMFusionForClassification, {"num_labels": 1, **NUMBER}),
        (MMFusionForClassification, {"num_labels": 1, **NUMBER}),
        "head: fresh",
    ),
    "classes to numbers": (
        (MMFusionForClassification, {"id2label": PETS, "num_labels": 3}),
        (MMFusionForClassification, {"num_labels": 1, **NUMBER}),
        "head: fresh",
    ),
    "no head to classes": (
        (MMFusionModel, {}),
        (MMFusionForClassification, {"id2label": PETS, "num_labels": 3}),
        "head: fresh",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_heads_by_name(case):
    (old_class, old_settings), (new_class, settings), line = CASES[case]
    old, model = tiny.model(old_class, seed=0, **old_settings), tiny.model(new_class, seed=1, **settings)
    before = model.classifier.weight.clone(), model.classifier.bias.clone()
    assert line in load_parts(model, old, name="old", column="a", checkpoint_column="b")
    names = old_settings.get("id2label", {})
    for number in range(model.config.num_labels):
        label = settings.get("id2label", {}).get(number)
        weight, bias = before[0][number], before[1][number]
        if label in names.values():
            place = list(names.values()).index(label)
            weight, bias = old.classifier.weight[place], old.classifier.bias[place]
        assert torch.equal(model.classifier.weight[number], weight)
        assert torch.equal(model.classifier.bias[number], bias)


SCALES = [(None, None), ([250_000.0], [90_000.0]), ([0.001], [0.0004])]


@pytest.mark.parametrize("old_scale", SCALES)
@pytest.mark.parametrize("scale", SCALES)
def test_numbers_stay_in_their_unit(old_scale, scale):
    """The same answers, whatever unit each head learns in."""

    def build(seed, values):
        settings = {"label_mean": values[0], "label_scale": values[1], "num_labels": 1, **NUMBER}
        model = tiny.model(seed=seed, **settings)
        torch.nn.init.normal_(model.classifier.weight, std=0.1)
        torch.nn.init.constant_(model.classifier.bias, 0.3)
        return model

    old, model = build(0, old_scale), build(1, scale)
    lines = load_parts(model, old, name="old", column="price", checkpoint_column="price")
    assert "head: from old, in the unit of the label" in lines
    batch = tiny.batch(LENGTHS)
    rounding = 1e-6 * max((values[0] or [1.0])[0] for values in (scale, old_scale))
    torch.testing.assert_close(answers(model, **batch), answers(old, **batch), rtol=1e-4, atol=rounding)


TASKS = {
    "tone": {"problem_type": "single_label_classification", "labels": ["good", "bad"]},
    "price": {**NUMBER, "label_mean": [10.0], "label_scale": [2.0]},
    "colour": {"problem_type": "single_label_classification", "labels": ["red", "blue"]},
}
OTHER_TASKS = {
    "tone": {"problem_type": "single_label_classification", "labels": ["bad", "so so", "good"]},
    "price": {**NUMBER, "label_mean": [100.0], "label_scale": [7.0]},
    "size": {"problem_type": "single_label_classification", "labels": ["red", "blue"]},
}


def test_tasks_by_name():
    """Each by its own name: equal labels of another task are not taken."""
    old = tiny.model(MMFusionForMultiTask, seed=0, tasks=TASKS, task_weighting="uncertainty")
    model = tiny.model(MMFusionForMultiTask, seed=1, tasks=OTHER_TASKS, task_weighting="uncertainty")
    for head in old.heads.values():
        torch.nn.init.normal_(head.bias)
        torch.nn.init.normal_(head.weight, std=0.1)
    old.task_weighting.log_variances.data.copy_(torch.tensor([1.0, 2.0, 3.0]))  # colour, price, tone
    fresh = model.heads["for_size"].weight.clone()
    lines = load_parts(model, old, name="old")
    assert lines[-4:] == [
        "head of price: from old, in the unit of the label",
        "head of size: fresh",
        "head of tone: 2 of 3 labels from old (bad, good); fresh: so so",
        "head of old for 'colour': not used",
    ]
    assert torch.equal(model.heads["for_size"].weight, fresh)
    batch = tiny.batch(LENGTHS)
    found, expected = answers(model, **batch), answers(old, **batch)
    torch.testing.assert_close(found["price"], expected["price"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["tone"][:, [2, 0]], expected["tone"])
    assert model.task_weighting.log_variances.tolist() == [2.0, 0.0, 3.0]  # price, size, tone


@pytest.mark.parametrize("column", ["tone", "price", "taste"])
def test_a_task_becomes_the_only_one_and_back(column):
    several = tiny.model(MMFusionForMultiTask, seed=0, tasks=TASKS)
    torch.nn.init.normal_(several.heads["for_price"].weight)
    settings = (
        {"num_labels": 1, **NUMBER} if column == "price" else {"id2label": {0: "bad", 1: "good"}, "num_labels": 2}
    )
    one = tiny.model(seed=1, **settings)
    lines = load_parts(one, several, name="old", column=column)
    assert ("head: fresh" in lines) == (column == "taste")
    batch = tiny.batch(LENGTHS)
    if column == "taste":
        return
    before = answers(several, **batch)[column]
    expected = before if column == "price" else before[:, [1, 0]]
    torch.testing.assert_close(answers(one, **batch), expected, rtol=1e-4, atol=1e-4)
    back = tiny.model(MMFusionForMultiTask, seed=2, tasks=TASKS)
    load_parts(back, one, name="one", checkpoint_column=column)
    torch.testing.assert_close(answers(back, **batch)[column], before, rtol=1e-4, atol=1e-4)


def test_tokens_of_ctc_by_name():
    settings = {"vision": None, "text": None, "audio": "lstm", "pad_token_id": 0}
    old = tiny.model(MMFusionForCTC, seed=0, vocab_size=4, **settings)
    model = tiny.model(MMFusionForCTC, seed=1, vocab_size=5, **settings)
    torch.nn.init.normal_(old.ctc_head.bias)
    before = model.ctc_head.bias.clone()
    letters = {"tokens": ["-", "c", "a", "d", "e"], "checkpoint_tokens": ["-", "a", "b", "c"]}
    lines = load_parts(model, old, name="old", **letters)
    assert "head: 3 of 5 tokens from old (-, c, a); fresh: d, e; of old not used: b" in lines
    assert "token_norm, pooled_norm: from old" in lines
    assert torch.equal(model.ctc_head.bias[:3], old.ctc_head.bias[[0, 3, 1]])
    assert torch.equal(model.ctc_head.bias[3:], before[3:])


OF_DECODER = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def writer(seed):
    return tiny.model(
        MMFusionForConditionalGeneration, seed=seed, decoder_config=tiny.TEXT_CONFIGS["bert"](), **OF_DECODER
    )


def searcher(seed):
    return tiny.model(MMFusionForRetrieval, seed=seed, projection_dim=8)


BESIDE = {
    writer: ["decoder", "memory_norm", "pooled_norm", "memory_projection"],
    searcher: ["logit_scale", "embeddings.vision", "embeddings.text", "matching"],
}


@pytest.mark.parametrize(("build", "own"), BESIDE.items())
def test_writers_and_searches_go_whole(build, own):
    """All weights, but for a head that the other does not have."""
    old, model = build(0), build(1)
    lines = load_parts(model, old, name="old")
    for name, value in model.state_dict().items():
        assert torch.equal(value, old.state_dict()[name]), name
    assert not any("fresh" in line for line in lines)
    classes = tiny.model(seed=2, id2label=PETS, num_labels=3)
    lines = load_parts(classes, old, name="old")
    assert "head: fresh" in lines
    assert [line.removesuffix(" of old: not used") for line in lines if "not used" in line] == [", ".join(own)]
    for name, value in classes.model.state_dict().items():
        assert torch.equal(value, old.model.state_dict()[name]), name
    lines = load_parts(build(3), classes, name="classes")
    assert "head of classes: not used" in lines
    assert any(line.endswith(": fresh") for line in lines)


def test_embeddings_of_a_search_go_with_their_encoder():
    old, model = searcher(0), tiny.model(MMFusionForRetrieval, seed=1, vision="deit", projection_dim=8)
    before = model.embeddings["vision"].projection.weight.clone()
    lines = load_parts(model, old, name="old")
    assert "logit_scale, embeddings.text, matching: from old" in lines
    assert "embeddings.vision: fresh" in lines
    assert torch.equal(model.embeddings["vision"].projection.weight, before)


def test_a_folder_by_its_name(tmp_path):
    old, model = (tiny.model(seed=seed, id2label=PETS, num_labels=3) for seed in (0, 1))
    old.save_pretrained(tmp_path / "runs/a")
    assert "vision encoder: from a" in load_parts(model, tmp_path / "runs/a")
    batch = tiny.batch(LENGTHS)
    torch.testing.assert_close(answers(model, **batch), answers(old, **batch))


def test_adapters_are_refused():
    with pytest.raises(ValueError, match="merge_lora"):
        load_parts(tiny.model(), add_lora(tiny.model(), "text"))
