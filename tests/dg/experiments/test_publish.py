"""Publishing copies the evidence that a repository can carry, and no more."""

import numpy as np
import pytest
from PIL import Image

from dg.experiments.publish import MOST_BYTES, publish


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "cache").mkdir(parents=True)
    for name in (
        "results.json",
        "report.md",
        "pairs.png",
        "report.html",
        "samples.npz",
        "state.pt",
        "older.png",
    ):
        (folder / name).write_text(name)
    (folder / "report.md").write_text('<img src="pairs.png" alt="pairs">')
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(folder / "pairs.png")
    return folder


def test_results_report_and_pictures_are_copied_and_nothing_else(tmp_path, results):
    target = publish(results, "digits", tmp_path / "docs" / "results")
    assert target == tmp_path / "docs" / "results" / "digits"
    assert {path.name for path in target.iterdir()} == {"results.json", "report.md", "pairs.png"}
    for name in ("results.json", "report.md"):
        assert (target / name).read_text() == (results / name).read_text()
    with Image.open(target / "pairs.png") as small, Image.open(results / "pairs.png") as picture:
        np.testing.assert_array_equal(small.convert("RGB"), picture)  # few colours: none is lost


def test_a_second_time_takes_the_place_of_the_first(tmp_path, results):
    publish(results, "digits", tmp_path)
    (results / "results.json").write_text("new")
    (tmp_path / "digits" / "not-shown.png").write_text("of an earlier report")
    assert (publish(results, "digits", tmp_path) / "results.json").read_text() == "new"
    assert not (tmp_path / "digits" / "not-shown.png").exists()


def test_a_file_too_large_to_keep_is_refused(tmp_path, results):
    (results / "results.json").write_bytes(bytes(MOST_BYTES))
    publish(results, "digits", tmp_path)
    (results / "results.json").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(ValueError, match=r"results\.json: larger than 2000000 bytes"):
        publish(results, "digits", tmp_path)


def test_results_cannot_be_published_onto_themselves(tmp_path, results):
    published = publish(results, "digits", tmp_path)
    with pytest.raises(ValueError, match="where it is published; give another folder"):
        publish(published, "digits", tmp_path)
    assert (published / "pairs.png").is_file()
