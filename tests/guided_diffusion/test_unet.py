"""The U-Net against outputs of the original and against EDM's reimplementation of it, and the
published sizes."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import edm
from edm.layers import UNetBlock
from guided_diffusion import UNetModel, create_diffusion, create_unet, training_losses
from guided_diffusion.layers import AttentionBlock, ResBlock
from guided_diffusion.presets import UNET_SCHEDULES, UNETS
from guided_diffusion.unet import UpBlock
from tests.golden_fill import fill, load

SMALL = dict(
    image_size=8,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention_resolutions=(4,),
    num_head_channels=32,
)
# Millions, Dhariwal & Nichol 2021, tables of hyper-parameters: 296, 422, 554 and 559.
PARAMETERS = {
    "64x64_diffusion": 295_904_454,
    "128x128_diffusion": 421_529_606,
    "256x256_diffusion": 553_838_086,
    "256x256_diffusion_uncond": 552_814_086,
    "512x512_diffusion": 558_997_638,
}


def small(**kwargs):
    return fill(UNetModel(**SMALL | kwargs)).eval().requires_grad_(False)


def inputs(n=3, size=8, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, size, size, generator=generator), torch.tensor(
        [0.0, 250.25, 999.0]
    )[:n]


REFERENCE, CONFIG = load("adm_unet")


@pytest.mark.parametrize("variant", CONFIG["variants"])
def test_reference_vectors(variant):
    settings = CONFIG["base"] | CONFIG["variants"][variant]
    net, size = fill(UNetModel(**settings), CONFIG["salt"]).eval(), settings["image_size"]
    x, t, y = (torch.from_numpy(REFERENCE[name]) for name in ("x", "t", "y"))
    with torch.no_grad():
        found = net(x[..., :size, :size], t, y if net.num_classes else None).numpy()
    expected = REFERENCE[variant]
    assert (
        found.shape == expected.shape and abs(found - expected).max() < 1e-5 * abs(expected).max()
    )


@pytest.mark.parametrize("new_order", [False, True])
def test_equals_the_adm_network_of_edm(new_order):
    """The two differ in names, in where the class enters, and in the order of the rows of queries,
    keys and values."""
    width, classes = 128, 10
    theirs = fill(
        edm.DhariwalUNet(
            16,
            3,
            6,
            label_dim=classes,
            model_channels=width,
            channel_mult=[1, 2],
            num_blocks=1,
            attn_resolutions=[8],
            dropout=0,
        )
    ).eval()
    ours = UNetModel(
        image_size=16,
        model_channels=width,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(8,),
        num_classes=classes,
        use_new_attention_order=new_order,
    ).eval()

    def copy(target, source):
        for name in ("weight", "bias"):
            getattr(target, name).data.copy_(
                getattr(source, name).reshape(getattr(target, name).shape)
            )

    for target, source in (
        (ours.time_embed[0], theirs.map_layer0),
        (ours.time_embed[2], theirs.map_layer1),
        (ours.input_blocks[0][0], theirs.enc["16x16_conv"]),
        (ours.out[0], theirs.out_norm),
        (ours.out[2], theirs.out_conv),
    ):
        copy(target, source)
    ours.label_emb.weight.data.copy_(theirs.map_label.weight.T)
    residuals = [module for module in ours.modules() if isinstance(module, ResBlock)]
    attentions = [module for module in ours.modules() if isinstance(module, AttentionBlock)]
    blocks = [
        block
        for block in [*theirs.enc.values(), *theirs.dec.values()]
        if isinstance(block, UNetBlock)
    ]
    assert (
        len(residuals) == len(blocks)
        and len(attentions) == sum(block.num_heads > 0 for block in blocks) == 4
    )
    for target, source in zip(residuals, blocks, strict=True):
        for layer, name in (
            (target.in_layers[0], "norm0"),
            (target.in_layers[2], "conv0"),
            (target.emb_layers[1], "affine"),
            (target.out_layers[0], "norm1"),
            (target.out_layers[3], "conv1"),
        ):
            copy(layer, getattr(source, name))
        if not isinstance(target.skip_connection, torch.nn.Identity):
            copy(target.skip_connection, source.skip)
    for target, source in zip(
        attentions, [block for block in blocks if block.num_heads], strict=True
    ):
        copy(target.norm, source.norm2)
        copy(target.proj_out, source.proj)
        # their rows run through heads, channels of a head, then q, k, v
        for name in (
            "weight",
            "bias",
        ):
            rows = getattr(source.qkv, name).reshape(
                source.num_heads, -1, 3, *getattr(source.qkv, name).shape[1:]
            )
            rows = rows.movedim(2, 0 if new_order else 1)
            getattr(target.qkv, name).data.copy_(rows.reshape(getattr(target.qkv, name).shape))

    x, t = inputs(size=16)
    y = torch.tensor([3, 0, 9])
    with torch.no_grad():
        found, expected = ours(x, t, y), theirs(x, t, torch.eye(classes)[y])
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", UNETS)
def test_published_networks(name):
    sizes, heads = set(), set()
    with FakeTensorMode():  # shapes only, no memory and no arithmetic
        net = create_unet(name)
        for module in net.modules():
            if isinstance(module, AttentionBlock):
                module.register_forward_hook(
                    lambda module, inputs, output: sizes.add(output.shape[-1])
                )
                heads.add((module.norm.num_channels, module.heads))
        y = None if name.endswith("uncond") else torch.zeros(2, dtype=torch.int64)
        x = torch.zeros(2, 3, net.image_size, net.image_size)
        assert net(x, torch.zeros(2), y).shape == (2, 6, net.image_size, net.image_size)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    assert sizes == {32, 16, 8}
    assert all(count == (4 if name.startswith("128") else width // 64) for width, count in heads)
    assert UNET_SCHEDULES[name] == ("cosine" if name.startswith("64") else "linear")


def test_names_of_a_checkpoint():
    names = list(create_small().state_dict())
    stems = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    residual = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
    attention = ["norm", "qkv", "proj_out"]

    def block(prefix, layers, skip=False):
        return [f"{prefix}.{layer}" for layer in layers] + [f"{prefix}.skip_connection"] * skip

    assert stems == [
        "time_embed.0",
        "time_embed.2",
        "label_emb",
        "input_blocks.0.0",
        *block("input_blocks.1.0", residual),
        *block("input_blocks.2.0", residual),
        *block("input_blocks.3.0", residual, skip=True),
        *block("input_blocks.3.1", attention),
        *block("middle_block.0", residual),
        *block("middle_block.1", attention),
        *block("middle_block.2", residual),
        *block("output_blocks.0.0", residual, skip=True),
        *block("output_blocks.0.1", attention),
        *block("output_blocks.1.0", residual, skip=True),
        *block("output_blocks.1.1", attention),
        *block("output_blocks.1.2", residual),
        *block("output_blocks.2.0", residual, skip=True),
        *block("output_blocks.3.0", residual, skip=True),
        "out.0",
        "out.2",
    ]
    shapes = {name: list(tensor.shape) for name, tensor in create_small().state_dict().items()}
    assert shapes["output_blocks.1.1.qkv.weight"] == [192, 64, 1] and shapes[
        "label_emb.weight"
    ] == [5, 128]
    strided = list(UNetModel(**SMALL, resblock_updown=False).state_dict())
    assert {"input_blocks.2.0.op.weight", "output_blocks.1.2.conv.weight"} < set(strided)


def create_small():
    return UNetModel(**SMALL, num_classes=5)


def test_weights_are_loaded_strictly():
    one, other = fill(create_small()).eval(), create_small().eval()
    other.load_state_dict(one.state_dict())
    x, t = inputs()
    y = torch.tensor([0, 1, 4])
    assert torch.equal(one(x, t, y), other(x, t, y))
    for state in ({"more": torch.zeros(1), **one.state_dict()}, UNetModel(**SMALL).state_dict()):
        with pytest.raises(RuntimeError, match="state_dict"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(resblock_updown=False),
        dict(use_scale_shift_norm=False),
        dict(num_heads=2),
        dict(use_new_attention_order=True),
        dict(num_classes=5),
    ],
)
def test_samples_stand_alone_and_carry_gradients(kwargs):
    net, (x, t) = small(**kwargs), inputs()
    y = torch.tensor([4, 0, 2]) if net.num_classes else None
    leaf = x.clone().requires_grad_()
    out = net(leaf, t, y)
    assert out.shape == (3, 6, 8, 8) and out.dtype == torch.float32
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()
    for i in range(3):
        alone = net(x[i : i + 1], t[i], None if y is None else y[i : i + 1])
        torch.testing.assert_close(alone, out[i : i + 1].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x.double(), t.double(), y), out.detach())


def test_time_and_class_count():
    net, (x, _) = small(num_classes=5), inputs(1)
    y = torch.tensor([1])
    same = net(x, torch.tensor([250]), y)
    assert torch.equal(net(x, torch.tensor([250.0]), y), same)
    assert not torch.equal(net(x, torch.tensor([250.5]), y), same) and not torch.equal(
        net(x, torch.tensor([250]), y + 1), same
    )


def test_an_untrained_network_predicts_nothing():
    assert (UNetModel(**SMALL)(*inputs()) == 0).all()


def test_up_blocks_repeat_pixels():
    # its residual branch starts at zero
    block = UpBlock(32, 32, 8, use_scale_shift_norm=True, dropout=0.0)
    x = torch.randn(1, 32, 2, 2)
    assert torch.equal(
        block(x, torch.zeros(1, 8)), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    )


def test_trains_and_samples_with_a_diffusion():
    """Every parameter learns from the hybrid loss; autocast leaves the output float32."""
    net, diffusion = fill(create_small()), create_diffusion("cosine", 1000, "5")
    x, _ = inputs()
    y = {"y": torch.tensor([0, 1, 4])}
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    loss = training_losses(
        diffusion, net, x.clamp(-1, 1), torch.tensor([0, 2, 4]), noise, y
    ).loss.mean()
    loss.backward()
    assert math.isfinite(loss.item()) and all((p.grad != 0).any() for p in net.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        samples = diffusion.p_sample_loop(net, noise, randn_like=torch.zeros_like, model_kwargs=y)
    assert samples.dtype == torch.float32 and samples.isfinite().all()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: small()(torch.zeros(1, 3, 16, 16), torch.zeros(1)),
            r"\[1, 3, 16, 16\]; give \[N, 3, 8, 8\]",
        ),
        (lambda: small()(torch.zeros(1, 1, 8, 8), torch.zeros(1)), "images have the shape"),
        (lambda: small(num_classes=5)(*inputs(1)), "has 5 classes"),
        (lambda: small()(*inputs(1), torch.tensor([0])), "has 0 classes"),
        (lambda: small(num_head_channels=48), "do not divide into attention heads of 48"),
        (lambda: small(channel_mult=(1, 1.5)), "multiples of 32"),
        (lambda: create_unet("32x32_diffusion"), "use one of 64x64_diffusion, "),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
