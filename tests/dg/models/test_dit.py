"""DiT and its autoencoder from files: against reference vectors of the original code, and what is
refused."""

import argparse
import copy
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dg.fingerprints import fingerprint
from dg.models import autoencoder
from dg.models.autoencoder import STABLE_DIFFUSION, decode, load_vae
from dg.models.classifier_free_guidance import ClassifierFreeGuidance
from dg.models.diffusers_models import create
from dg.models.dit import LatentDiffusion, load_dit
from tests import golden_fill
from tests.tiny_dit import original_state, tiny_transformer
from tests.tiny_vae import tiny_vae

pytest.importorskip("diffusers")

pytestmark = pytest.mark.diffusers


@pytest.fixture
def original(tmp_path):
    torch.save(original_state(), tmp_path / "dit.pt")
    return tmp_path / "dit.pt"


def inputs():
    arrays, _ = golden_fill.load("dit_forward")
    return arrays, [torch.from_numpy(arrays[name]) for name in ("x", "t", "y")]


def test_the_original_forward_pass(original):
    arrays, (x, t, y) = inputs()
    model = load_dit(original, num_heads=2)
    with torch.no_grad():
        np.testing.assert_allclose(
            model.net(x.double(), t, y).numpy(), arrays["output"], rtol=0, atol=1e-5
        )
        t, y = (torch.from_numpy(arrays[name])[:3] for name in ("cfg_t", "cfg_y"))
        guided = ClassifierFreeGuidance(model.net, 1.5, model.null_class)(x[:3], t, y)
    np.testing.assert_allclose(guided.numpy(), arrays["output_cfg"][:3], rtol=0, atol=1e-5)


def test_the_contract(original):
    model = load_dit(original, num_heads=2)
    assert (
        model.img_resolution,
        model.img_channels,
        model.label_dim,
        model.null_class,
        model.classifier,
    ) == (8, 4, 10, 10, None)
    assert not model.training and not any(
        parameter.requires_grad for parameter in model.parameters()
    )
    schedule = model.respaced("250").schedule
    assert (
        schedule.num_steps == 250
        and schedule.timestep_map[-1] == 999
        and model.respaced().variance == "learned_range"
    )
    embeddings = {id(block.norm1.emb) for block in model.net.transformer.transformer_blocks}
    assert len(embeddings) == 1, "one in the file, one in memory"
    assert (
        fingerprint(model)
        == fingerprint(load_dit(original, num_heads=2))
        != fingerprint(load_dit(original, num_heads=4))
    )
    with pytest.raises(ValueError, match="give its file"):
        model.to_images(torch.zeros(1, 4, 8, 8))


def test_an_average_saved_beside_the_trained_weights(original, tmp_path):
    torch.save(
        {"model": {}, "ema": original_state(), "opt": {"state": {}}}, tmp_path / "training.pt"
    )
    assert fingerprint(load_dit(tmp_path / "training.pt", num_heads=2)) == fingerprint(
        load_dit(original, num_heads=2)
    )


@pytest.mark.parametrize(
    ("below", "safe"), [("", True), ("transformer", True), ("transformer", False)]
)
def test_folders_of_diffusers_compute_the_same(original, tmp_path, below, safe):
    """What diffusers has saved has the original weights, though diffusers itself computes something
    else with them."""
    arrays, (x, t, y) = inputs()
    model = load_dit(original, num_heads=2)
    for block in model.net.transformer.transformer_blocks:  # diffusers has one for each
        block.norm1.emb = copy.deepcopy(block.norm1.emb)
    model.net.transformer.save_pretrained(tmp_path / "folder" / below, safe_serialization=safe)
    loaded = load_dit(tmp_path / "folder")
    with torch.no_grad():
        np.testing.assert_allclose(loaded.net(x, t, y).numpy(), arrays["output"], rtol=0, atol=1e-5)
        stock = type(model.net.transformer).from_pretrained(
            tmp_path / "folder" / below, low_cpu_mem_usage=False
        )
        difference = (
            (stock(x, timestep=t, class_labels=y).sample - torch.from_numpy(arrays["output"]))
            .abs()
            .amax((1, 2, 3))
        )
    assert difference[0] < 1e-5 and difference[-1] > 0.1, (
        "the same at t = 0, another one at t = 999"
    )


