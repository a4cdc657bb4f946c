"""The files of pretrained/ by their names."""

import hashlib

import pytest

from dg.runtime import pretrained
from dg.runtime.downloads import resolve


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    lines = []
    for name in ("a", "a-disc", "a-noisy-classifier", "b-disc"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        lines.append(f"{digest}  {name}.safetensors\n")
    (tmp_path / pretrained.HASHES).write_text("".join(lines))
    return tmp_path


def test_a_name_is_its_file(folder):
    assert resolve("a") == resolve("a.safetensors") == folder / "a.safetensors"
    assert pretrained.pretrained_file("c") is None


def test_a_near_name_is_suggested(folder):
    with pytest.raises(ValueError, match="did you mean a-disc"):
        resolve("a-dics")


def test_a_changed_or_missing_file_is_refused(folder):
    (folder / "a.safetensors").write_bytes(b"b")
    with pytest.raises(ValueError, match="has changed; bring it back with `git checkout"):
        resolve("a")
    (folder / "a.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing"):
        resolve("a")


def test_a_head_finds_the_classifier_of_its_images(folder):
    assert pretrained.classifier_of(["a-disc"]) == "a-noisy-classifier"
    assert pretrained.classifier_of(["a-disc", "a-disc"]) == "a-noisy-classifier"
    for heads in (["a-disc", "b-disc"], ["a"], ["elsewhere/a-disc"]):
        assert pretrained.classifier_of(heads) is None


def test_without_the_folder_there_are_no_names(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "nowhere")
    assert pretrained.pretrained_names() == {} and pretrained.pretrained_file("a") is None
