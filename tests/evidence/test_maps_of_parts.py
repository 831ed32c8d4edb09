"""Where in an item: what is known of hand-made models, and what holds for every fusion and every kind of item."""

from functools import partial
from types import SimpleNamespace

import pytest
import tiny_models as tiny
import torch
from modality_cases import CASES, tokenizer
from PIL import Image
from transformers import CLIPImageProcessor

from mm_hf import FUSIONS, MMFusionForClassification
from mm_hf.evidence.methods import (
    METHODS,
    NoMap,
    default_method,
    gradients_along,
    input_occlusion,
    integrated_gradients,
    occlusion,
)
from mm_hf.evidence.parts import Answer, EncodedRows
from mm_hf.models.fusion import Fusion
from mm_hf.models.image_processors import box_seen, pixels_made
from mm_hf.models.item_parts import ItemParts, cells, moments, patches, words
from mm_hf.models.modality import modality_of
from mm_hf.models.modeling_outputs import FusedStates
from mm_hf.models.pooled_fusions import PooledFusion
from mm_hf.models.tabular import TabularConfig


WITH_MEMORY_LAYERS = "cross_attention with memory_layers"
QUICK = {**METHODS, "integrated_gradients": partial(integrated_gradients, steps=4)}
ATTENTION = sorted(name for name, kind in FUSIONS.items() if not issubclass(kind, PooledFusion))


@pytest.fixture(scope="module", autouse=True)
def place(imported):
    """The modality from outside is known while this file runs."""
    return imported("custom_modality")


@pytest.fixture(params=[*sorted(FUSIONS), WITH_MEMORY_LAYERS])
def fusion(request) -> str:
    return request.param


def tiny_model(fusion="cross_attention", **kwargs):
    settings = {}
    if fusion == WITH_MEMORY_LAYERS:
        fusion, settings = "cross_attention", {"memory_layers": 2}
    return tiny.model(fusion=fusion, settings=settings, **kwargs)


@torch.no_grad()
def encoded(model, batch, **kwargs) -> tuple[EncodedRows, Answer]:
    said = model(**batch).logits.argmax(-1)
    return EncodedRows(model, batch, **kwargs), Answer.of(model, said)


def largest_difference(one, other) -> float:
    assert [(part.row, part.place) for part in one] == [(part.row, part.place) for part in other]
    return max((a.values - b.values).abs().max().item() for a, b in zip(one, other))


class Looker(Fusion):
    """A hand-made fusion that sees one token of each modality: of a text the third, of a picture the sixth patch."""

    SEEN = {"vision": 6, "text": 2}

    def forward(self, states, memory=None, memory_index=None, **kwargs):
        seen = [states[name].rows(states[name].tokens[:, place]) for name, place in self.SEEN.items()]
        return FusedStates(pooled=sum(seen))


@pytest.mark.parametrize("method", [occlusion, integrated_gradients])
def test_a_model_that_looks_at_one_part(method):
    if method is integrated_gradients:
        pytest.importorskip("captum")
    model = tiny_model()
    config = model.config.fusion_module_config
    model.model.fusion = Looker(config, model.config.modalities, model.config.poolings)
    batch = tiny.batch()
    rows, answer = encoded(
        model, batch, background=tiny.batch((5, 8, 6), seed=7), items={"text": ["what is it no"] * 4}
    )
    for part in method(rows, answer, "vision"):
        row, column = divmod(5, 4)  # the patch behind the token of the class
        values = part.values.abs()
        assert values.shape == (4, 4)
        if method is occlusion:  # it is seen by the windows around it
            near = torch.zeros(4, 4, dtype=torch.bool)
            near[row - 1 : row + 2, column - 1 : column + 2] = True
            assert (values[near] > 0).all()
            assert (values[~near] == 0).all()
        else:
            assert values.flatten().argmax() == 5
            assert values.sum() == values.max()


