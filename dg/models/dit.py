"""DiT (Peebles & Xie 2023): a transformer that diffuses the latents of images, built on diffusers.

Two settings of diffusers are put back to those of the original code, by which all published weights
were trained: the frequencies of the timestep embedding, 10000^(-i / 128) and not 10000^(-i / 127),
and the epsilon of the second normalisation, 1e-6 and not 1e-5. With both, the converted network is
the original one to rounding.
"""

from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from dg.models.autoencoder import decode, load_vae
from dg.models.classifier_guidance import check_classifier
from dg.models.diffusers_models import create, is_folder, read_folder, read_scheduler
from dg.models.discrete_diffusion import DiscreteDiffusion
from dg.runtime.progress import unheard
from edm.checkpoint import load_strictly
from edm.fingerprints import fingerprint
from guided_diffusion import GaussianDiffusion, create_diffusion
from guided_diffusion.loading import (
    MissingSettings,
    bare_state,
    check_fit,
    check_tensors,
    read_file,
    shapes_of,
)

__all__ = [
    "DG_TIME_MIN",
    "PUBLISHED_SAMPLING",
    "LatentDiffusion",
    "folder_in",
    "is_original",
    "load_dit",
    "load_vae",
]

# Settings of the published samples. DiT's best FID, 2.27, was measured with this scale of
# classifier-free guidance.
PUBLISHED_SAMPLING = dict(
    method="ancestral", num_steps=250, clip_denoised=False, LT_cfg=1.5, ST_cfg=1.5
)
# Attention heads of the published sizes, by width and depth: DiT-XL, L, B, S.
HEADS = {(1152, 28): 16, (1024, 24): 16, (768, 12): 12, (384, 12): 6}
MOST_PIXELS = 256  # of a latent; published ones have 32 and 64
PROCESS = dict(schedule="linear", num_steps=1000)  # as in the original code
# Kim et al. 2023 guide DiT above timestep 100. This VP time lies between timesteps 100 and 101,
# both by t / 999 and by noise level.
DG_TIME_MIN = 0.101


class LatentDiffusion(DiscreteDiffusion, nn.Module):
    """A frozen class-conditional transformer and the process of its latents, with learned
    variances.

    transformer  DiTTransformer2DModel of diffusers; its last class number stands for no class
    process      schedule and num_steps as of `create_diffusion`; None: `PROCESS`, as published
    vae          as `dg.models.autoencoder.load_vae` gives it; None: latents can be drawn, but not
                 decoded
    classifier   as in `DiscreteDiffusion`, of latents

    Latents have img_resolution pixels and img_channels channels.
    """

    sampling_defaults = PUBLISHED_SAMPLING

    def __init__(
        self,
        transformer: nn.Module,
        vae: nn.Module | None = None,
        classifier: nn.Module | None = None,
        process: Mapping | None = None,
    ):
        super().__init__()
        config = transformer.config
        self.process = dict(process or PROCESS)
        self.init_kwargs = {
            name: value for name, value in config.items() if not name.startswith("_")
        }
        if self.process != PROCESS:
            self.init_kwargs["process"] = self.process
        self.net, self.vae, self.classifier = Network(transformer), vae, classifier
        self.img_resolution, self.img_channels = config.sample_size, config.in_channels
        self.label_dim = self.null_class = config.num_embeds_ada_norm

    def with_vae(self, vae: nn.Module) -> "LatentDiffusion":
        """The same model with a decoder of its latents."""
        model = LatentDiffusion(self.net.transformer, vae, self.classifier, self.process)
        return model.train(self.training)

    def with_classifier(self, classifier: nn.Module) -> "LatentDiffusion":
        """The same model led by a classifier. ValueError if that knows other latents or classes."""
        check_classifier(classifier, self)
        model = LatentDiffusion(self.net.transformer, self.vae, classifier, self.process)
        return model.train(self.training)

    def describe(self) -> dict:
        vae = {} if self.vae is None else {"vae": fingerprint(self.vae)}
        return super().describe() | vae

    def respaced(self, spec=None) -> GaussianDiffusion:
        """The process on fewer of its steps, as `guided_diffusion.schedules.space_timesteps` takes
        them; None: on all."""
        return create_diffusion(**self.process, respacing=spec)

    def to_images(self, latents: Tensor) -> Tensor:
        """Images [N, 3, 8R, 8R], float32, nominally in [-1, 1], of latents [N, C, R, R]. ValueError
        without a VAE."""
        if self.vae is None:
            raise ValueError("latents cannot be decoded without an autoencoder; give its file")
        return decode(self.vae, latents)