def test_published_sizes_are_inferred():
    from dg.models.dit import _settings

    def of(width, depth, patch, size, channels=4):
        state = {
            "x_embedder.proj.weight": (width, channels, patch, patch),
            "pos_embed": (1, (size // patch) ** 2, width),
            "final_layer.linear.weight": (patch**2 * 2 * channels, width),
            "y_embedder.embedding_table.weight": (1001, width),
        }
        state |= {f"blocks.{i}.attn.qkv.weight": (3 * width, width) for i in range(depth)}
        return _settings(
            {name: torch.empty(shape, device="meta") for name, shape in state.items()},
            None,
            "dit.pt",
        )

    for width, depth, heads in ((1152, 28, 16), (1024, 24, 16), (768, 12, 12), (384, 12, 6)):
        for patch, size in ((2, 32), (4, 32), (8, 32), (2, 64)):
            found = of(width, depth, patch, size)
            assert found == dict(
                num_attention_heads=heads,
                attention_head_dim=width // heads,
                in_channels=4,
                out_channels=8,
                num_layers=depth,
                sample_size=size,
                patch_size=patch,
                num_embeds_ada_norm=1000,
                norm_eps=1e-6,
            )
    model = create("DiTTransformer2DModel", of(1152, 28, 2, 32), "DiT-XL/2")
    embedding = sum(
        parameter.numel() for parameter in model.transformer_blocks[0].norm1.emb.parameters()
    )
    # 675 million with the positions; diffusers keeps the embedding 28 times.
    assert (
        sum(parameter.numel() for parameter in model.parameters()) - 27 * embedding
        == 675_129_632 - 256 * 1152
    )


def without(name):
    return lambda state: state.pop(name)


def put(name, tensor):
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            without("blocks.1.attn.qkv.bias"),
            "tensor 'blocks.1.attn.qkv.bias' does not fit: expected (96,)",
        ),
        (without("pos_embed"), "tensor 'pos_embed' is missing"),
        (
            put("blocks.0.mlp.fc1.weight", torch.zeros(64, 32)),
            "tensor 'blocks.0.mlp.fc1.weight' does not fit: expected (128, 32)",
        ),
        (
            put("blocks.0.attn.extra", torch.zeros(1)),
            "tensor 'blocks.0.attn.extra' does not fit: expected no such tensor",
        ),
        (
            put("blocks.0.attn.proj.bias", torch.full([32], torch.nan)),
            "'blocks.0.attn.proj.bias' has NaN",
        ),
        (put("x_embedder.proj.weight", torch.zeros(32)), "give the file of a DiT"),
        (put("args", argparse.Namespace()), "entry 'args' is a Namespace, not a tensor"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, told):
    state = original_state()
    change(state)
    torch.save(state, tmp_path / "dit.pt")
    with pytest.raises(ValueError) as error:
        load_dit(tmp_path / "dit.pt", num_heads=2)
    assert (
        told in str(error.value)
        and str(error.value).startswith(f"{tmp_path / 'dit.pt'}: ")
        and "\n" not in str(error.value)
    )


def test_heads_that_do_not_fit(original):
    for heads in (0, 3):
        with pytest.raises(ValueError, match="a width of 32 does not divide into"):
            load_dit(original, num_heads=heads)
    with pytest.raises(ValueError, match="do not tell the number of attention heads; give num_h"):
        load_dit(original)


def test_the_original_codes_own_training_checkpoint(original, tmp_path):
    """Of its train.py: trained weights, their average, the optimizer and the command line."""
    content = {
        "model": {name: torch.zeros_like(value) for name, value in original_state().items()},
        "ema": original_state(),
        "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(model="DiT-S/2", image_size=256, results_dir="results"),
    }
    torch.save(content, tmp_path / "0050000.pt")
    assert fingerprint(load_dit(tmp_path / "0050000.pt", num_heads=2)) == fingerprint(
        load_dit(original, num_heads=2)
    )


SCHEDULER = dict(
    _class_name="DDIMScheduler",
    beta_start=0.0001,
    beta_end=0.02,
    beta_schedule="linear",
    num_train_timesteps=1000,
    prediction_type="epsilon",
    trained_betas=None,
)


def folder_with(tmp_path, **changes):
    tiny_transformer().save_pretrained(tmp_path / "pipeline" / "transformer")
    (tmp_path / "pipeline" / "scheduler").mkdir(exist_ok=True)
    file = tmp_path / "pipeline" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER | changes))
    return tmp_path / "pipeline"