@torch.no_grad()
def test_which_word_a_model_looks_at():
    """Behind the encoder the token alone; before it the word."""
    model = tiny_model()
    model.model.fusion = Looker(model.config.fusion_module_config, model.config.modalities, model.config.poolings)
    texts = ["what is it no", "is it"]
    processor_like = type("P", (), {"tokenizer": tokenizer()})()
    made = processor_like.tokenizer(texts, padding=True, return_tensors="pt")
    batch = {**tiny.images(2), "input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
    rows, answer = encoded(model, batch, items={"text": texts}, processor=processor_like)
    first, second = occlusion(rows, answer, "text")
    assert [texts[0][start:end] for start, end in first.parts.where["spans"]] == ["what", "is", "it", "no"]
    assert first.values.argmax() == 1
    assert first.values[[0, 2, 3]].max() == 0
    assert second.values.argmax() == 1
    assert second.values[0] == 0
    before = input_occlusion(rows, answer, "text")
    assert [part.values.shape for part in before] == [(4,), (2,)]
    assert all((part.values > 0).all() for part in before)  # each word is in the state of every other


def test_every_fusion_gives_maps_by_every_method(fusion):
    model, batch = tiny_model(fusion), {**tiny.batch(), "vision_index": torch.tensor([0, -1, 2, 2])}
    rows, answer = encoded(model, batch, background=tiny.batch((5, 8, 6), seed=7))
    for name, method in QUICK.items():
        if name == "integrated_gradients":
            pytest.importorskip("captum")
        if name in ("relevance", "attention") and fusion not in (*ATTENTION, WITH_MEMORY_LAYERS):
            with pytest.raises(NoMap, match=fusion):
                method(rows, answer, "vision")
            continue
        maps = method(rows, answer, "vision")
        assert [part.row for part in maps] == [0, 2, 3], name
        for part in maps:
            assert part.values.shape == (4, 4)
            assert part.values.isfinite().all()
            assert part.signed or (part.values >= 0).all()
            record = part.record(item=3)
            assert (record["item"], record["method"], len(record["values"])) == (3, name, 4)
        if name != "input_occlusion":
            maps = method(rows, answer, "text")
            assert [part.values.shape for part in maps] == [(1,)] * 4  # nobody said what the words are


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_modality_gives_maps(case):
    model = case.model()
    batch = {**case.inputs(), **case.beside(3)}
    rows, answer = encoded(model, batch, background=batch)
    maps = occlusion(rows, answer, case.name)
    assert [part.row for part in maps] == [0, 1, 2]
    expected = {"vision": ["picture"], "audio": ["sound"], "tabular": ["table"], "place": ["other"]}
    assert [part.parts.kind for part in maps] == 3 * expected.get(case.name, [case.name])
    for part in maps:
        assert part.values.shape == part.parts.shape
        assert part.values.isfinite().all()
        assert part.values.max() > 0
    if case.name == "place":  # of a modality from outside
        assert maps[0].parts.shape == (1,)
    if case.name == "tabular":
        assert maps[0].parts.where == {"columns": ["0", "1"]}


@pytest.mark.parametrize("case", [case for case in CASES if case.padded], ids=lambda case: case.name)
def test_padding_changes_nothing(case):
    model = case.model()
    for method in (occlusion, QUICK["integrated_gradients"]):
        if method is not occlusion:
            pytest.importorskip("captum")
        maps = []
        for pad_to in (0, 24):
            batch = {**case.inputs(pad_to=pad_to or 20), **case.beside(3)}
            maps.append(method(*encoded(model, batch, background={**case.inputs(), **case.beside(3)}), case.name))
        assert largest_difference(*maps) <= 1e-4


def test_shared_items_have_the_maps_of_unshared_ones(fusion):
    model = tiny_model(fusion)
    inputs = {**tiny.texts((6, 4, 7)), **tiny.images(2)}
    text_index, vision_index = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    apart = {
        "input_ids": inputs["input_ids"][text_index],
        "attention_mask": inputs["attention_mask"][text_index],
        "pixel_values": inputs["pixel_values"][vision_index],
    }
    for name in ("occlusion", "integrated_gradients", "relevance"):
        method, maps = QUICK[name], []
        for batch in ({**inputs, "text_index": text_index, "vision_index": vision_index}, apart):
            rows, answer = encoded(model, batch)
            try:
                maps.append(method(rows, answer, "vision"))
            except (NoMap, ImportError):
                break
        else:
            assert largest_difference(*maps) <= 1e-5, name


@torch.no_grad()
def test_tokens_that_stay_as_they_are_change_nothing(fusion):
    """Bit for bit."""
    model, batch = tiny_model(fusion), {**tiny.batch(), "vision_index": torch.tensor([0, -1, 2, 2])}
    expected = model(**batch).logits
    rows, _ = encoded(model, batch)
    assert torch.equal(model(token_states=rows.tokens).logits, expected)
    again = {name: rows.with_tokens(name, state, state.tokens.clone()) for name, state in rows.tokens.items()}
    assert torch.equal(model(token_states=again).logits, expected)
    each = {name: state.by_row() for name, state in rows.tokens.items()}
    again = {name: rows.with_tokens(name, state, state.tokens.clone()) for name, state in each.items()}
    assert torch.equal(model(token_states=again).logits, expected)


@torch.no_grad()
def test_pooled_vectors_follow_the_tokens(fusion):
    """An item whose tokens become those of another one is that other one."""
    model, batch = tiny_model(fusion, vision="resnet", num_images=2), tiny.batch()
    batch["vision_index"] = torch.tensor([[0, 1], [1, -1], [2, 3], [3, 0]])
    turned = {**batch, "vision_index": batch["vision_index"][[2, 1, 0, 3]]}
    rows, other = encoded(model, batch)[0], encoded(model, turned)[0]
    here, there = (one.tokens["vision"].by_row() for one in (rows, other))
    edited = {**rows.tokens, "vision": rows.with_tokens("vision", here, there.tokens)}
    answers = model(token_states=edited).logits[[0, 2]]
    torch.testing.assert_close(answers, model(**turned).logits[[0, 2]], rtol=0, atol=2e-5)


def test_token_states_stand_alone():
    model, batch = tiny_model(), tiny.batch()
    rows, _ = encoded(model, batch)
    with pytest.raises(ValueError, match=r"'vision', 'text'.*'text'"):
        model(token_states={"text": rows.tokens["text"]})
    with pytest.raises(ValueError, match="pixel_values"):
        model(token_states=rows.tokens, pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("fusion", [*ATTENTION, WITH_MEMORY_LAYERS])
def test_every_attention_is_given(fusion):
    model = tiny_model(fusion, implementation="eager")
    rows, _ = encoded(model, tiny.batch())
    fused = model.model.fuse_tokens(rows.tokens, output_attentions=True)
    expected = {"bottleneck": 4, "co_attention": 8, "cross_attention": 4, "merged_attention": 2, WITH_MEMORY_LAYERS: 6}
    assert len(fused.attention_steps) == expected[fusion]
    for step in fused.attention_steps:
        torch.testing.assert_close(step.weights.sum(-1), torch.ones(step.weights.shape[:-1]))
    assert model.model.fuse_tokens(rows.tokens).attention_steps is None


def test_integrated_gradients_are_complete(fusion):
    pytest.importorskip("captum")
    rows, answer = encoded(tiny_model(fusion), tiny.batch(), background=tiny.batch((5, 8, 6), seed=7))
    values, missed = gradients_along(rows, answer, "vision", steps=32)
    assert values.shape == (4, 17)
    assert (missed.abs() <= 0.02 * values.abs().sum(1)).all()


def test_several_labels_and_numbers():
    for kwargs in ({"problem_type": "multi_label_classification"}, {"problem_type": "regression"}):
        model = tiny_model(cls=MMFusionForClassification, **kwargs)
        torch.nn.init.normal_(model.classifier.weight)
        maps = occlusion(*encoded(model, tiny.batch()), "vision")
        assert all(part.values.max() > 0 and part.values.isfinite().all() for part in maps)


def test_grids_of_patches():
    config = tiny.VISION_CONFIGS["vit"]()  # 32 pixels, patches of 8
    assert patches(config, 17) == (1, 4, 4)
    assert patches(config, 16) == (0, 4, 4)
    assert patches(config, 65) == (1, 8, 8)  # a picture of another size
    config.image_size, config.patch_size = [16, 64], [8, 8]
    assert patches(config, 21) == (5, 2, 8)  # with registers
    assert patches(object(), 11) == (2, 3, 3)
    assert patches(object(), 24) is None
    # Pictures that are no squares, of another size than the config says: 257 tokens are not 16 by 16 of them.
    assert patches(config, 257, (64, 256)) == (1, 8, 32)
    assert patches(config, 64, (128, 512)) == (0, 4, 16)  # as Swin puts patches together
    assert patches(config, 11, (64, 256)) is None


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({"size": {"height": 48, "width": 96}}, (48, 96)),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 32, "width": 40}, "do_center_crop": True}, (32, 40)),
        ({"size": {"shortest_edge": 64}, "do_center_crop": False}, (64, 128)),
        ({"do_resize": False}, (50, 100)),
    ],
)
def test_the_size_of_what_the_encoder_gets(settings, made):
    """As the image processor itself makes it."""
    picture, processor = Image.new("RGB", (100, 50)), CLIPImageProcessor(**{"do_center_crop": False, **settings})
    assert pixels_made(processor, picture) == made
    assert pixels_made(None, picture) is None
    assert tuple(processor(picture, return_tensors="pt")["pixel_values"].shape[2:]) == made


