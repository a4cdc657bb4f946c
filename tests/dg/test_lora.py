"""LoRA: nothing changes at first, the update is the formula's, and it survives files and
merging."""

import copy

import pytest
import torch
from torch import nn

import edm
from dg.extractors import ClassifierExtractor, ScoreExtractor
from dg.fingerprints import base_state_dict, fingerprint
from dg.lora import add_lora, factor_shapes, load_lora, lora_state_dict, merge_lora, save_lora
from dg.runtime.randomness import seeded
from edm.checkpoint import write_safetensors
from guided_diffusion import create_classifier, load_encoder
from tests.golden_fill import fill

# the first target of the encoder below: 32 -> 32 channels, 3 x 3
FIRST = "input_blocks.1.0.in_layers.2"
# its residual blocks, and their channels in and out
BLOCKS = {
    "input_blocks.1.0": (32, 32),
    "input_blocks.2.0": (32, 32),
    "input_blocks.3.0": (32, 64),
    "middle_block.0": (64, 64),
    "middle_block.2": (64, 64),
}


@pytest.fixture(scope="module")
def pristine():
    """A small ADM classifier whose residual branches are open: 16 pixels, 5 residual blocks."""
    with seeded(0):
        encoder = create_classifier(
            image_size=16,
            classifier_width=32,
            classifier_depth=1,
            out_channels=5,
            classifier_attention_resolutions="8",
            classifier_pool="adaptive",
        )
        for parameter in encoder.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return encoder.eval()


@pytest.fixture
def encoder(pristine):
    return copy.deepcopy(pristine)


def output(encoder):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    return encoder(x, torch.tensor([0.2, 0.7]), feature=True)


def trained(encoder, rank=4, **kwargs):
    """The encoder with an update that is not zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in add_lora(encoder, rank, **kwargs):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


def loralib_file(path, rank=4, base=None):
    """Write what the reproduction writes: A [3 rank, 3 in], B [3 out, 3 rank] per block; with
    `base` its weights too."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for block, (fan_in, out) in BLOCKS.items():
        state[f"{block}.in_layers.2.lora_A"] = torch.randn(
            3 * rank, 3 * fan_in, generator=generator
        )
        state[f"{block}.in_layers.2.lora_B"] = torch.randn(3 * out, 3 * rank, generator=generator)
    weights = {
        key.replace("in_layers.2.", "in_layers.2.conv."): tensor
        for key, tensor in (base or {}).items()
    }
    torch.save(state | weights, path)
    return state


def test_at_first_nothing_changes(encoder):
    before = output(encoder)
    assert add_lora(encoder, 4)
    assert torch.equal(output(encoder), before)
    merge_lora(encoder)
    assert torch.equal(output(encoder), before)


def test_only_the_first_convolution_of_every_residual_block_learns(encoder):
    parameters = add_lora(encoder, 4)
    assert {id(p) for p in encoder.parameters() if p.requires_grad} == {id(p) for p in parameters}
    assert list(lora_state_dict(encoder)) == [
        f"{block}.in_layers.2.lora_{factor}" for block in BLOCKS for factor in "AB"
    ]
    assert all(
        torch.equal(p, t)
        for p, t in zip(parameters, lora_state_dict(encoder).values(), strict=True)
    )


@pytest.mark.parametrize("model_type", ["SongUNet", "DhariwalUNet"])
def test_the_encoder_of_a_score_network_is_adapted_in_a_copy(model_type, tmp_path):
    """Its features are the same at first; the network that denoises never changes."""
    small = dict(model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[])
    net = fill(edm.EDMPrecond(8, 1, model_type=model_type, **small))
    before, path = fingerprint(net), tmp_path / "lora.safetensors"
    extractor, arguments = ScoreExtractor(net), (torch.ones(2, 1, 8, 8), torch.tensor([0.2, 3.0]))
    frozen = extractor(*arguments)[0]
    adapted = extractor.own_network()
    parameters = add_lora(adapted, 2)
    assert torch.equal(extractor(*arguments)[0], frozen) and fingerprint(adapted) == before
    blocks = ("8x8_block0", "4x4_down", "4x4_block0")
    names = [f"model.enc.{block}.conv0.lora_{factor}" for block in blocks for factor in "AB"]
    assert list(lora_state_dict(adapted)) == names and len(parameters) == 6

    with torch.no_grad():
        parameters[1].fill_(0.1)
    learned = extractor(*arguments)[0]
    assert not torch.equal(learned, frozen) and not extractor.shares_encoder(net)
    assert torch.equal(ScoreExtractor(net)(*arguments)[0], frozen) and fingerprint(net) == before
    save_lora(path, extractor.frozen)
    merged = ScoreExtractor(net)
    load_lora(path, merged.own_network())
    merge_lora(merged.frozen)
    torch.testing.assert_close(merged(*arguments)[0], learned)
    assert merged.describe() != ScoreExtractor(net).describe()


