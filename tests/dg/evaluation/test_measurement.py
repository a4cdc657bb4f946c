"""Measurement as a library: the same numbers as the metrics on the features themselves."""

import numpy as np
import pytest

from dg.data.datasets import load_images
from dg.evaluation.features import load_extractor
from dg.evaluation.measure import metric_values
from dg.evaluation.measurement import Measurement
from dg.evaluation.tables import measurement_table


def flat(images):
    return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1


@pytest.fixture
def sources(tmp_path):
    images = load_images("digits").images[:400]
    np.savez(tmp_path / "a.npz", samples=images[:200])
    np.savez(tmp_path / "b.npz", samples=images[200:])
    return str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), images


def test_a_row_holds_the_metrics_of_the_features(sources):
    generated, real, images = sources
    measurement = Measurement(load_extractor("pixels"))
    reference = measurement.reference(real)
    row = measurement.measure(generated, measurement.open(generated), reference)
    values = metric_values(flat(images[:200]), flat(images[200:]))
    assert {name: row["metrics"][name]["value"] for name in values} == pytest.approx(values)
    table = measurement_table(measurement.results(reference, {generated: row}))
    assert f"{row['metrics']['fd']['value']:.4f}" in table


def test_sets_are_disjoint_and_summarised(sources):
    generated, real, _ = sources
    measurement = Measurement(load_extractor("pixels"), ["fd"], batch_size=32)
    parts = measurement.open(generated, num_samples=60, num_sets=3)
    assert [positions.tolist() for _, positions in parts] == [
        list(range(start, start + 60)) for start in (0, 60, 120)
    ]
    row = measurement.measure(generated, parts, measurement.reference(real))
    assert row["sets"] == 3 and row["metrics"]["fd"]["sd"] > 0


def test_what_cannot_be_measured_is_refused_before_any_work(sources):
    generated, real, _ = sources
    extractor = load_extractor("pixels")
    with pytest.raises(ValueError, match="sharpness: no such metric; use fd"):
        Measurement(extractor, ["sharpness"])
    measurement = Measurement(extractor, ["fd"], extrapolate=True)
    reference = measurement.reference(real)
    with pytest.raises(ValueError, match="200 images; the extrapolation needs 256"):
        measurement.check_extrapolation(generated, measurement.open(generated), reference)