@pytest.mark.parametrize("below", ["", "transformer"])
def test_the_scheduler_of_a_folder_decides(tmp_path, below):
    import diffusers

    fingerprints = set()
    for changes in (
        {},
        dict(beta_schedule="squaredcos_cap_v2"),
        dict(num_train_timesteps=100, beta_start=0.001, beta_end=0.2),
        dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=400),
    ):
        lines = []
        folder = folder_with(tmp_path, **changes)
        model = load_dit(folder / below, notify=lines.append)
        scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
        np.testing.assert_allclose(
            model.respaced().schedule.alphas_cumprod, scheduler.alphas_cumprod, rtol=2e-4
        )
        assert len(lines) == 1 and "as its scheduler says" in lines[0]
        fingerprints.add(fingerprint(model))
        assert model.with_vae(tiny_vae()).process == model.process
    assert len(fingerprints) == 4, "what images depend on"
    with pytest.raises(ValueError, match="its scheduler says cosine schedule of 400 steps"):
        load_dit(tmp_path / "pipeline", noise_schedule="linear")


@pytest.mark.parametrize(
    "changes",
    [
        dict(beta_schedule="scaled_linear"),
        dict(beta_end=0.012),
        dict(num_train_timesteps=4000),
        dict(prediction_type="v_prediction"),
        dict(rescale_betas_zero_snr=True),
        dict(trained_betas=[0.1, 0.2]),
        dict(num_train_timesteps="many"),
        dict(num_train_timesteps=True),
        dict(beta_start=None),
        dict(beta_end="0.02"),
        dict(use_flow_sigmas=True),
        dict(_class_name="FlowMatchEulerDiscreteScheduler"),
        dict(_class_name="EDMEulerScheduler"),
    ],
    ids=str,
)
def test_schedulers_that_are_not_supported(tmp_path, changes):
    with pytest.raises(ValueError, match=r"scheduler_config\.json: ") as error:
        load_dit(folder_with(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_folders_that_do_not_fit(tmp_path):
    tiny_transformer().save_pretrained(tmp_path / "dit")
    tiny_vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="holds a AutoencoderKL, not a DiT"):
        load_dit(tmp_path / "vae")
    with pytest.raises(ValueError, match="not an AutoencoderKL"):
        load_vae(tmp_path / "dit")
    for path in (tmp_path / "dit").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match=r"holds no diffusion_pytorch_model\.safetensors or"):
        load_dit(tmp_path / "dit")
    for load in (load_dit, load_vae):
        with pytest.raises(ValueError, match="no such"):
            load(tmp_path / "absent")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_vae(tmp_path / "broken.safetensors")


def test_without_diffusers_one_line_says_what_to_install(original, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        ValueError, match=r"dit\.pt: needs diffusers.* pip install -r requirements-imagenet\.txt$"
    ):
        load_dit(original, num_heads=2)


# The autoencoder.


def test_autoencoders_from_folders_and_bare_files_of_old_and_new_names(tmp_path, monkeypatch):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(weights)
    for new, old in former.items():
        state = {
            name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): tensor
            for name, tensor in state.items()
        }
    assert set(state) != set(load_file(weights))
    save_file(state, tmp_path / "former.safetensors")
    monkeypatch.setattr(autoencoder, "STABLE_DIFFUSION", dict(vae.config))
    for path in (tmp_path / "vae", weights, tmp_path / "former.safetensors"):
        loaded = load_vae(path)
        assert fingerprint(loaded) == fingerprint(vae) and not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    state.pop("decoder.conv_in.bias")
    save_file(state, tmp_path / "former.safetensors")
    with pytest.raises(
        ValueError, match=r"former\.safetensors: tensor decoder\.conv_in\.bias is missing"
    ):
        load_vae(tmp_path / "former.safetensors")


def test_stable_diffusions_autoencoder_has_its_published_size():
    vae = create("AutoencoderKL", STABLE_DIFFUSION, "sd-vae-ft-mse")
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    # the file, with its header
    assert sum(4 * parameter.numel() for parameter in vae.parameters()) < 334_643_276 < 334_700_000
    assert vae.config.scaling_factor == 0.18215


def test_decoding_in_pieces_outside_of_autocast(monkeypatch):
    vae, latents = (
        tiny_vae(),
        torch.randn(5, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        whole = vae.decode(latents.float() / 0.18215).sample
    monkeypatch.setattr(autoencoder, "PIXELS_AT_ONCE", 2 * 64)
    with torch.autocast("cpu", torch.bfloat16):
        images = LatentDiffusion(tiny_transformer(), vae).to_images(latents)
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.float32
    assert (images - whole).abs().max() < 1e-5
    monkeypatch.setattr(autoencoder, "PIXELS_AT_ONCE", 1)
    assert (decode(vae, latents) - whole).abs().max() < 1e-5
