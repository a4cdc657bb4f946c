"""Checkpoints of score_sde, against denoised images of its own code and of Soft Truncation's."""

import numpy as np
import pytest
import torch

import edm
from edm.precond import PRECONDITIONERS
from edm.score_sde import is_score_sde, network_in
from tests import golden_fill

GOLDEN, CONFIG = golden_fill.load("score_sde")
CASES, FULL = CONFIG["cases"], CONFIG["full"]
AMBIGUOUS = "vp_ncsnpp"  # its file tells VP from discrete VE no more than that of ve/cifar10_ncsnpp


def state_of(case, salt=""):
    """The state dict of a case: weights by formula, noise levels as it had them."""
    ends = np.log(GOLDEN[f"{case}.sigmas"])
    sigmas = torch.from_numpy(np.exp(np.linspace(*ends, 1000)))
    return {
        name: sigmas
        if name == "sigmas"
        else torch.from_numpy(golden_fill.weight(name, tuple(shape), salt))
        for name, shape in CASES[case]["layout"]
    }


def checkpoint_of(case):
    """As its training saves it: weights of a DataParallel, and averages in a list."""
    averages = [
        tensor
        for name, tensor in state_of(case).items()
        if name != "sigmas" and not (name == "all_modules.0.W" and case.startswith("ve"))
    ]
    model = {f"module.{name}": tensor for name, tensor in state_of(case, "raw").items()}
    frequencies = "all_modules.0.W"
    if frequencies in state_of(case):
        model[f"module.{frequencies}"] = state_of(case)[frequencies]
    ema = dict(decay=0.999, num_updates=3, shadow_params=averages)
    return dict(optimizer=dict(state={}, param_groups=[]), model=model, ema=ema, step=3)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def denoised(net, case):
    x = torch.from_numpy(GOLDEN[f"{case}.x"])
    with torch.no_grad():
        return net(x, torch.from_numpy(GOLDEN[f"{case}.sigma"])).numpy()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_averages_of_a_checkpoint_denoise_as_the_original(case, zipped, tmp_path):
    lines, path = [], tmp_path / "checkpoint_8.pth"
    torch.save(checkpoint_of(case), path, _use_new_zipfile_serialization=zipped)
    net = edm.load_network(path, notify=lines.append)
    expected = GOLDEN[f"{case}.denoised"]
    np.testing.assert_allclose(denoised(net, case), expected, atol=5e-5 * abs(expected).max())
    levels = "VE, values 0 to 1 (in EDM's scale sigma is 0.02 to "
    process = "VP, beta 0.1 to 20 (" if case.startswith("vp") else levels
    start = f"{path}: of score_sde; assumed, since the file does not say it: {process}"
    assert len(lines) == 1 and lines[0].startswith(start)
    assert lines[0].endswith(f"images of {CASES[case]['image_size']} pixels")
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_state_dict_alone(case, tmp_path):
    torch.save(state_of(case), tmp_path / "weights.pth")
    lines = []
    found = denoised(edm.load_network(tmp_path / "weights.pth", notify=lines.append), case)
    assert lines[0].endswith("; its weights are not averaged")
    expected = GOLDEN[f"{case}.denoised"]
    np.testing.assert_allclose(found, expected, atol=5e-5 * abs(expected).max())


def test_what_is_saved_again_is_the_same_network(case, tmp_path):
    torch.save(checkpoint_of(case), tmp_path / "checkpoint.pth")
    net = edm.load_network(tmp_path / "checkpoint.pth")
    edm.save_network(tmp_path / "network.safetensors", net)
    again = edm.load_network(tmp_path / "network.safetensors")
    assert (denoised(again, case) == denoised(net, case)).all()
    assert (again.sigma_min, again.sigma_max) == (net.sigma_min, net.sigma_max)


def layout_of(name):
    """A published network without the content of its tensors."""
    state = {key: torch.empty(shape, device="meta") for key, shape in FULL[name]["layout"]}
    return state | {"sigmas": torch.tensor(FULL[name]["sigmas"])}


@pytest.mark.parametrize("name", sorted(set(FULL) - {AMBIGUOUS}))
def test_published_sizes_fit_the_networks_of_edm(name):
    """Names and shapes of every tensor, without the tensors."""
    published, (kind, settings, tensors, _) = FULL[name], network_in(layout_of(name))
    with torch.device("meta"):
        net = PRECONDITIONERS[kind](**settings)
    expected = {key: tensor.shape for key, tensor in net.state_dict().items()}
    assert {key: tensor.shape for key, tensor in tensors.items()} == expected
    assert sum(weight.numel() for weight in net.parameters()) == published["parameters"]
    assert net.img_resolution == published["image_size"]