def test_large_grids_are_seen_in_cells():
    config = SimpleNamespace(image_size=224, patch_size=16)
    parts = cells([(197,)], config)
    assert parts.shape == (7, 7)
    assert parts.tokens[0] == -1
    assert parts.tokens[1:].bincount().tolist() == [4] * 49
    assert parts.tokens[[1, 2, 15, 16]].tolist() == [0, 0, 0, 0]
    assert cells([(9, 20)], config).shape == (5, 7)
    assert cells([(17,)], SimpleNamespace(image_size=32, patch_size=8)).shape == (4, 4)
    assert cells([(8, 8), (12,)], object()) is None


def test_levels_of_a_picture_share_their_cells():
    model = tiny_model(vision="resnet", vision_feature_layer=[1, 2, 3])
    rows, answer = encoded(model, tiny.batch())
    parts = rows.parts("vision", 0)
    shapes = model.model.projections["vision"].token_shapes(rows.states["vision"])
    assert parts.shape == shapes[-1]
    assert len(parts.tokens) == sum(height * width for height, width in shapes)
    assert parts.tokens.bincount(minlength=parts.count).unique().numel() == 1
    assert occlusion(rows, answer, "vision")[0].values.shape == parts.shape


def test_words_of_a_text():
    text = "what isn't it?"
    fast = tokenizer()
    count = len(fast(text)["input_ids"])
    parts = words(text, fast, count + 2, torch.arange(count + 2) < count)
    assert [text[start:end] for start, end in parts.where["spans"]] == ["what", "isn", "'", "t", "it", "?"]
    assert parts.tokens.tolist() == [-1, 0, 1, 2, 3, 4, 5, -1, -1, -1]

    class Slow:
        is_fast = False
        num_special_tokens_to_add = lambda self: 2  # noqa: E731
        build_inputs_with_special_tokens = lambda self, ids: [1, *ids, 2]  # noqa: E731
        tokenize = lambda self, word: list(word)  # noqa: E731

    parts = words("no it", Slow(), 6, None)
    assert parts.where["spans"] == [[0, 2], [3, 5]]
    assert parts.tokens.tolist() == [-1, 0, 0, 1, 1, -1]
    assert words("no it", Slow(), 7, None) is None  # it cuts texts in another way