class Network(nn.Module):
    """The transformer as discrete samplers call their networks."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x [N, C, R, R], t [N] in 0..999, y [N] classes -> [N, 2C, R, R], float32: noise and range
        of the variance."""
        return self.transformer(x.to(self.transformer.dtype), timestep=t, class_labels=y).sample


def load_dit(
    path,
    device="cpu",
    num_heads: int | None = None,
    noise_schedule: str | None = None,
    diffusion_steps: int | None = None,
    notify: Callable[[str], None] = unheard,
) -> LatentDiffusion:
    """The frozen model, float32, in evaluation mode, without a VAE; nothing in the file is
    executed.

    path       an original file such as DiT-XL-2-256x256.pt, bare or in a training's checkpoint; or
               a folder of diffusers, itself or below it as transformer/, with
               scheduler/scheduler_config.json beside that
    num_heads  attention heads of an original file, whose tensors do not show them; None: those of
               the published sizes, `HEADS`
    noise_schedule, diffusion_steps  None: as the folder's scheduler says, else those of the
                                     original code
    notify     called with one line that names the settings taken

    ValueError with one line that names the file and the fault, or the package to install.
    """
    folder = folder_in(path)
    if folder and num_heads is not None:
        raise ValueError(f"{path}: holds num_heads itself; leave num_heads out")
    transformer = _from_folder(folder) if folder else _from_original(Path(path), num_heads)
    told = read_scheduler(folder) if folder else None
    if told:
        told = {name: told[name] for name in PROCESS}
    given = dict(schedule=noise_schedule, num_steps=diffusion_steps)
    given = {name: value for name, value in given.items() if value is not None}
    if told and given.items() - told.items():
        raise ValueError(f"{path}: its scheduler says {_in_words(told)}; leave the others out")
    process = PROCESS | (told or given)
    source = "as its scheduler says" if told else "as given" if given else "as DiT's own code has"
    heads = transformer.config.num_attention_heads
    notify(f"{path}: {heads} heads, {_in_words(process)}, {source}")
    model = LatentDiffusion(_as_trained(transformer), process=process)
    model.respaced()  # refuses settings that no process has
    return model.eval().requires_grad_(False).to(device)


def _in_words(process: Mapping) -> str:
    return f"{process['schedule']} schedule of {process['num_steps']} steps"


def folder_in(path) -> Path | None:
    """The folder of diffusers that a path is, or that it holds as transformer/; None for anything
    else."""
    return next(
        (folder for folder in (Path(path), Path(path) / "transformer") if is_folder(folder)), None
    )


def is_original(names) -> bool:
    """Whether a file whose tensors have these names is one of DiT's own."""
    return {"x_embedder.proj.weight", "final_layer.linear.weight"} <= set(names)


def _from_folder(path: Path) -> nn.Module:
    config, tensors = read_folder(path)
    if (kind := config.get("_class_name")) not in ("DiTTransformer2DModel", "Transformer2DModel"):
        raise ValueError(
            f"{path}: holds a {kind}, not a DiTTransformer2DModel; give the folder of a DiT"
        )
    size = config.get("sample_size", 0)
    if type(size) is not int or size > MOST_PIXELS:  # its positions need memory with the square
        raise ValueError(f"{path}: has latents of {size} pixels; give up to {MOST_PIXELS}")
    model = create("DiTTransformer2DModel", config | {"norm_eps": 1e-6}, path, tensors)
    load_strictly(model, tensors, path)
    embed = model.pos_embed
    size, channels = embed.patch_size * embed.height, model.config.in_channels
    embed.pos_embed = type(embed)(size, size, embed.patch_size, channels, model.inner_dim).pos_embed
    return model


