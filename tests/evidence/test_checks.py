"""How far to believe a map: what is known of hand-made models passes or fails as it should."""

import pytest
import tiny_models as tiny
import torch

from mm_hf.evidence.checks import check_parts, mean_ranks, perturbation, rank_correlation, redrawn
from mm_hf.evidence.methods import occlusion
from mm_hf.evidence.parts import Answer, EncodedRows, PartMap


@pytest.fixture(scope="module")
def encoded() -> tuple[EncodedRows, Answer]:
    model, batch = tiny.model(num_labels=3), tiny.batch((6, 4, 7, 5, 6, 8))
    with torch.no_grad():
        said = model(**batch).logits.argmax(-1)
    return EncodedRows(model, batch, background=tiny.batch((5, 8, 6), seed=7)), Answer.of(model, said)


def test_all_checks_have_their_form(encoded):
    checks = check_parts(*encoded, "vision", "occlusion")
    expected = {"deletion", "insertion", "weights_drawn_anew"}
    assert expected <= set(checks) <= {*expected, "agreement", "completeness"}
    for name, check in checks.items():
        assert set(check) == {"value", "bound", "passed", "says"}
        assert (type(check["value"]), type(check["bound"]), type(check["passed"])) == (float, float, bool)
        assert "vision" in check["says"], name
    if "completeness" in checks:
        assert checks["completeness"]["passed"]


def test_maps_made_before_the_encoder_are_checked_there(encoded):
    assert set(check_parts(*encoded, "vision", "input_occlusion")) == {"deletion", "insertion", "weights_drawn_anew"}


def test_items_of_few_parts_are_not_checked(encoded):
    assert check_parts(*encoded, "text", "occlusion") == {}


def test_a_true_map_passes_and_a_false_one_fails(encoded):
    rows, answer = encoded
    maps = occlusion(rows, answer, "vision", reach=0)
    right = perturbation(rows, answer, "vision", maps)
    turned = [
        PartMap(part.row, part.modality, part.place, part.parts, -part.values + part.values.max(), part.method)
        for part in maps
    ]
    wrong = perturbation(rows, answer, "vision", turned)
    for name in ("deletion", "insertion"):
        assert right[name]["value"] > 0 > wrong[name]["value"]
        assert not wrong[name]["passed"]
    assert right["deletion"]["passed"]


def test_weights_are_drawn_anew_for_a_while(encoded):
    model = encoded[0].model
    fusion, batch = model.model.fusion, tiny.batch()
    with torch.no_grad():
        expected, before = model(**batch).logits, [value.clone() for value in fusion.parameters()]
        with redrawn(fusion, seed=3):
            changed = model(**batch).logits
            for value, known in zip(fusion.parameters(), before):
                assert torch.equal(value.flatten().sort().values, known.flatten().sort().values)
        assert (changed - expected).abs().max() > 1e-2
        assert torch.equal(model(**batch).logits, expected)


def test_rank_correlation():
    assert mean_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    one = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert rank_correlation(one, one.exp()) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, torch.ones(4)) == 0
