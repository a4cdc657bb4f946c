"""The comparison of recipes: its data, and a tiny run from end to end."""

import numpy as np
import pytest
import torch

from dg.experiments import mnist_recipes
from dg.experiments.mnist_recipes import METRICS, PROFILES, pooled, run
from dg.runtime.datasets import ImageSet
from dg.runtime.files import read_json


def test_pooling_averages_squares():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    assert pooled(ImageSet(images, None, "x"), 2).images[0, :, :, 0].tolist() == [[2, 4], [10, 12]]  # 2.5 and 4.5 to even


def test_recipes_differ_in_what_they_claim_to():
    recipes = PROFILES["full"].recipes()
    authors, default = recipes["authors"], recipes["default_classifier"]
    assert authors.extractor == default.extractor == "classifier" and recipes["default_score"].extractor == "score"
    assert authors.checkpoint == "last" and default.checkpoint == "best"
    assert authors.training.lr_schedule == "constant" and not authors.training.ema_halflife
    assert len({recipe.weight for recipe in recipes.values()}) == len({r.training.epochs for r in recipes.values()}) == 1


@pytest.mark.slow
def test_a_tiny_run_from_end_to_end(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 400), ("test", 200)):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = rng.integers(0, 60, [n, 28, 28], dtype=np.uint8) + (20 * labels)[:, None, None].astype(np.uint8)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(tmp_path / "mnist.npz", **arrays)
    results = tmp_path / "results"
    results.mkdir()

    def once():
        return run(PROFILES["smoke"], tmp_path / "runs", results, "python reproduce.py mnist-recipes", torch.device("cpu"),
                   lambda iterable, **kwargs: iterable, lambda line: None, tmp_path / "mnist.npz")

    outcome = once()
    assert set(outcome["metrics"]) == {"unguided", "authors", "default_classifier", "default_score", "floor"}
    assert all(set(METRICS) <= set(entry) for entry in outcome["metrics"].values())
    assert read_json(results / "results.json")["metrics"] == outcome["metrics"] == once()["metrics"]
    report = (results / "report.html").read_text()
    assert report.count("data:image/png") >= 8 and "http" not in report.split("<body")[1]
    assert mnist_recipes.text_table(outcome).count("\n") == 5
