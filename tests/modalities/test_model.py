"""What holds for every modality in a model, whatever encodes it: who may influence whom, absence, places, and that
fast ways equal slow ones."""

import pytest
import torch
from modality_cases import CASES, OF_PLACES

from mm_hf import FUSIONS, MMFusionConfig, MMFusionForClassification, MMFusionModel
from mm_hf.models.modality import MODALITIES
from mm_hf.models.pooled_fusions import PooledFusion
from mm_hf.optim import parameter_groups


# Of five rows two share an item, and one has none.
INDEX = torch.tensor([0, 1, -1, 0, 2])
# In two places: both, one of them in two rows (either), none, and the same item in both.
PLACES = torch.tensor([[0, 1], [2, -1], [-1, 2], [-1, -1], [1, 1]])
NOBODY = torch.full((5,), -1)
LABELS = torch.tensor([0, 1, 2, 3, 4])
MEMORY_FUSIONS = sorted(name for name, kind in FUSIONS.items() if kind.supports_memory_cache)
# Fusions of one vector a modality have no query.
ASKING = [
    (name, asks)
    for name, kind in sorted(FUSIONS.items())
    for asks in ([False] if issubclass(kind, PooledFusion) else [False, True])
]


@pytest.fixture(params=[(case, kind) for case in CASES for kind in case.settings], ids=lambda p: f"{p[0].name}-{p[1]}")
def kind(request):
    """A modality and the kind of its encoder."""
    return request.param


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture(params=OF_PLACES, ids=lambda case: case.name)
def of_places(request):
    return request.param


def inputs_of(case, encoder=None, index=INDEX, **kwargs) -> dict[str, torch.Tensor]:
    return {**case.beside(), **case.inputs(encoder, **kwargs), case.index: index}


def same(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def without_gradient(model) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def query(case, asks: bool) -> dict[str, str]:
    beside = "vision" if case.name == "text" else "text"
    return {"query_modality": case.name if asks else beside}


def test_every_modality_has_a_case():
    assert [case.name for case in CASES] == list(MODALITIES)
    assert all(case.several_places == case.modality.several_places for case in CASES)


def test_it_trains_and_is_saved(kind, tmp_path):
    case, name = kind
    model, inputs = case.model(name).train(), inputs_of(*kind)
    model(**inputs, labels=LABELS).loss.backward()
    assert without_gradient(model) == []
    encoder = model.model.encoders[case.name]
    gradients = [p.grad.abs().max() for p in encoder.parameters() if p.requires_grad]  # Whisper's positions do not
    assert sum(gradient > 0 for gradient in gradients) > 0.8 * len(gradients) > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval().save_pretrained(tmp_path)
    loaded, info = MMFusionForClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.modalities == model.config.modalities
    with torch.no_grad():
        same(loaded(**inputs).logits, model(**inputs).logits, 1e-6)
    if name == next(iter(case.settings)):
        half = MMFusionForClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert {p.dtype for p in half.parameters()} == {half(**inputs).logits.dtype} == {torch.bfloat16}


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_fusion_takes_it(case, fusion):
    """What was encoded before goes in its place; and what is there to learn learns."""
    model, inputs = case.model(fusion=fusion), inputs_of(case)
    logits = model(**inputs).logits
    beside = {name: value for name, value in inputs.items() if name != case.index}
    states = model.model.encode({case.name: INDEX}, **beside)
    same(model(encoder_states=states).logits, logits)
    same(model.classifier(model.model.fuse(states).pooled), logits)
    model.train()(**inputs, labels=LABELS).loss.backward()
    assert without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_an_item_counts_in_its_rows_alone(kind):
    model, inputs = kind[0].model(kind[1]), inputs_of(*kind)
    before = model(**inputs).logits
    for name in kind[0].inputs(kind[1]):
        inputs[name] = inputs[name][[0, 2, 2]]
    moved = (model(**inputs).logits - before).abs().amax(1)
    assert moved[1] > 1e-3
    assert moved[[0, 2, 3, 4]].max() <= 1e-5


@torch.no_grad()
def test_shared_items_equal_repeated_ones(kind):
    model, inputs = kind[0].model(kind[1]), inputs_of(*kind)
    repeated = {name: value[[0, 1, 0, 2]] for name, value in kind[0].inputs(kind[1]).items()}
    repeated = {**inputs, **repeated, kind[0].index: torch.tensor([0, 1, -1, 2, 3])}
    same(model(**repeated).logits, model(**inputs).logits)


@torch.no_grad()
def test_the_order_of_rows_and_items_does_not_matter(kind):
    case, encoder = kind
    model, inputs = case.model(encoder), inputs_of(*kind)
    expected = model(**inputs).logits
    beside = next(iter(name for name in model.config.modalities if name != case.name))
    rows, items = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([2, 0, 1])
    turned = {name: value[items] for name, value in case.inputs(encoder).items()}
    where = torch.where(INDEX < 0, -1, items.argsort()[INDEX])
    turned = {**inputs, **turned, case.index: where[rows], f"{beside}_index": rows}
    same(model(**turned).logits, expected[rows])


def test_an_item_is_encoded_once_and_an_absent_row_never(kind):
    """Wherever it stands."""
    case, encoder = kind
    for places, index in [({}, INDEX), *([(case.places, PLACES)] if case.several_places else [])]:
        seen = []
        model = case.model(encoder, **places)
        model.model.encoders[case.name].register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(len(output.last_hidden_state))
        )
        model(**inputs_of(case, encoder, index))
        assert seen == [3]