def _from_original(path: Path, num_heads: int | None) -> nn.Module:
    try:
        state = check_tensors(bare_state(read_file(path)))
        model = create("DiTTransformer2DModel", _settings(state, num_heads, path), path, state)
        tensors = _converted(state, model)
    except MissingSettings:
        raise
    except ValueError as error:
        message = str(error)
        raise ValueError(
            message if message.startswith(str(path)) else f"{path}: {message}"
        ) from None
    load_strictly(model, tensors, path)
    model.pos_embed.pos_embed = state["pos_embed"].to(torch.float32, copy=True)
    return model


def _settings(state: Mapping[str, Tensor], num_heads: int | None, path: Path) -> dict:
    """Arguments of DiTTransformer2DModel, all but the heads read off the shapes of an original
    file."""
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    width, channels, patch, _ = _shape(state, "x_embedder.proj.weight", 4)
    tokens = _shape(state, "pos_embed", 3)[1]
    outputs = _shape(state, "final_layer.linear.weight", 2)[0]
    heads = HEADS.get((width, depth)) if num_heads is None else num_heads
    if heads is None:
        raise MissingSettings(str(path), ["num_heads"])
    if heads < 1 or width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads; give a divisor")
    return dict(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        out_channels=outputs // patch**2,
        num_layers=depth,
        sample_size=isqrt(tokens) * patch,
        patch_size=patch,
        num_embeds_ada_norm=_shape(state, "y_embedder.embedding_table.weight", 2)[0] - 1,
        norm_eps=1e-6,
    )


def _shape(state: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    if name not in state or state[name].ndim != ndim:
        raise ValueError(
            f"tensor '{name}' is missing or does not have {ndim} dimensions; give the file of a DiT"
        )
    return tuple(state[name].shape)


# Layers of the original and those of diffusers: outside of the blocks, in every block, and, shared
# by the original, copied into every block of diffusers.
OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.linear": "proj_out_2",
    "final_layer.adaLN_modulation.1": "proj_out_1",
}
BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm1.linear",),
}
SHARED = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}


def _layout(depth: int) -> dict[str, list[str]]:
    """Layers of the original -> those of diffusers that take its tensors, each a third of the rows
    of `qkv`, or all."""
    blocks = [f"transformer_blocks.{i}." for i in range(depth)]
    layout = {old: [new] for old, new in OUTER.items()}
    layout |= {old: [f"{block}norm1.emb.{new}" for block in blocks] for old, new in SHARED.items()}
    return layout | {
        f"blocks.{i}.{old}": [block + name for name in new]
        for i, block in enumerate(blocks)
        for old, new in BLOCK.items()
    }


def _converted(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors under diffusers' names. ValueError naming the first that is missing, misfit or
    left over."""
    shapes = shapes_of(model.state_dict())
    names = {
        f"{old}.{kind}": [f"{name}.{kind}" for name in new]
        for old, new in _layout(model.config.num_layers).items()
        for kind in ("weight", "bias")
        if f"{new[0]}.{kind}" in shapes
    }
    parts = {old: 3 if ".qkv." in old else 1 for old in names}
    expected = {
        old: (parts[old] * shapes[new[0]][0], *shapes[new[0]][1:]) for old, new in names.items()
    }
    check_fit(shapes_of(state), expected | {"pos_embed": tuple(model.pos_embed.pos_embed.shape)})
    return {
        name: piece
        for old, new in names.items()
        for name, piece in zip(
            new, state[old].chunk(3) if parts[old] == 3 else [state[old]] * len(new), strict=True
        )
    }


def _as_trained(transformer: nn.Module) -> nn.Module:
    """The frequencies of the original, and one embedding for all blocks where they hold the same
    one."""
    first = transformer.transformer_blocks[0].norm1.emb
    for block in transformer.transformer_blocks:
        pairs = zip(block.norm1.emb.parameters(), first.parameters(), strict=True)
        if all(torch.equal(own, shared) for own, shared in pairs):
            block.norm1.emb = first
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return transformer