def test_moments():
    parts = moments("sound", 100, torch.arange(100) < 90, 1.8, most=10)
    assert parts.shape == (10,)
    assert parts.where["times"][0] == [0.0, pytest.approx(0.18)]
    assert parts.where["times"][-1][1] == pytest.approx(1.8)
    assert parts.tokens[89] == 9
    assert (parts.tokens[90:] == -1).all()


def test_windows_of_parts():
    picture = ItemParts("picture", (3, 4), torch.arange(12), reach=1)
    assert picture.windows()[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert picture.windows(0).equal(torch.eye(12, dtype=torch.bool))
    assert ItemParts("text", (3,), torch.arange(3), reach=1).windows()[2].tolist() == [False, True, True]


def test_a_column_alone():
    """A table has a token a column, which nothing has mixed: what a hand-made head does not look at is 0."""
    model = tiny.model(vision=None, text=None, fusion="concat", tabular_config=TabularConfig(num_numerical=3)).double()
    batch = {"numerical_values": torch.tensor([[0.5, 1.0, -2.0], [1.5, 0.0, 0.3]], dtype=torch.float64)}
    rows, answer = encoded(model, batch, background={"numerical_values": torch.zeros(2, 3, dtype=torch.float64)})
    for part in occlusion(rows, answer, "tabular"):
        assert part.values.shape == (3,)
    assert occlusion(rows, answer, "tabular")[1].values[1] == pytest.approx(0, abs=1e-9)  # as the others have it


def test_the_default_takes_parts_away_where_they_can_be_told_apart():
    """Before the encoder: words, which are mixed behind it, and patches, where a fusion reads the token of the class
    alone."""
    for fusion, pooling, expected in (
        ("cross_attention", "cls", "occlusion"),
        ("concat", "cls", "input_occlusion"),
        ("concat", "mean", "occlusion"),
    ):
        rows, answer = encoded(tiny.model(fusion=fusion, pooling={"vision": pooling}), tiny.batch())
        assert default_method(rows, "vision") == expected
        assert default_method(rows, "text") == "input_occlusion"
        behind, before = (METHODS[name](rows, answer, "vision")[0] for name in ("occlusion", "input_occlusion"))
        assert (behind.values.max() > 0) == (expected == "occlusion")
        assert before.values.max() > 0
    features = {**tiny.batch(), "encoder_states": rows.states}
    del features["pixel_values"], features["input_ids"], features["attention_mask"]
    rows = EncodedRows(rows.model, features)
    assert default_method(rows, "text") == "occlusion"
    with pytest.raises(NoMap, match="text"):
        input_occlusion(rows, answer, "text")


def test_several_places_have_a_map_each(fusion):
    model, batch = tiny_model(fusion, vision="resnet", num_images=2), tiny.batch()
    batch["vision_index"] = torch.tensor([[0, 1], [1, -1], [2, 3], [-1, 0]])
    for name in ("occlusion", "input_occlusion"):
        rows, answer = encoded(model, batch, background=tiny.batch((5, 8, 6), seed=7))
        maps = METHODS[name](rows, answer, "vision")
        assert [(part.row, part.place) for part in maps] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 1)]
        assert all(part.values.isfinite().all() and part.values.max() > 0 for part in maps), name