@torch.no_grad()
def test_absent_in_all_rows_in_three_ways(kind):
    model, beside = kind[0].model(kind[1]).double(), kind[0].beside()
    expected = model(**beside).logits
    for more in ({}, kind[0].inputs(kind[1])):
        same(model(**beside, **more, **{kind[0].index: NOBODY}).logits, expected, 1e-6)


@torch.no_grad()
def test_an_absent_row_has_the_absent_token(kind):
    model, inputs = kind[0].model(kind[1]), inputs_of(*kind)
    before = model(**inputs).logits
    model.model.projections[kind[0].name].absent_token[::2] += 1  # a norm takes away what all elements share
    moved = (model(**inputs).logits - before).abs().amax(1)
    assert moved[2] > 1e-3
    assert moved[[0, 1, 3, 4]].max() == 0


def test_absent_in_all_rows_trains_every_parameter(kind):
    model = kind[0].model(kind[1]).train()
    model(**kind[0].beside(), **{kind[0].index: NOBODY}, labels=LABELS).loss.backward()
    assert without_gradient(model) == []


@torch.no_grad()
def test_alone(kind):
    logits = kind[0].model(kind[1], alone=True)(**kind[0].inputs(kind[1])).logits
    assert logits.shape == (3, 5)
    assert logits.std(0).min() > 1e-3


@pytest.mark.parametrize("fusion", ["cross_attention", "concat", "bottleneck"])
@pytest.mark.parametrize(("name", "encoder"), [(case.name, kind) for case in CASES for kind in case.padded])
@torch.no_grad()
def test_padding_changes_nothing(name, encoder, fusion):
    """What stands behind the end is noise for some."""
    (case,) = (case for case in CASES if case.name == name)
    model = case.model(encoder, fusion=fusion)
    short, long = (model(**inputs_of(case, encoder, pad_to=length)).logits for length in (0, 34))
    same(short, long)


@torch.no_grad()
def test_all_of_them_in_one_model():
    """In the order of the registry, and each matters."""
    settings = dict(next(iter(case.settings.values()))() for case in CASES)
    model = CASES[0].model(cls=MMFusionForClassification, **settings)
    assert model.config.modalities == list(MODALITIES)
    inputs = {name: value[:3] for case in CASES for name, value in case.inputs().items()}
    assert list(model.model.encode({}, **inputs)) == list(MODALITIES)
    expected = model(**inputs).logits
    for name in MODALITIES:
        without = model(**inputs, **{f"{name}_index": NOBODY[:3]}).logits
        assert (without - expected).abs().amax(1).min() > 1e-3, name


# Freezing, rates


