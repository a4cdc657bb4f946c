"""Options of generate.py."""

import click

from dg.options.common import DEVICE
from dg.options.network import HEADING, NETWORK
from dg.options.numbers import MOST_SEEDS, Numbers, Real, RealRange, SeedRange
from dg.options.samplers import IMAGE, METHODS, SAMPLERS
from dg.runtime import console
from dg.runtime.console import FLAG


def _always_seeded(ctx, param, value):
    if not value:
        raise click.UsageError("images always depend on their seeds; leave --do_seed out.")


IMAGES = [
    click.option(
        "--network",
        "--network_pkl",
        required=True,
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Score network, DDPM, ADM, DiT or VAE: a file, a diffusers folder, a URL or a "
        "published name.",
    ),
    click.option(
        "--outdir",
        required=True,
        type=console.OutputPath(),
        metavar="DIR",
        help="Folder for the images. The same command again continues an interrupted run.",
    ),
    click.option(
        "--seeds",
        type=SeedRange(),
        metavar="LIST",
        help="Seeds of the images, for example 0-63 or 1,2,5-8.  [default: 0-63, as EDM; none "
        "with discriminator guidance]",
    ),
    click.option(
        "--num_samples",
        "--num-fid-samples",
        "num_samples",
        type=click.IntRange(1, MOST_SEEDS),
        metavar="N",
        help="Number of images; ignored with --seeds. Their seeds start at --seed.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="First seed with --num_samples.",
    ),
    click.option(
        "--do_seed",
        **FLAG,
        default=True,
        expose_value=False,
        callback=_always_seeded,
        help="Draw images by their seeds, as they always are; False is refused.",
    ),
    click.option(
        "--class",
        "class_idx",
        type=int,
        metavar="N",
        help="Class of all images.  [default: one drawn for each seed]",
    ),
    click.option(
        "--save_type",
        "--save_format",
        type=click.Choice(["npz", "png"]),
        help="File format of the images.  [default: npz; png with --subdirs]",
    ),
    click.option("--subdirs", **FLAG, default=False, help="Write one folder per thousand PNGs."),
    click.option(
        "--grid", **FLAG, default=True, help="Also write the first images to OUTDIR/grid.png."
    ),
    click.option(
        "--grid_images",
        type=click.IntRange(min=1),
        default=64,
        metavar="N",
        help="Number of images in grid.png, those of the lowest seeds.",
    ),
]
SAMPLER = [
    click.option(
        "--sampler",
        "method",
        type=click.Choice(["ddim", "ancestral", *METHODS]),
        help="Sampler: ddim or ancestral (DDPM, ADM and DiT), or restart, rejection or particles "
        "(EDM score networks; the last two need a discriminator).  [default: EDM score networks: "
        "EDM's; DDPM: ddim; ADM and DiT: ancestral]",
    ),
    click.option(
        "--steps",
        "--num_steps",
        "--num-sampling-steps",
        "num_steps",
        type=click.IntRange(min=1),
        metavar="N",
        help="Number of sampling steps.  [default: 18; DDPM: all of its own; ADM and DiT: 250]",
    ),
    click.option(
        "--sigma_min",
        type=RealRange(min=0, min_open=True),
        metavar="SIGMA",
        help="Lowest noise level.  [default: 0.002; VP and VE levels: their own]",
    ),
    click.option(
        "--sigma_max",
        type=RealRange(min=0, min_open=True),
        metavar="SIGMA",
        help="Highest noise level.  [default: 80; VP, VE and iDDPM levels: their own]",
    ),
    click.option(
        "--rho",
        type=RealRange(min=0, min_open=True),
        default=7,
        metavar="RHO",
        help="Exponent of the spacing of noise levels.",
    ),
    click.option(
        "--S_churn",
        "S_churn",
        type=RealRange(min=0),
        default=0,
        metavar="S",
        help="Amount of noise added in the course of sampling; 0 samples without it.",
    ),
    click.option(
        "--S_min",
        "S_min",
        type=RealRange(min=0),
        default=0,
        metavar="SIGMA",
        help="Lowest noise level at which noise is added.",
    ),
    click.option(
        "--S_max",
        "S_max",
        type=RealRange(min=0, infinite=True),
        default=float("inf"),
        metavar="SIGMA",
        help="Highest noise level at which noise is added.",
    ),
    click.option(
        "--S_noise",
        "S_noise",
        type=Real(),
        default=1,
        metavar="S",
        help="Standard deviation of the added noise.",
    ),
    click.option(
        "--solver",
        type=click.Choice(["euler", "heun"]),
        help="ODE solver; selects EDM's ablation sampler.  [default: heun]",
    ),
    click.option(
        "--disc",
        "--discretization",
        "discretization",
        type=click.Choice(["vp", "ve", "iddpm", "edm"]),
        help="Noise levels; selects EDM's ablation sampler.  [default: edm]",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["vp", "ve", "linear"]),
        help="Noise schedule sigma(t); selects EDM's ablation sampler.  [default: linear]",
    ),
    click.option(
        "--scaling",
        type=click.Choice(["vp", "none"]),
        help="Scaling s(t) of the image; selects EDM's ablation sampler.  [default: none]",
    ),
]
DISCRIMINATOR = [
    click.option(
        "--discriminator_ckpt",
        "--discriminator_checkpoint",
        multiple=True,
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Head of the discriminator, or of --loss difference. Repeat the option for an "
        "ensemble.  [default: no guidance; with another option of this section, the authors' head "
        "for CIFAR-10 in checkpoints/discriminator]",
    ),
    click.option(
        "--member_weights",
        type=Numbers(),
        metavar="W,W,...",
        help="Weight of each head of an ensemble.  [default: equal]",
    ),
    click.option(
        "--ensemble",
        type=click.Choice(["mean", "sum"]),
        default="mean",
        help="Average the log ratios of the heads, or add them, each times its weight: for a head "
        "that was trained on images guided by the others.",
    ),
    click.option(
        "--pretrained_classifier_ckpt",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="ADM classifier on whose features the head was trained.  [default: for "
        "the authors' heads the one in checkpoints/ADM_classifier]",
    ),
    click.option(
        "--lora_checkpoint",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="LoRA of the extractor, for a head that was trained with one.",
    ),
    click.option(
        "--lora_rank",
        type=int,
        metavar="N",
        help="Rank of the LoRA; 0 or less switches it off.  [default: as its file says]",
    ),
    click.option(
        "--calibrated",
        **FLAG,
        default=False,
        help="Divide the log ratio by the temperature of the noise level. The head's file holds "
        "it, from `fid.py diagnose --store`.",
    ),
    click.option(
        "--cond",
        "--conditional",
        "cond",
        **FLAG,
        default=None,
        help="The discriminator is class-conditional.  [default: as its file says]",
    ),
    click.option(
        "--guidance",
        type=click.Choice(["recommended", "published"]),
        help="What weight, window and --guide_every are where they are not given: what did best with a "
        "discriminator of pretrained/, or the published setting.  [default: recommended for a "
        "discriminator of pretrained/, else published]",
    ),
    click.option(
        "--dg_weight_1st_order",
        "--w_dg_1",
        "--dg_scale",
        "w1",
        type=Real(),
        metavar="W",
        help="Guidance weight at the first stage of a step.  [default: 2; DDPM, ADM and DiT: 1]",
    ),
    click.option(
        "--dg_weight_2nd_order",
        "--w_dg_2",
        "w2",
        type=Real(),
        default=0,
        metavar="W",
        help="Guidance weight at the second stage of a step (Heun's correction).",
    ),
    click.option(
        "--time_min",
        "--time_mid",
        "time_min",
        type=RealRange(0, 1000),
        metavar="T",
        help="Lowest time with guidance, from 0 (no noise) to 1 (pure noise) of the VP process; above "
        "1, the timestep above which there is guidance.  [default: 0.01; DiT: 0.101, timesteps "
        "above 100]",
    ),
    click.option(
        "--time_max",
        type=RealRange(0, 1),
        default=1.0,
        metavar="T",
        help="Highest time with guidance, from 0 (no noise) to 1 (pure noise) of the VP process.",
    ),
    click.option(
        "--dg_time",
        type=click.Choice(["level", "step"]),
        help="Discriminator's time with a DDPM, ADM or DiT: from the noise level, or the authors' "
        "t/999 from the step.  [default: level]",
    ),
    click.option(
        "--boosting",
        "--adaptive_weight",
        "boosting",
        **FLAG,
        default=False,
        help="Boost samples whose log ratio is negative: double weight, and churn by "
        "--S_churn_manual.",
    ),
    click.option(
        "--S_churn_manual",
        "S_churn_manual",
        type=RealRange(min=0),
        default=4,
        metavar="S",
        help="S_churn of samples that --boosting boosts.",
    ),
    click.option(
        "--guide_every",
        type=click.IntRange(min=1),
        default=1,
        metavar="K",
        help="Evaluate the discriminator at steps 0, K, 2 K ... alone (score networks only).",
    ),
    click.option(
        "--guide_between",
        type=click.Choice(["rescale", "keep", "none"]),
        help="Guidance at the steps between those of --guide_every: the last correction, rescaled "
        "by the noise level or as it was, or none.  [default: rescale]",
    ),
    click.option(
        "--dg_clip",
        "dg_clip",
        type=RealRange(0, 0.5, min_open=True, max_open=True),
        metavar="P",
        help="Clip the discriminator's probability to [P, 1-P]; the authors' code takes 1e-5.  "
        "[default: no clip]",
    ),
]
AUTOGUIDANCE = [
    click.option(
        "--guide_network",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Weaker score network of the same images, which guidance leads away from.  [default: "
        "no autoguidance]",
    ),
    click.option(
        "--guide_scale",
        type=Real(),
        metavar="W",
        help="Scale w of autoguidance, w D + (1 - w) D_guide; 1 is none.  [default: 2]",
    ),
]
DISCRETE = [
    click.option(
        "--timestep_respacing",
        "respacing",
        metavar="SPEC",
        help="Steps as ADM names them: 250, ddim25 (every 40th of 1000 from the first) or 10,15,20 "
        "(by sections); in place of --steps (DDPM, ADM and DiT only).",
    ),
    click.option(
        "--use_ddim",
        **FLAG,
        default=None,
        help="ADM's name for --sampler ddim; False for ancestral (DDPM, ADM and DiT only).",
    ),
    click.option(
        "--eta",
        type=RealRange(0, 1),
        metavar="ETA",
        help="DDIM noise scale eta (DDPM, ADM and DiT only).  [default: 0]",
    ),
    click.option(
        "--cfg_scale",
        "--cfg-scale",
        "cfg_scale",
        type=Real(),
        metavar="S",
        help="Scale of classifier-free guidance at all timesteps (DiT only); 1 is none.  [default: "
        "1.5]",
    ),
    click.option(
        "--LT_cfg",
        "LT_cfg",
        type=Real(),
        metavar="S",
        help="Scale of classifier-free guidance at timesteps above --branch_time (DiT only).  "
        "[default: --cfg_scale]",
    ),
    click.option(
        "--ST_cfg",
        "ST_cfg",
        type=Real(),
        metavar="S",
        help="Scale of classifier-free guidance at timesteps up to --branch_time (DiT only).  "
        "[default: --cfg_scale]",
    ),
    click.option(
        "--branch_time",
        type=click.IntRange(0, 999),
        metavar="T",
        help="Timestep, from 0 to 999, that separates --LT_cfg and --ST_cfg (DiT only).  [default: "
        "200]",
    ),
    click.option(
        "--vae",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="VAE that decodes latents (DiT only).  [default: the one in the network's folder, "
        "else sd-vae-ft-mse]",
    ),
    click.option(
        "--classifier_scale",
        type=RealRange(min=0),
        metavar="S",
        help="Scale of classifier guidance (DDPM and ADM only).  [default: none]",
    ),
    click.option(
        "--classifier_ckpt",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Noisy-image classifier for --classifier_scale.  [default: adm-64-classifier to "
        "adm-512-classifier, by image size]",
    ),
    click.option(
        "--sample",
        type=click.Choice(["mean", "draw"]),
        help="Pixels of a VAE: the mean of each pixel's distribution, or a draw from it (VAE "
        "only).  [default: mean]",
    ),
]
COMPUTATION = [
    click.option(
        "--batch",
        "--batch_size",
        "--max_batch_size",
        type=click.IntRange(min=1),
        default=64,
        metavar="N",
        help="Images computed at once by each process, and images per npz file.",
    ),
    DEVICE,
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        help="Precision of the networks. auto is the fastest whose images stay within 2 levels "
        "of 255 of float32's, by a self-benchmark of two seconds at the first use.",
    ),
    click.option(
        "--speeds",
        is_flag=True,
        help="Make the self-benchmark again, and print it: evaluations per second by precision, "
        "threads, and batches in work at once.",
    ),
    click.option(
        "--precise",
        **FLAG,
        default=False,
        help="Compute in float32 throughout, without TF32, for the published code's images.",
    ),
    click.option(
        "--cost",
        **FLAG,
        default=False,
        help="Also write evaluations and multiply-adds per image to OUTDIR/cost.json.",
    ),
    click.option(
        "--compile",
        "compiled",
        **FLAG,
        default=False,
        help="Compile the networks by torch.compile, on GPUs to CUDA graphs. This pays for many "
        "images.",
    ),
]
OPTIONS = {
    "Images": IMAGES,
    "Sampler": SAMPLER,
    "Restart, rejection and particles (EDM score networks)": SAMPLERS,
    "Image to image (EDM score networks)": IMAGE,
    "Discriminator guidance": DISCRIMINATOR,
    "Autoguidance (EDM score networks)": AUTOGUIDANCE,
    "DDPM, ADM, DiT and VAE": DISCRETE,
    HEADING: NETWORK,
    "Computation": COMPUTATION,
}