def test_gradients_reach_both_factors_and_the_input(encoder):
    parameters = trained(encoder) and [p for p in encoder.parameters() if p.requires_grad]
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    encoder(x, torch.tensor(0.3), feature=True).square().mean().backward()
    assert len(parameters) == 10 and all(p.grad.abs().max() > 0 for p in (*parameters, x))


def test_the_first_values_depend_on_the_seed_alone(encoder, pristine):
    other, third = copy.deepcopy(pristine), copy.deepcopy(pristine)
    for module, seed in ((encoder, 0), (other, 0), (third, 1)):
        torch.rand(1)
        add_lora(module, 4, seed=seed)
    a, same, different = (
        lora_state_dict(module)[f"{FIRST}.lora_A"] for module in (encoder, other, third)
    )
    assert torch.equal(a, same) and not torch.equal(a, different)
    assert (
        0.9 * 96**-0.5 < a.abs().max() <= 96**-0.5
        and not lora_state_dict(encoder)[f"{FIRST}.lora_B"].any()
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv1d(4, 6, 3),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, (1, 3)),
        nn.Conv2d(4, 6, 3, groups=2),
    ],
)
@pytest.mark.parametrize(("rank", "alpha"), [(1, None), (2, 8.0)])
def test_the_update_is_the_scaled_product(layer, rank, alpha):
    module = nn.Sequential(copy.deepcopy(layer))
    trained(module, rank, alpha=alpha, targets="*")
    a, b = lora_state_dict(module).values()
    assert (tuple(a.shape), tuple(b.shape)) == factor_shapes(layer, rank)
    product = torch.tensor(
        [
            [sum(b[i, r] * a[r, j] for r in range(len(a))) for j in range(a.shape[1])]
            for i in range(len(b))
        ]
    )
    scale = (1.0 if alpha is None else alpha) / rank
    expected = layer.weight + scale * product.reshape(layer.weight.shape)
    assert torch.allclose(module[0].weight, expected, atol=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_merged_equals_unmerged_and_is_a_plain_encoder(encoder, pristine, tmp_path, mode):
    trained(encoder).train(mode)
    unmerged = output(encoder)
    assert (unmerged - output(pristine)).abs().max() > 1e-2
    merge_lora(encoder)
    assert (output(encoder) - unmerged).abs().max() <= 1e-6
    assert list(encoder.state_dict()) == list(pristine.state_dict())
    assert (
        not any(p.requires_grad for p in encoder.parameters())
        and type(encoder.get_submodule(FIRST)) is nn.Conv2d
    )
    torch.save(encoder.state_dict(), tmp_path / "merged.pt")
    assert torch.allclose(output(load_encoder(tmp_path / "merged.pt")), unmerged, atol=1e-6)
    assert add_lora(encoder, 2)  # a merged network takes the next update


def test_the_base_keeps_names_order_and_values(encoder, pristine):
    trained(encoder)
    base = base_state_dict(encoder)
    assert list(base) == list(pristine.state_dict()) == list(base_state_dict(pristine))
    assert all(torch.equal(base[name], tensor) for name, tensor in pristine.state_dict().items())


def test_round_trip(encoder, pristine, tmp_path):
    path, expected = tmp_path / "lora.safetensors", output(trained(encoder, alpha=3))
    save_lora(path, encoder, {"epoch": 7})
    fresh = copy.deepcopy(pristine)
    config = load_lora(path, fresh)
    assert torch.equal(output(fresh), expected)
    assert config == {
        "rank": 4,
        "alpha": 3.0,
        "fingerprint": fingerprint(pristine),
        "training": {"epoch": 7},
    }
    assert len([p for p in fresh.parameters() if p.requires_grad]) == 10  # training can go on
    merge_lora(fresh)
    assert (output(ClassifierExtractor(fresh).encoder) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_reproductions_files(encoder, pristine, tmp_path, with_base, prefix):
    path = tmp_path / "lora_adm_final4.pt"
    loralib_file(path, base=pristine.state_dict() if with_base else None)
    state = torch.load(path)
    torch.save({prefix + key: tensor for key, tensor in state.items()}, path)
    assert load_lora(path, encoder) == {
        "rank": 4,
        "alpha": 1.0,
        "fingerprint": None,
        "training": {},
    }
    merge_lora(encoder)
    for block in BLOCKS:
        name = f"{block}.in_layers.2"
        weight = pristine.get_submodule(name).weight
        update = state[f"{name}.lora_B"] @ state[f"{name}.lora_A"] / 4
        assert torch.allclose(
            encoder.get_submodule(name).weight, weight + update.reshape(weight.shape), atol=1e-5
        )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(rank=0), "rank is 0"),
        (dict(rank=33), rf"more than layer {FIRST} can use; use at most 32"),
        (dict(rank=2, alpha=0), "alpha 0"),
        (dict(rank=2, targets="nothing.*"), "match no convolution"),
        (dict(rank=2, targets="*.in_layers.0"), "match no convolution"),  # a normalisation
    ],
)
def test_impossible_settings(encoder, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        add_lora(encoder, **kwargs)
    assert "\n" not in str(error.value) and not lora_state_dict(encoder)


def test_one_update_at_a_time(encoder, tmp_path):
    with pytest.raises(ValueError, match="no low-rank update"):
        save_lora(tmp_path / "none.safetensors", encoder)
    add_lora(encoder, 2)
    with pytest.raises(ValueError, match="already has"):
        add_lora(encoder, 2)


def edited(change):
    """A writer of the reproduction's file with a change to its tensors."""

    def write(path, pristine):
        state = loralib_file(path)
        change(state)
        torch.save(state, path)

    return write


def with_merged_weights(path, pristine):
    base = dict(pristine.state_dict())
    base[f"{FIRST}.weight"] = base[f"{FIRST}.weight"] + 1
    loralib_file(path, base=base)


def of_another_network(path, pristine):
    other = trained(copy.deepcopy(pristine))
    other.out[0].bias.add_(1)
    save_lora(path, other)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, _: None, "no such LoRA file"),
        (lambda path, _: path.write_bytes(b"nothing"), "not a PyTorch file|damaged"),
        (lambda path, _: torch.save([1, 2], path), "holds a list"),
        (lambda path, net: torch.save(net.state_dict(), path), "no tensor named lora_A"),
        (
            lambda path, _: write_safetensors(path, {"a": torch.ones(1)}, "discriminator-head", {}),
            "is no lora",
        ),
        (edited(lambda state: state.pop(f"{FIRST}.lora_A")), f"tensor {FIRST}.lora_A is missing"),
        (edited(lambda state: state.pop(f"{FIRST}.lora_B")), f"tensor {FIRST}.lora_B is missing"),
        (
            edited(lambda state: state.update({f"{FIRST}.lora_B": torch.ones(96, 9)})),
            rf"{FIRST}.lora_B has shape \(96, 9\)",
        ),
        (
            edited(lambda state: state.update({f"{FIRST}.lora_A": torch.tensor(1.0)})),
            rf"{FIRST}.lora_A has shape \(\)",
        ),
        (
            edited(lambda state: state[f"{FIRST}.lora_A"].fill_(torch.nan)),
            f"{FIRST}.lora_A' has NaN",
        ),
        (
            edited(
                lambda state: state.update(
                    {"input_blocks.1.0.lora_conv.lora_A": torch.ones(12, 96)}
                )
            ),
            "input_blocks.1.0.lora_conv.lora_A belongs to a layer",
        ),
        (
            edited(lambda state: state.update({"stray": torch.ones(1)})),
            "tensor stray is not the network's own",
        ),
        (with_merged_weights, f"tensor {FIRST}.conv.weight is not the network's own"),
        (of_another_network, "trained on another network"),
    ],
)
def test_wrong_files_are_refused_in_one_line(encoder, pristine, tmp_path, write, message):
    path = tmp_path / "file.pt"
    write(path, pristine)
    with pytest.raises(ValueError, match=message) as error:
        load_lora(path, encoder)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert torch.equal(output(encoder), output(pristine)) and not lora_state_dict(encoder)