def test_the_part_of_a_picture_that_is_seen():
    processor = SimpleNamespace(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, do_center_crop=True, do_resize=True
    )
    assert box_seen(processor, Image.new("RGB", (200, 100))) == [0.28125, 0.0625, 0.71875, 0.9375]
    processor.do_center_crop = False
    assert box_seen(processor, Image.new("RGB", (200, 100))) is None


def test_words_give_way_to_those_of_other_texts():
    """What stands there, counted from the nearer end; the mask where nothing does."""
    text, process = modality_of("text"), SimpleNamespace(tokenizer=tokenizer())
    tokens = process.tokenizer.get_vocab()
    others = dict(process.tokenizer(["no it is", "what"], padding=True, return_tensors="pt"))
    inputs = dict(process.tokenizer(["what is it no"], padding="max_length", max_length=8, return_tensors="pt"))
    parts = words("what is it no", process.tokenizer, 8, inputs["attention_mask"][0].bool())
    erased = torch.eye(4, dtype=torch.bool)
    assert text.ways(parts, others) == 8
    assert text.ways(parts) == 1
    expected = [["no", "it", "it", "is"], ["what", "[MASK]", "[MASK]", "what"]]
    for way, instead in enumerate(expected):
        ids = text.erase(inputs, parts, erased, others, process, way)["input_ids"]
        assert ids.shape == (4, 8)
        changed = ids.diagonal(offset=1)[:4].tolist()
        assert changed == [tokens[word] for word in instead]
    ids = text.erase(inputs, parts, erased, None, process)["input_ids"]
    assert (ids.diagonal(offset=1)[:4] == tokens["[MASK]"]).all()
    assert (ids != inputs["input_ids"]).sum(1).tolist() == [1, 1, 1, 1]


def test_long_texts_have_pieces_of_several_words():
    text = " ".join(["it is"] * 50)
    fast = tokenizer()
    fast.model_max_length = 200
    parts = words(text, fast, 102, None)
    assert parts.shape == (34,)
    assert text[slice(*parts.where["spans"][0])] == "it is it"
    assert text[slice(*parts.where["spans"][-1])] == "is"
    assert parts.tokens[[0, 1, 3, 4, 100, 101]].tolist() == [-1, 0, 0, 1, 33, -1]
