"""The fusion of `examples/custom_fusion.py` under the invariants that those of the package are under."""

import importlib.util
import inspect
from pathlib import Path

import pytest
import tiny_models as tiny
import torch

from mm_hf import FUSIONS


file = Path(__file__).parents[1] / "models/test_fusion_invariants.py"
spec = importlib.util.spec_from_file_location("fusion_invariants", file)
invariants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(invariants)

# Those that take nothing but the name of a fusion.
ALL = {
    name: test
    for name, test in inspect.getmembers(invariants, inspect.isfunction)
    if name.startswith("test_") and list(inspect.signature(test).parameters) == ["fusion"]
}


@pytest.fixture(scope="module", autouse=True)
def registered(imported):
    imported("custom_fusion")


def test_there_are_invariants():
    assert len(ALL) >= 8


@pytest.mark.parametrize("name", sorted(ALL))
def test_invariant(name):
    ALL[name]("product")


@pytest.mark.parametrize("depth", [1, 3])
def test_every_layer_is_used(depth):
    invariants.test_every_layer_is_used("product", depth)


def test_three_modalities():
    invariants.test_three_modalities("product")


@torch.no_grad()
def test_it_is_the_product():
    fusion = tiny.model(fusion="product", settings={"num_hidden_layers": 0}).model.fusion
    vectors = [torch.randn(5, 32) for _ in fusion.modalities]
    one, other = (layer(vector).tanh() for layer, vector in zip(fusion.features, vectors))
    assert torch.allclose(fusion.combine(vectors), fusion.readout(one * other))
    assert FUSIONS["product"] is type(fusion)