def test_a_network_whose_process_is_not_told_is_refused():
    with pytest.raises(ValueError, match="does not tell whether it was trained as VP or as disc"):
        network_in(layout_of(AMBIGUOUS))


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


def test_another_architecture_is_refused():
    state = state_of("vp_ddpmpp")
    with pytest.raises(ValueError, match="has no residual blocks as BigGAN's, unlike DDPM"):
        network_in(without(state, "all_modules.2."))
    with pytest.raises(ValueError, match=r"module 3 lacks Dense_0\.bias, unlike"):
        network_in(without(state, "Dense_0"))
    with pytest.raises(ValueError, match=r"has residual blocks of DDPM, unlike"):
        network_in({name.replace("Conv_2.weight", "NIN_0.W"): one for name, one in state.items()})
    with pytest.raises(ValueError, match="tensor extra is unknown"):
        network_in(state | {"extra": torch.zeros(1)})
    kinds = ("weight", "bias")
    more = max(int(name.split(".")[1]) for name in state if name != "sigmas") + 1
    with pytest.raises(ValueError, match=f"has a module {more}, unlike DDPM"):
        last = {
            f"all_modules.{more}.{kind}": state[f"all_modules.{more - 1}.{kind}"] for kind in kinds
        }
        network_in(state | last)
    first = state["all_modules.2.weight"]
    wide = state | {"all_modules.2.weight": torch.zeros(first.shape[0], 15, 3, 3)}
    with pytest.raises(ValueError, match="takes 15 channels and gives 3: Fourier features"):
        network_in(wide)


def test_averages_that_do_not_fit_are_refused():
    checkpoint = checkpoint_of("ve_ncsnpp")
    checkpoint["ema"]["shadow_params"].pop()
    with pytest.raises(ValueError, match=r"has \d+ averages for \d+ trained weights"):
        network_in(checkpoint)
    for ema in ({"shadow_params": 3}, {"state_dict": {}}, 3):
        with pytest.raises(ValueError, match="has no list of averages for 216 trained weights"):
            network_in(checkpoint | {"ema": ema})
    checkpoint = checkpoint_of("ve_ncsnpp")
    checkpoint["ema"]["shadow_params"][0] = 3
    with pytest.raises(ValueError, match=r"entry all_modules\.1\.weight is a int, not a tensor"):
        network_in(checkpoint)
    with pytest.raises(ValueError, match="entry all_modules is a int, not a tensor"):
        network_in({"all_modules": 3})


@pytest.mark.parametrize("ends", [(0.0, 1.0), (float("nan"), 1.0), (1.0, float("inf")), (1.0, 1.0)])
def test_noise_levels_that_cannot_be_are_refused(ends):
    with pytest.raises(ValueError, match=r"has no noise levels \(sigmas\); get another file"):
        network_in(without(state_of("ve_ncsnpp"), "sigmas"))
    with pytest.raises(ValueError, match=r"its noise levels are .* to .*; get another file"):
        network_in(state_of("ve_ncsnpp") | {"sigmas": torch.tensor(ends)})


def test_the_size_of_the_images_is_asked_for_where_attention_does_not_tell_it():
    state = {name: tensor for name, tensor in state_of("vp_ddpmpp").items() if "NIN" not in name}
    with pytest.raises(ValueError, match="do not tell the size of its images; give image_size"):
        network_in(state)


def test_a_given_size_moves_the_attention():
    _, settings, _, assumed = network_in(state_of("vp_ddpmpp"), image_size=64)
    assert settings["img_resolution"] == 64 and settings["attn_resolutions"] == [32]
    assert "images of 64 pixels" in assumed


def test_a_size_is_not_taken_for_a_file_that_holds_it(tmp_path):
    torch.save(state_of("vp_ddpmpp"), tmp_path / "weights.pth")
    net = edm.load_network(tmp_path / "weights.pth", image_size=64)
    assert net.img_resolution == 64
    edm.save_network(tmp_path / "network.safetensors", net)
    with pytest.raises(ValueError, match="holds the size of its images itself; leave image_size"):
        edm.load_network(tmp_path / "network.safetensors", image_size=64)


def test_what_is_no_checkpoint_of_score_sde():
    assert is_score_sde({"state_dict": state_of("vp_ddpmpp")})
    for content in ([1], {}, {"model": 3}, {"weight": torch.zeros(1)}, None):
        assert not is_score_sde(content)
