"""Merged networks: exact arithmetic, identities, what the file tells, and what is refused."""

import json

import pytest
import torch

import edm
from dg.guidance import Autoguidance
from dg.models.merging import merge, merged
from edm.fingerprints import fingerprint
from tensor_files.safetensors_files import read_header
from tests.dg.test_sampling import network
from tests.scripts import run, succeed


@pytest.fixture
def files(tmp_path):
    """Two networks of one shape, and one of another."""
    made = {"a": network(), "b": network(salt="b:"), "wide": network(label_dim=0)}
    for name, net in made.items():
        edm.save_network(tmp_path / f"{name}.safetensors", net)
    paths = {name: tmp_path / f"{name}.safetensors" for name in made}
    return paths | {"out": tmp_path / "out.safetensors", "tmp": tmp_path}


def weights(path):
    return edm.load_network(path).state_dict()


def test_weights_are_a_plus_w_times_the_difference(files):
    assert merge(files["a"], files["b"], 0.5, files["out"]) == sum(
        tensor.numel() for tensor in weights(files["a"]).values()
    )
    a, b, found = (weights(files[name]) for name in ("a", "b", "out"))
    assert list(found) == list(a)
    for name, tensor in found.items():
        expected = 1.5 * a[name].double() - 0.5 * b[name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("first", "second", "weight", "result"),
    [("a", "a", 0.7, "a"), ("a", "b", 0.0, "a"), ("a", "b", -1.0, "b")],
)
def test_identities_are_exact(files, first, second, weight, result):
    merge(files[first], files[second], weight, files["out"])
    found, expected = weights(files["out"]), weights(files[result])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_merged_linear_denoisers_guide_away_from_the_second():
    """Of denoisers that are linear in their weights, D_merged = (1 + w) D_A - w D_B: autoguidance
    of the scale 1 + w, and of N(0, s^2) the shrinkage s^2 / (s^2 + sigma^2)."""

    class Shrinking(torch.nn.Module):
        def __init__(self, variance, sigma=2.0):
            super().__init__()
            factor = torch.full([1], variance / (variance + sigma**2), dtype=torch.float64)
            self.factor = torch.nn.Parameter(factor, requires_grad=False)

        def forward(self, x, sigma, class_labels=None):
            return self.factor * x

    x, w = torch.linspace(-3, 3, 7, dtype=torch.float64).reshape(7, 1, 1, 1), 0.4
    a, b, both = Shrinking(0.25), Shrinking(0.36), Shrinking(1.0)
    both.load_state_dict(merged(a.state_dict(), b.state_dict(), w))
    guided = Autoguidance(b, 1 + w).denoise(a, x, 2.0, None, 0, 1)
    torch.testing.assert_close(both(x, 2.0), guided, rtol=1e-12, atol=0)
    factor = 1.4 * 0.25 / 4.25 - 0.4 * 0.36 / 4.36
    torch.testing.assert_close(both(x, 2.0), factor * x, rtol=1e-12, atol=0)


def test_the_file_tells_where_it_comes_from(files):
    merge(files["a"], files["b"], 0.5, files["out"])
    told = json.loads(read_header(files["out"])["__metadata__"]["config"])["merged"]
    prints = [fingerprint(edm.load_network(files[name])) for name in ("a", "b")]
    assert told == {"first": prints[0], "second": prints[1], "weight": 0.5}


def test_a_network_without_a_shape_or_range_in_common_is_refused(files):
    with pytest.raises(ValueError, match=r"wide.safetensors: label_dim is 0, but 3 in .*a.safe"):
        merge(files["a"], files["wide"], 0.5, files["out"])
    with pytest.raises(ValueError, match=r"is not finite with the weight 1e\+300"):
        merge(files["a"], files["b"], 1e300, files["out"])
    assert not files["out"].exists()


def test_the_command_merges_and_names_the_next(files, tmp_path):
    done = succeed("pretrain merge {a} {b} --weight 0.5 --out {tmp}/m.safetensors", **files)
    assert "45,793 weights" in done.err and "generate.py" in "".join(done.following)
    merge(files["a"], files["b"], 0.5, files["out"])
    assert (tmp_path / "m.safetensors").read_bytes() == files["out"].read_bytes()
    failed = run("pretrain merge {a} {wide} --weight 0.5 --out {tmp}/n.safetensors", **files)
    assert failed.code == 2 and len(failed.lines) == 1 and "label_dim" in failed.err
    assert not (tmp_path / "n.safetensors").exists()
