"""Options of generate.py."""

import click

from dg.options.network import NETWORK
from dg.options.samplers import SAMPLERS
from dg.runtime import console
from dg.runtime.console import FLAG

OPTIONS = [
    click.option(
        "--network",
        "--network_pkl",
        required=True,
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Score network, DDPM, ADM, DiT or VAE: a file or diffusers folder, a URL, or a "
        "published name.",
    ),
    *NETWORK,
    click.option(
        "--outdir",
        required=True,
        type=console.OutputPath(),
        metavar="DIR",
        help="Where to save the images; a rerun goes on there.",
    ),
    click.option(
        "--seeds",
        type=console.SeedRange(),
        metavar="LIST",
        help="Seeds, for example 0-63 or 1,2,5-8.",
    ),
    click.option(
        "--num_samples",
        type=click.IntRange(1, console.MOST_SEEDS),
        metavar="N",
        help="Short for --seeds S..S+N-1 with --seed S.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        help="First seed of --num_samples.",
    ),
    click.option(
        "--batch",
        "--batch_size",
        "--max_batch_size",
        type=click.IntRange(min=1),
        default=64,
        help="Images per batch and npz shard.",
    ),
    click.option(
        "--class",
        "class_idx",
        type=int,
        metavar="INT",
        help="Class of all images.  [default: drawn per seed]",
    ),
    click.option(
        "--steps",
        "--num_steps",
        "num_steps",
        type=click.IntRange(min=1),
        help="Sampling steps.  [default: 18; of a DDPM all of its own, of ADM and DiT 250]",
    ),
    click.option(
        "--sigma_min",
        type=click.FloatRange(min=0, min_open=True),
        help="Lowest noise level.  [default: sampler's]",
    ),
    click.option(
        "--sigma_max",
        type=click.FloatRange(min=0, min_open=True),
        help="Highest noise level.  [default: sampler's]",
    ),
    click.option(
        "--rho",
        type=click.FloatRange(min=0, min_open=True),
        default=7,
        help="Exponent of the step spacing.",
    ),
    click.option(
        "--S_churn",
        "S_churn",
        type=click.FloatRange(min=0),
        default=0,
        help="Amount of stochasticity.",
    ),
    click.option(
        "--S_min",
        "S_min",
        type=click.FloatRange(min=0),
        default=0,
        help="Lowest noise level with stochasticity.",
    ),
    click.option(
        "--S_max",
        "S_max",
        type=click.FloatRange(min=0),
        default=float("inf"),
        help="Highest such level.",
    ),
    click.option("--S_noise", "S_noise", type=float, default=1, help="Noise inflation."),
    click.option("--solver", type=click.Choice(["euler", "heun"]), help="Ablation: solver."),
    click.option(
        "--disc",
        "--discretization",
        "discretization",
        type=click.Choice(["vp", "ve", "iddpm", "edm"]),
        help="Ablation: noise levels.",
    ),
    click.option(
        "--schedule", type=click.Choice(["vp", "ve", "linear"]), help="Ablation: sigma(t)."
    ),
    click.option("--scaling", type=click.Choice(["vp", "none"]), help="Ablation: s(t)."),
    click.option(
        "--sampler",
        "method",
        type=click.Choice(["ddim", "ancestral", "restart", "rejection", "particles"]),
        help="Of a DDPM, ADM or DiT ddim or ancestral; of a score network one of the others, of "
        "which rejection and particles need a discriminator.  [default: ddim; of ADM and DiT "
        "ancestral; of a score network EDM's]",
    ),
    *SAMPLERS,
    click.option(
        "--eta", type=click.FloatRange(0, 1), help="Of a DDPM: noise of DDIM.  [default: 0]"
    ),
    click.option(
        "--cfg_scale",
        "--cfg-scale",
        "cfg_scale",
        type=float,
        metavar="S",
        help="Of DiT: scale of classifier-free guidance, for both that follow; 1 is none.  "
        "[default: 1.5]",
    ),
    click.option(
        "--LT_cfg",
        "LT_cfg",
        type=float,
        metavar="S",
        help="Its scale at timesteps above --branch_time.",
    ),
    click.option("--ST_cfg", "ST_cfg", type=float, metavar="S", help="And at the others."),
    click.option(
        "--branch_time", type=click.IntRange(0, 999), help="Timestep, of 0 to 999.  [default: 200]"
    ),
    click.option(
        "--vae",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Of DiT: what decodes its latents.  [default: the network folder's own, or "
        "sd-vae-ft-mse]",
    ),
    click.option(
        "--classifier_scale",
        type=click.FloatRange(min=0),
        metavar="S",
        help="Of a DDPM or ADM: scale of classifier guidance.  [default: none]",
    ),
    click.option(
        "--classifier_ckpt",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Its classifier of noisy images.  [default: adm-64-classifier to adm-512-classifier "
        "by size]",
    ),
    click.option(
        "--sample",
        type=click.Choice(["mean", "draw"]),
        help="Of a VAE: the mean of each pixel's distribution, or a draw from it.  [default: mean]",
    ),
    click.option("--subdirs", **FLAG, default=False, help="One folder per thousand PNGs."),
    click.option(
        "--save_type",
        "--save_format",
        type=click.Choice(["npz", "png"]),
        default="npz",
        help="File format.",
    ),
    click.option(
        "--discriminator_ckpt",
        "--discriminator_checkpoint",
        multiple=True,
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Discriminator head; repeat it for an ensemble.  [default: with another option of "
        "guidance, the authors' for CIFAR-10 in checkpoints/discriminator; else there is no "
        "guidance]",
    ),
    click.option(
        "--member_weights",
        type=console.Numbers(),
        metavar="W,W,...",
        help="Weight of each member of an ensemble.  [default: equal]",
    ),
    click.option(
        "--pretrained_classifier_ckpt",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="ADM classifier under the discriminator, if it has one.  [default: "
        "checkpoints/ADM_classifier/32x32_classifier.pt under the authors' discriminators]",
    ),
    click.option(
        "--lora_checkpoint",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="LoRA of the classifier, where the head was trained with one.",
    ),
    click.option(
        "--lora_rank", type=int, help="Its rank, which the file tells too; 0 or less: no LoRA."
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
        "--dg_weight_1st_order",
        "--w_dg_1",
        "--dg_scale",
        "w1",
        type=float,
        help="Weight at the predictor stage.  [default: 2; with a DDPM, ADM or DiT 1]",
    ),
    click.option(
        "--dg_weight_2nd_order",
        "--w_dg_2",
        "w2",
        type=float,
        default=0,
        help="Weight at the corrector stage.",
    ),
    click.option(
        "--time_min",
        "--time_mid",
        "time_min",
        type=click.FloatRange(0, 1),
        help="Start of the guided VP time window.  [default: 0.01; with DiT 0.101, timesteps above "
        "100]",
    ),
    click.option("--time_max", type=click.FloatRange(0, 1), default=1.0, help="End of the window."),
    click.option(
        "--dg_time",
        type=click.Choice(["level", "step"]),
        help="With a DDPM, ADM or DiT, the discriminator's time: by noise level, or the authors' "
        "t/999.  [default: level]",
    ),
    click.option(
        "--boosting",
        "--adaptive_weight",
        "boosting",
        **FLAG,
        default=False,
        help="Boost samples of negative log ratio.",
    ),
    click.option(
        "--S_churn_manual",
        "S_churn_manual",
        type=click.FloatRange(min=0),
        default=4,
        help="S_churn of boosted samples.",
    ),
    click.option(
        "--dg_clip",
        "dg_clip",
        type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
        help="Clip probabilities to [P, 1-P] as the authors' code does with 1e-5.  [default: no "
        "clip]",
    ),
    click.option(
        "--guide_network",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Autoguidance: a weaker score network of the same images, which is led away from.",
    ),
    click.option(
        "--guide_scale",
        type=float,
        metavar="W",
        help="Its scale w in w D + (1 - w) D_guide; 1 is none.  [default: 2]",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Of the networks.  [default: the fastest within 2 levels of 255 of float32's images]",
    ),
    click.option(
        "--precise",
        **FLAG,
        default=False,
        help="float32 throughout, no TF32: the published code's images.",
    ),
    click.option(
        "--compile",
        "compiled",
        **FLAG,
        default=False,
        help="Translate the networks by torch.compile first, on GPUs to CUDA graphs; worth it for "
        "many images.",
    ),
    click.option(
        "--cost",
        **FLAG,
        default=False,
        help="Also write OUTDIR/cost.json: evaluations and multiply-adds per image.",
    ),
    click.option(
        "--grid", **FLAG, default=True, help="Also write OUTDIR/grid.png with the first images."
    ),
]
