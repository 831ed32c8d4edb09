"""Odd rows from a seed, more than 600, and 100 of them in the ordinary run: each is answered as what it means, or
refused by name, see `odd_rows`."""

import importlib.util
import itertools
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch


for name in ("odd_things", "odd_rows"):  # tests are no package
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])

from odd_rows import KINDS, Case, Outcome, World, judge, plan, run, some  # noqa: E402
from odd_things import ANY, CLEAN, EXACT, NEAR, ROUTES  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, no progress bars, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    datasets.enable_progress_bars()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list:
    return plan(tmp_path_factory.mktemp("plan"))


@pytest.mark.parametrize("kind", KINDS)
def test_some_odd_rows(kind, entries, world, tmp_path):
    chosen = [entry for entry in some(entries, 100) if entry[0] == kind]
    faults = run(chosen, world, tmp_path)
    assert not faults, f"{len(faults)} of {len(chosen)}:\n" + "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_all_odd_rows(kind, seed, world, tmp_path):
    chosen = [entry for entry in plan(tmp_path / "plan", seed) if entry[0] == kind]
    faults = run(chosen, world, tmp_path)
    assert not faults, f"{len(faults)} of {len(chosen)}:\n" + "\n".join(faults)


def test_the_plan(entries, tmp_path):
    assert len(set(entries)) == len(entries) >= 600
    assert len(set(some(entries, 100))) == 100
    for kind, count in Counter(kind for kind, *_ in some(entries, 100)).items():
        assert count >= 2, kind
    for kind, routes in ROUTES.items():
        assert {route for own, _, route, _ in entries if own == kind} == set(routes)
    assert plan(tmp_path) == entries  # the seed says it all


# The judge itself


@pytest.mark.parametrize("kind", CLEAN)
def test_the_model_sees_what_differs(kind, world):
    """Two clean things are answered differently, by more than any tolerance: or else equal answers would say
    nothing."""
    draw = CLEAN[kind]
    answers = [world.logits(kind, draw(np.random.default_rng(seed))) for seed in range(6)]
    answers.append(world.logits(kind, None))
    apart = [(one - other).abs().max().item() for one, other in itertools.combinations(answers, 2)]
    assert np.median(apart) > 2 * NEAR
    assert min(apart) > 10 * EXACT


def test_the_judge(world):
    draw = CLEAN["text"]
    one, other = draw(np.random.default_rng(0)), draw(np.random.default_rng(1))
    answer = world.logits("text", one)
    good = Case("text", "x", "memory", 0, means=[other, one])
    bad = Case("text", "x", "processor", 0, refused=True)
    assert judge(good, Outcome(answer), world) == []
    assert judge(bad, Outcome(error="ValueError: Row 1: no text"), world) == []
    assert judge(Case("text", "x", "csv", 0, means=[ANY]), Outcome(answer), world) == []
    assert judge(Case("text", "x", "csv", 0, refused=True), Outcome(error="row 7: no text"), world) == []
    for case, outcome, word in (
        (Case("text", "x", "memory", 0, means=[other]), Outcome(answer), "SILENT CHANGE"),
        (Case("text", "x", "memory", 0, means=[one]), Outcome(answer + 0.01), "SILENT CHANGE"),
        (Case("text", "x", "memory", 0, means=[ANY]), Outcome(answer * torch.nan), "not finite"),
        (bad, Outcome(answer), "means nothing"),
        (good, Outcome(error="row 1: no text"), "means something"),
        (bad, Outcome(error="TypeError: unhashable"), "does not name"),
        (bad, Outcome(error="ValueError: row 10 is bad"), "does not name"),
        (Case("text", "x", "csv", 0, refused=True), Outcome(error="ArrowInvalid: offset 17"), "does not name"),
    ):
        (fault,) = judge(case, outcome, world)
        assert word in fault
