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
    ):
        (folder / name).write_text(name)
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(folder / "pairs.png")
    return folder


def test_results_report_and_pictures_are_copied_and_nothing_else(tmp_path, results):
    target = publish(results, "digits", tmp_path / "docs" / "results")
    assert target == tmp_path / "docs" / "results" / "digits"
    assert {path.name for path in target.iterdir()} == {"results.json", "report.md", "pairs.png"}
    assert all((target / name).read_text() == name for name in ("results.json", "report.md"))
    with Image.open(target / "pairs.png") as small, Image.open(results / "pairs.png") as picture:
        np.testing.assert_array_equal(small.convert("RGB"), picture)  # few colours: none is lost


def test_a_second_time_takes_the_place_of_the_first(tmp_path, results):
    publish(results, "digits", tmp_path)
    (results / "results.json").write_text("new")
    assert (publish(results, "digits", tmp_path) / "results.json").read_text() == "new"


def test_a_file_too_large_to_keep_is_refused(tmp_path, results):
    (results / "report.md").write_bytes(bytes(MOST_BYTES))
    publish(results, "digits", tmp_path)
    (results / "report.md").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(ValueError, match=r"report\.md: larger than 2000000 bytes"):
        publish(results, "digits", tmp_path)
