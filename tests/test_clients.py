"""Programs of others run on what this project makes, where they are installed: pip install -e
.[clients]"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import dg
from benchmarks.random_weights import write_random_weights
from dg.adapters import ONE_STAGE, TWO_STAGES
from dg.data.conversion import convert
from dg.data.crops import transform_of
from dg.data.image_stream import stream_of
from dg.data.images import ImageSet
from dg.evaluation import frechet_distance, statistics
from dg.evaluation.feature_sets import load_features
from tests.dg.test_adapters import Orders
from tests.dg.test_guidance import DATA, MODEL, guidance, latents
from tests.scripts import succeed

SIGMAS = torch.cat(
    [torch.logspace(1, -2, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
)


@pytest.fixture(scope="module")
def k_diffusion():
    return pytest.importorskip("k_diffusion")


def sampled(k_diffusion, name, model):
    sampler, x = getattr(k_diffusion.sampling, name), latents() * SIGMAS[0]
    torch.manual_seed(0)
    if name in ("sample_dpm_fast", "sample_dpm_adaptive"):
        steps = {"n": 8} if name == "sample_dpm_fast" else {}
        return sampler(model, x, float(SIGMAS[-2]), float(SIGMAS[0]), disable=True, **steps)
    return sampler(model, x, SIGMAS, disable=True)


NAMES = (*ONE_STAGE, *TWO_STAGES, "sample_dpm_fast", "sample_dpm_adaptive")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_exact_ratio_in_every_sampler_is_the_true_model(k_diffusion, name):
    guided = sampled(k_diffusion, name, dg.GuidedDenoiser(MODEL, guidance((1, 1)), sampler=name))
    assert (guided - sampled(k_diffusion, name, DATA)).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ONE_STAGE, *TWO_STAGES])
def test_stages_are_those_of_the_samplers(k_diffusion, name):
    asked = Orders()
    sampled(k_diffusion, name, dg.GuidedDenoiser(MODEL, asked, sampler=name))
    assert asked._asked == ([1, 2] * 7 + [1] if name in TWO_STAGES else [1] * 8)


@pytest.mark.slow
def test_every_sampler_is_known(k_diffusion):
    names = {name for name in dir(k_diffusion.sampling) if name.startswith("sample_")}
    assert names == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["pytorch_fid", "cleanfid"])
def test_distances_and_statistics_of_others(package, tmp_path):
    module = "pytorch_fid.fid_score" if package == "pytorch_fid" else "cleanfid.fid"
    theirs = pytest.importorskip(module)
    distance = getattr(theirs, "calculate_frechet_distance", None) or theirs.frechet_distance
    features = np.random.default_rng(0).normal(size=[2, 200, 8])
    ours = [statistics(part) for part in features]
    expected = float(distance(*ours[0], *ours[1]))
    assert frechet_distance(*ours[0], *ours[1]) == pytest.approx(expected, rel=1e-6)
    np.savez(tmp_path / "stats.npz", mu=ours[1][0], sigma=ours[1][1])
    read = load_features(tmp_path / "stats.npz")
    assert frechet_distance(*ours[0], read.mu, read.sigma) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_data_set_is_read_by_others(tmp_path):
    """clean-fid decodes and resizes what is in the zip."""
    utils = pytest.importorskip("cleanfid.utils")
    images = np.random.default_rng(0).integers(0, 256, [3, 16, 16, 3], dtype=np.uint8)
    convert(stream_of(ImageSet(images)), tmp_path / "a.zip", transform_of(None, None))
    names = [f"00000/img0000000{i}.png" for i in range(3)]
    theirs = utils.ResizeDataset(names, "clean", fdir=str(tmp_path / "a.zip"))
    for found, image in zip(theirs, images, strict=True):
        assert np.array_equal(found.permute(1, 2, 0).numpy(), theirs.fn_resize(image))


@pytest.mark.slow
def test_torch_fidelitys_program_measures_the_same(tmp_path):
    """On two folders of PNGs, by an Inception whose random weights (He's scale) keep a signal."""
    write_random_weights(tmp_path / "small.pth")
    state = torch.load(tmp_path / "small.pth", weights_only=True)
    torch.save({k: v * 6**0.5 if v.ndim == 4 else v for k, v in state.items()}, tmp_path / "he.pth")
    noise = np.random.default_rng(0).integers(0, 256, [40, 32, 32, 3], dtype=np.uint8)
    for name, images in {"a": noise[:20] // 3, "b": noise[20:]}.items():
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number:02d}.png")
    theirs = subprocess.run(
        f"{sys.executable} -m torch_fidelity.fidelity --cpu --silent --json --no-cache --fid --kid "
        "--isc --kid-subset-size 20 --kid-subsets 1 --isc-splits 1 --input1 a --input2 b "
        "--feature-extractor-weights-path he.pth".split(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    expected = json.loads(theirs.stdout)
    done = succeed(
        "fid --images {tmp}/a --ref {tmp}/b --weights {tmp}/he.pth --unpublished_weights --json "
        "--metrics fd,kid,is",
        tmp=tmp_path,
    )
    found = json.loads(done.out)["images"][str(tmp_path / "a")]["metrics"]
    names = {
        "fd": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "is": "inception_score_mean",
    }
    assert expected[names["fd"]] > 1
    for name, theirs in names.items():
        assert found[name]["value"] == pytest.approx(expected[theirs], rel=1e-4), name