def test_frozen(case):
    model = case.model(freeze_encoders=[case.name]).train()
    assert model.config.frozen_encoders == [case.name]
    encoder = model.model.encoders[case.name]
    assert not encoder.training
    model(**inputs_of(case), labels=LABELS).loss.backward()
    assert without_gradient(model) == []
    assert not any(p.requires_grad for p in encoder.parameters())
    assert model.model.projections[case.name].absent_token.grad is not None
    # What starts from random weights is never frozen with the others.
    frozen = case.model(freeze_encoders=True).config.frozen_encoders
    assert (case.name in frozen) == case.modality.pretrained


def test_a_learning_rate_of_its_own(case):
    model = case.model()
    groups = parameter_groups(model, 1e-3, 0.1, {case.name: 1e-5})
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    own = {name: 1e-5 if f"encoders.{case.name}." in name else 1e-3 for name, _ in model.named_parameters()}
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == own
    assert 1e-5 in own.values()


def test_dropped_in_training(case):
    """All places of a row, and never the last that a row has."""
    places = case.places if case.several_places else {}
    settings = {"modality_dropout": {case.name: 0.5}}
    model = case.model(cls=MMFusionModel, settings=settings, **places).train()
    rows = torch.arange(400)
    index = torch.where(rows % 4 < 2, -1, rows % 3)
    index = torch.stack([rows % 3, index], 1) if places else rows % 3
    beside = next(iter(name for name in model.config.modalities if name != case.name))
    there = torch.where(rows < 100, -1, rows % 5)
    states = model.encode({case.name: index, beside: there}, **case.beside(), **case.inputs())
    torch.manual_seed(0)
    kept = model._drop_modalities(states)
    assert torch.equal(kept[beside], there)
    gone = (kept[case.name] == -1).reshape(400, -1).all(1)
    assert torch.equal(kept[case.name][~gone], index[~gone])
    assert not gone[:100].any()
    for part in (rows % 4 < 2, rows % 4 >= 2):
        assert 50 < gone[100:][part[100:]].sum() < 100


# Several places


@pytest.mark.parametrize(("fusion", "asks"), ASKING)
@torch.no_grad()
def test_rows_of_several_places(of_places, fusion, asks):
    case, settings = of_places, query(of_places, asks)
    model = case.model(fusion=fusion, settings=settings, **case.places)
    inputs = inputs_of(case, index=PLACES)
    expected = model(**inputs).logits
    beside = next(iter(name for name in model.config.modalities if name != case.name))
    rows = torch.tensor([3, 0, 4, 2, 1])
    same(model(**{**inputs, case.index: PLACES[rows], f"{beside}_index": rows}).logits, expected[rows])
    if case.padded:
        same(model(**inputs_of(case, index=PLACES, pad_to=34)).logits, expected)
    for row in range(5):  # other rows change nothing
        alone = {**inputs, case.index: PLACES[[row]], f"{beside}_index": torch.tensor([row])}
        same(model(**alone).logits[0], expected[row])
    repeated = {name: value[PLACES.clamp(min=0).flatten()] for name, value in case.inputs().items()}
    repeated[case.index] = torch.where(PLACES < 0, -1, torch.arange(10).view(5, 2))
    same(model(**{**inputs, **repeated}).logits, expected)
    # Places that are not named are absent.
    column = torch.tensor([0, 2, -1, -1, 1])
    wide = model(**{**inputs, case.index: torch.stack([column, NOBODY], 1)}).logits
    for index in (column, column[:, None]):
        same(model(**{**inputs, case.index: index}).logits, wide)
    same(wide[[1, 3]], expected[[1, 3]])
    nothing = torch.full((5, 2), -1)
    same(model(**{**inputs, case.index: nothing}).logits, model(**case.beside()).logits)
    three = {**case.beside(3), **case.inputs()}  # without an index row i has item i
    assert torch.equal(model(**three).logits, model(**three, **{case.index: torch.arange(3)[:, None]}).logits)
    if case.modality.has_lengths:
        by_length = case.model(fusion=fusion, settings=settings, **case.places, encode_by_length=[case.name])
        same(by_length(**inputs).logits, expected)
    # Which of them stands where matters to a fusion of tokens, and every item does.
    swapped = model(**{**inputs, case.index: PLACES.flip(1)}).logits
    same(swapped[3:], expected[3:])
    if not issubclass(FUSIONS[fusion], PooledFusion):
        assert (swapped - expected)[:3].abs().amax(1).min() > 1e-4
    for name in case.inputs():
        inputs[name] = inputs[name][[0, 0, 2]]
    moved = (model(**inputs).logits - expected).abs().amax(1)
    assert moved[[0, 4]].min() > 1e-4
    same(model(**inputs).logits[1:4], expected[1:4])


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("settings", [{}, {"memory_layers": 1}])
@pytest.mark.parametrize("fusion", MEMORY_FUSIONS)
@torch.no_grad()
def test_the_memory_of_several_places(of_places, fusion, settings, asks):
    case = of_places
    base = case.model(cls=MMFusionModel, fusion=fusion, settings={**settings, **query(case, asks)}, **case.places)
    inputs = inputs_of(case, index=PLACES)
    states = base.encode({case.name: PLACES}, **case.beside(), **case.inputs())
    memory, expected = base.prepare(states), base(**inputs).pooler_output
    same(base.fuse(states, memory).pooled, expected)
    same(base(**case.beside(), encoder_states={case.name: states[case.name]}).pooler_output, expected)
    rows = torch.tensor([1, 4, 0, 0, 2])
    beside = next(iter(name for name in base.config.modalities if name != case.name))
    kept, index = (beside, torch.arange(5)) if asks else (case.name, PLACES)
    again = base(**{**inputs, f"{kept}_index": index[rows]}).pooler_output
    same(base.fuse(states, memory, rows).pooled, again)
    same(base(**inputs, memory=memory, memory_index=rows).pooler_output, again)


