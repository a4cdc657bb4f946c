"""stats/: published numbers with their sources, and the committed reference statistics."""

import json
import math
import re
from pathlib import Path

import numpy as np

from dg.data.datasets import load_images
from dg.evaluation.feature_sets import load_features
from dg.evaluation.features import load_extractor
from dg.evaluation.metrics import frechet_distance, statistics
from dg.runtime.catalogue import CATALOGUE

STATS = Path(__file__).parent.parent / "stats"
PUBLISHED = json.loads((STATS / "published.json").read_text())


def value(**wanted):
    rows = [
        row
        for row in PUBLISHED["rows"]
        if all(row.get(key) == value for key, value in wanted.items())
    ]
    assert len(rows) == 1, rows
    return rows[0]["value"]


def test_every_row_has_a_source_and_stands_once():
    keys = [
        tuple(sorted((key, value) for key, value in row.items() if key != "value"))
        for row in PUBLISHED["rows"]
    ]
    assert len(set(keys)) == len(keys)
    for row in PUBLISHED["rows"]:
        assert {"data", "system", "metric", "value", "source"} <= set(row) and row[
            "source"
        ] in PUBLISHED["sources"]
        assert isinstance(row["value"], float)


def test_the_published_table():
    table = dict(data="cifar10", source="paper-table-3")
    assert value(**table, system="EDM-G++", metric="fid", conditional=False) == 1.77
    assert value(**table, system="EDM-G++", metric="fid", conditional=True) == 1.64
    assert value(**table, system="EDM-G++", metric="nll") == 2.55
    assert value(**table, system="EDM (random seed)", metric="fid", conditional=False) == 2.03
    assert value(data="imagenet-256", system="DiT-XL/2-G++", metric="fid") == 1.83
    assert value(source="paper-figure-3", epoch=10) == 1.77
    assert value(source="reproduction-b", system="EDM-G++, ensemble of six") == 14.35


def test_later_methods_and_evaluations_counted_both_ways():
    assert value(source="neon", data="cifar10", conditional=True) == 1.38
    assert value(source="ddo", data="cifar10", conditional=True) == 1.3
    assert value(source="sims", data="cifar10", nfe=70, nfe_with_discriminator=70) == 1.33
    assert value(source="ac-sampler", nfe=26.19) == 1.97
    assert value(source="restart", nfe=203) == 1.41
    assert value(source="autoguidance", system="EDM2, autoguidance") == 1.01
    guided = dict(system="EDM-G++", source="paper-table-3", metric="fid", conditional=False)
    assert value(**guided, nfe=35, nfe_with_discriminator=35 + 18) == 1.77
    for row in PUBLISHED["rows"]:  # a discriminator adds evaluations and saves none
        assert row.get("nfe_with_discriminator", math.inf) >= row.get("nfe", 0)


def test_the_committed_statistics_are_those_of_the_digits():
    reference = load_features(STATS / "digits-pixels.npz", load_extractor("pixels"))
    images = load_images("digits")
    mu, sigma = statistics(images.images.reshape(len(images), -1) / 127.5 - 1)
    np.testing.assert_allclose(reference.mu, mu, atol=1e-6)
    assert abs(frechet_distance(mu, sigma, reference.mu, reference.sigma)) < 1e-6
    assert reference.num_images == 1797


def test_the_readme_names_what_exists():
    text = (STATS / "README.md").read_text()
    for name in re.findall(r"`((?:fid-ref|dg-cifar10)-[\w-]+)`", text):
        assert name in CATALOGUE
    assert CATALOGUE["inception-torch-fidelity"].sha256 in text