@pytest.mark.parametrize("there", [True, False])
def test_every_place_learns(of_places, there):
    model = of_places.model(**of_places.places).train()
    inputs = inputs_of(of_places, index=PLACES) if there else of_places.beside()
    model(**inputs, labels=LABELS).loss.backward()
    gradient = model.model.projections[of_places.name].place_embeddings.grad
    assert gradient.abs().amax(1).min() > 0
    assert without_gradient(model) == []


def test_places_come_back_and_begin(of_places, tmp_path):
    """In a checkpoint of one place they begin with the weights that new ones have, and not with what memory held."""
    case, name = of_places, of_places.name
    model, inputs = case.model(**case.places), inputs_of(case, index=PLACES)
    model.save_pretrained(tmp_path / "two")
    again = MMFusionForClassification.from_pretrained(tmp_path / "two").eval()
    assert again.config.places_of(name) == 2
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    case.model().save_pretrained(tmp_path / "one")
    begun = MMFusionForClassification.from_pretrained(tmp_path / "one", **case.places)
    embeddings = begun.model.projections[name].place_embeddings
    assert embeddings.shape == (2, 32)
    assert embeddings.std().item() == pytest.approx(0.2, rel=0.3)
    assert embeddings.mean().item() == pytest.approx(0, abs=0.08)
    three = {"num_images": 3} if name == "vision" else {"places": {name: 3}}
    with pytest.raises(ValueError, match="place_embeddings"):  # some are there, of another number
        MMFusionForClassification.from_pretrained(tmp_path / "two", **three)


def test_more_items_than_places(case):
    key = case.modality.places_key
    with pytest.raises(ValueError, match=rf"\(5, 2\).*1.*{key if case.several_places else ''}"):
        case.model()(**inputs_of(case, index=torch.zeros(5, 2, dtype=torch.long)))
    if not case.several_places:
        with pytest.raises(ValueError, match=f"{case.name}.*1.*2"):
            case.model(places={case.name: 2})
        return
    with pytest.raises(ValueError, match=r"\(5, 3\).*2"):
        case.model(**case.places)(**inputs_of(case, index=torch.zeros(5, 3, dtype=torch.long)))
    with pytest.raises(IndexError):
        case.model(**case.places)(**inputs_of(case, index=torch.full((5, 2), 3)))
    one = case.model(**({"num_images": 1} if case.name == "vision" else {"places": {case.name: 1}})).config
    assert one.to_dict() == case.model().config.to_dict()
    assert MMFusionConfig(**one.to_dict()).to_dict() == one.to_dict()
