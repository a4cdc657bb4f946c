"""Generate images with a score network, a DDPM, ADM or DiT, unguided or with discriminator guidance, or with a VAE.

\b
Examples:
  # 64 images from a published network (downloaded once)
  python generate.py --network edm-cifar10-32x32-uncond-vp --outdir out --seeds 0-63
  # the same seeds, guided by a discriminator on the ADM classifier's features
  python generate.py --network edm-cifar10-32x32-uncond-vp --outdir out-dg --seeds 0-63 \\
      --pretrained_classifier_ckpt 32x32_classifier.pt --discriminator_ckpt discriminator_60.pt
  # on all GPUs of a machine; the images do not depend on how many there are
  torchrun --standalone --nproc_per_node=gpu generate.py --network edm-cifar10-32x32-uncond-vp --outdir out \\
      --seeds 0-49999
  # 1,000 images of a network trained here, as PNGs
  python generate.py --network runs/by-hand/score/network.safetensors --outdir runs/by-hand/guided \\
      --num_samples 1000 --save_type png
  # a DDPM by DDIM in 50 steps, a VAE
  python generate.py --network runs/mnist-ddpm/network.safetensors --outdir out-ddpm --seeds 0-63 --steps 50
  python generate.py --network runs/mnist-vae/network.safetensors --outdir out-vae --seeds 0-63
  # ImageNet at 256 pixels: DiT-XL/2 as published (classifier-free guidance 1.5, 250 steps), and ADM-G
  python generate.py --network dit-xl-2-256 --outdir out-dit --seeds 0-63 --batch 16
  python generate.py --network adm-256 --outdir out-adm --seeds 0-63 --batch 16 --classifier_scale 1
  # DiT-XL/2-G++
  python generate.py --network dit-xl-2-256 --outdir out-dit-dg --seeds 0-63 --batch 16 --LT_cfg 1.25 --ST_cfg 3 \\
      --pretrained_classifier_ckpt latents/32x32_classifier.pt --discriminator_ckpt discriminator_7.pt --dg_time step
  # ADM-G++: led by the classifier, and by a discriminator that train.py has trained on its features
  python generate.py --network adm-256 --outdir out-adm-dg --seeds 0-63 --batch 16 --classifier_scale 1 \\
      --pretrained_classifier_ckpt adm-256-classifier --discriminator_ckpt disc-adm/last.safetensors
"""

import click

from dg.runtime import console
from dg.runtime.console import FLAG


@click.command(help=__doc__, context_settings=dict(max_content_width=110, show_default=True))
@click.option(
    "--network",
    "--network_pkl",
    required=True,
    metavar="PATH|URL|NAME",
    help="Score network, DDPM, ADM, DiT or VAE: a file or diffusers folder, a URL, or a published name.",
)
@click.option(
    "--outdir",
    required=True,
    metavar="DIR",
    help="Where to save the images; a rerun goes on there.",
)
@click.option(
    "--seeds", type=console.SeedRange(), metavar="LIST", help="Seeds, for example 0-63 or 1,2,5-8."
)
@click.option(
    "--num_samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Short for --seeds S..S+N-1 with --seed S.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="First seed of --num_samples.")
@click.option(
    "--batch",
    "--batch_size",
    "--max_batch_size",
    type=click.IntRange(min=1),
    default=64,
    help="Images per batch and npz shard.",
)
@click.option(
    "--class",
    "class_idx",
    type=int,
    metavar="INT",
    help="Class of all images.  [default: drawn per seed]",
)
@click.option(
    "--steps",
    "--num_steps",
    "num_steps",
    type=click.IntRange(min=1),
    help="Sampling steps.  [default: 18; of a DDPM all of its own, of ADM and DiT 250]",
)
@click.option(
    "--sigma_min",
    type=click.FloatRange(min=0, min_open=True),
    help="Lowest noise level.  [default: sampler's]",
)
@click.option(
    "--sigma_max",
    type=click.FloatRange(min=0, min_open=True),
    help="Highest noise level.  [default: sampler's]",
)
@click.option(
    "--rho",
    type=click.FloatRange(min=0, min_open=True),
    default=7,
    help="Exponent of the step spacing.",
)
@click.option(
    "--S_churn", "S_churn", type=click.FloatRange(min=0), default=0, help="Amount of stochasticity."
)
@click.option(
    "--S_min",
    "S_min",
    type=click.FloatRange(min=0),
    default=0,
    help="Lowest noise level with stochasticity.",
)
@click.option(
    "--S_max",
    "S_max",
    type=click.FloatRange(min=0),
    default=float("inf"),
    help="Highest such level.",
)
@click.option("--S_noise", "S_noise", type=float, default=1, help="Noise inflation.")
@click.option("--solver", type=click.Choice(["euler", "heun"]), help="Ablation: solver.")
@click.option(
    "--disc",
    "--discretization",
    "discretization",
    type=click.Choice(["vp", "ve", "iddpm", "edm"]),
    help="Ablation: noise levels.",
)
@click.option("--schedule", type=click.Choice(["vp", "ve", "linear"]), help="Ablation: sigma(t).")
@click.option("--scaling", type=click.Choice(["vp", "none"]), help="Ablation: s(t).")
@click.option(
    "--sampler",
    "method",
    type=click.Choice(["ddim", "ancestral"]),
    help="Of a DDPM, ADM or DiT: its sampler.  [default: ddim; of ADM and DiT ancestral]",
)
@click.option("--eta", type=click.FloatRange(0, 1), help="Of a DDPM: noise of DDIM.  [default: 0]")
@click.option(
    "--cfg_scale",
    "--cfg-scale",
    "cfg_scale",
    type=float,
    metavar="S",
    help="Of DiT: scale of classifier-free guidance, for both that follow; 1 is none.  [default: 1.5]",
)
@click.option(
    "--LT_cfg",
    "LT_cfg",
    type=float,
    metavar="S",
    help="Its scale at timesteps above --branch_time.",
)
@click.option("--ST_cfg", "ST_cfg", type=float, metavar="S", help="And at the others.")
@click.option(
    "--branch_time", type=click.IntRange(0, 999), help="Timestep, of 0 to 999.  [default: 200]"
)
@click.option(
    "--vae",
    type=console.InputPath(),
    metavar="PATH|URL|NAME",
    help="Of DiT: what decodes its latents.  [default: the network folder's own, or sd-vae-ft-mse]",
)
@click.option(
    "--classifier_scale",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Of a DDPM or ADM: scale of classifier guidance.  [default: none]",
)
@click.option(
    "--classifier_ckpt",
    type=console.InputPath(),
    metavar="PATH|URL|NAME",
    help="Its classifier of noisy images.  [default: adm-64-classifier to adm-512-classifier by size]",
)
@click.option(
    "--sample",
    type=click.Choice(["mean", "draw"]),
    help="Of a VAE: the mean of each pixel's distribution, or a draw from it.  [default: mean]",
)
@click.option("--subdirs", **FLAG, default=False, help="One folder per thousand PNGs.")
@click.option(
    "--save_type",
    "--save_format",
    type=click.Choice(["npz", "png"]),
    default="npz",
    help="File format.",
)
@click.option(
    "--discriminator_ckpt",
    "--discriminator_checkpoint",
    multiple=True,
    type=console.InputPath(),
    metavar="PATH|URL|NAME",
    help="Discriminator head; repeat it for an ensemble. Without one there is no guidance.",
)
@click.option(
    "--member_weights",
    type=console.Numbers(),
    metavar="W,W,...",
    help="Weight of each member of an ensemble.  [default: equal]",
)
@click.option(
    "--pretrained_classifier_ckpt",
    type=console.InputPath(),
    metavar="PATH|URL|NAME",
    help="ADM classifier under the discriminator, if it has one.",
)
@click.option(
    "--lora_checkpoint",
    type=console.InputPath(),
    metavar="PATH|URL|NAME",
    help="LoRA of the classifier, where the head was trained with one.",
)
@click.option(
    "--lora_rank", type=int, help="Its rank, which the file tells too; 0 or less: no LoRA."
)
@click.option(
    "--cond",
    "--conditional",
    "cond",
    **FLAG,
    default=None,
    help="The discriminator is class-conditional.  [default: as its file says]",
)
@click.option(
    "--dg_weight_1st_order",
    "--w_dg_1",
    "--dg_scale",
    "w1",
    type=float,
    help="Weight at the predictor stage.  [default: 2; with a DDPM, ADM or DiT 1]",
)
@click.option(
    "--dg_weight_2nd_order",
    "--w_dg_2",
    "w2",
    type=float,
    default=0,
    help="Weight at the corrector stage.",
)
@click.option(
    "--time_min",
    "--time_mid",
    "time_min",
    type=click.FloatRange(0, 1),
    help="Start of the guided VP time window.  [default: 0.01; with DiT 0.101, timesteps above 100]",
)
@click.option("--time_max", type=click.FloatRange(0, 1), default=1.0, help="End of the window.")
@click.option(
    "--dg_time",
    type=click.Choice(["level", "step"]),
    help="With a DDPM, ADM or DiT, the discriminator's time: by noise level, or the authors' t/999.  [default: level]",
)
@click.option(
    "--boosting",
    "--adaptive_weight",
    "boosting",
    **FLAG,
    default=False,
    help="Boost samples of negative log ratio.",
)
@click.option(
    "--S_churn_manual",
    "S_churn_manual",
    type=click.FloatRange(min=0),
    default=4,
    help="S_churn of boosted samples.",
)
@click.option(
    "--dg_clip",
    "dg_clip",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    help="Clip probabilities to [P, 1-P] as the authors' code does with 1e-5.  [default: no clip]",
)
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the networks.  [default: the fastest within 2 levels of 255 of float32's images]",
)
@click.option(
    "--precise",
    **FLAG,
    default=False,
    help="float32 throughout, no TF32: the published code's images.",
)
@click.option(
    "--compile",
    "compiled",
    **FLAG,
    default=False,
    help="Translate the networks by torch.compile first, on GPUs to CUDA graphs; worth it for many images.",
)
@click.option(
    "--grid", **FLAG, default=True, help="Also write OUTDIR-grid.png with the first images."
)
def main(
    network,
    outdir,
    seeds,
    num_samples,
    seed,
    batch,
    class_idx,
    subdirs,
    save_type,
    device,
    grid,
    precision,
    precise,
    compiled,
    **options,
):
    seeds = _seeds(seeds, num_samples, seed)
    if precise and precision not in (None, "float32"):
        raise click.UsageError(
            f"--precise is float32, not {precision}; give one of the two options."
        )
    from dg.data.sample_store import SampleStore
    from dg.models.loading import load_model
    from dg.precision import compile_networks, fastest
    from dg.runtime.processes import process_group
    from dg.sampling import check_class, describe, generate

    with process_group() as ranks:
        device = console.pick_device(device, ranks.rank)
        path = _file(network)
        net = load_model(path, device)
        console.allow_tf32()
        if precise:
            console.compute_exactly()
        sampling = _sampling(net, options)
        precision = (
            "float32"
            if precise
            else precision or fastest(net, device, getattr(sampling, "num_steps", None) or 18)
        )
        if precision != "float16":
            net.use_fp16 = False  # which some checkpoints ask for
        _add_parts(net, path, device, options)
        check_class(net, class_idx, sampling)
        guidance = _guidance(net, sampling, device, options)
        settings = describe(net, sampling, guidance, class_idx, precision)
        if precise and device.type == "cuda":
            settings["exact"] = True  # TF32 makes other images
        store = SampleStore(outdir, settings, seeds, batch, save_type, subdirs)
        if compiled:
            compile_networks(net, guidance and guidance.discriminator)
        progress = console.stoppable(console.progress if ranks.first else console.silent)
        made = generate(
            net,
            store,
            sampling,
            guidance,
            class_idx,
            device,
            progress,
            ranks,
            precision,
            console.notify,
        )
        if not ranks.first:
            return
    for name in store.damaged:
        console.notify(f"{name} was damaged and has been made again")
    if grid:
        _write_grid(store)
    speed = (
        f", {made.images / made.seconds:.1f} images/s"
        if made.images
        else ", all of them were there already"
    )
    console.notify(f"{len(seeds)} images in {outdir}{speed}")


def _seeds(seeds, num_samples, seed):
    if seeds is None and num_samples is None:
        raise click.UsageError("how many images? Give --seeds 0-63 or --num_samples 64.")
    return seeds if seeds is not None else list(range(seed, seed + num_samples))


def _file(name):
    """The file that a path, URL or published name stands for; None for None."""
    from dg.runtime.downloads import resolve

    return name and resolve(name, console.progress, console.notify)


def _sampling(net, options):
    """How to sample a network of this kind; options that are for other kinds are refused."""
    from dg.models.loading import SAMPLING, sampling_of
    from dg.sampling import Sampling

    kind = sampling_of(net)
    of_any = {
        name
        for settings in (Sampling, *SAMPLING.values())
        for name in settings.__dataclass_fields__
    }
    console.refuse(
        of_any - set(kind.__dataclass_fields__), f"a network of this kind ({type(net).__name__})"
    )
    if getattr(net, "null_class", None) is None:
        console.refuse(
            {"cfg_scale", "LT_cfg", "ST_cfg", "branch_time"},
            "a network that knows no class for none",
        )
    elif (scale := options["cfg_scale"]) is not None:
        options |= {
            name: scale if options[name] is None else options[name] for name in ("LT_cfg", "ST_cfg")
        }
    given = {
        name: options[name] for name in kind.__dataclass_fields__ if options.get(name) is not None
    }
    return kind(**getattr(net, "sampling_defaults", {}) | given)


def _add_parts(net, path, device, options):
    """Give a network what it is sampled with: the decoder of latents, the classifier that leads it."""
    from dg.models.autoencoder import load_vae
    from dg.models.classifier_guidance import check_classifier
    from guided_diffusion import load_encoder

    if hasattr(net, "to_images"):
        vae = options["vae"] or (path / "vae" if (path / "vae").is_dir() else "sd-vae-ft-mse")
        net.vae = load_vae(_file(vae), device)
    else:
        console.refuse({"vae"}, "a network that diffuses images")
    if options["classifier_scale"]:
        net.classifier = load_encoder(
            _file(options["classifier_ckpt"] or f"adm-{net.img_resolution}-classifier"), device
        )
        check_classifier(net.classifier, net)
    else:
        console.refuse({"classifier_ckpt"}, "a run without --classifier_scale")


GUIDANCE_OPTIONS = (
    "w1",
    "w2",
    "boosting",
    "S_churn_manual",
    "time_min",
    "time_max",
    "dg_time",
    "dg_clip",
    "cond",
    "pretrained_classifier_ckpt",
    "lora_checkpoint",
    "member_weights",
)


def _guidance(net, sampling, device, options):
    """The discriminator guidance that the options ask for, or None; for a network that has its parts."""
    from dg.models.discrete_sampling import DDPMSampling
    from dg.models.dit import DG_TIME_MIN, LatentDiffusion
    from dg.models.loading import sampling_of
    from dg.models.vae import VAE

    discrete = sampling_of(net) is DDPMSampling
    if isinstance(net, VAE):
        console.refuse(
            {"discriminator_ckpt", *GUIDANCE_OPTIONS}, "a VAE, which is sampled in one step"
        )
    if discrete:
        console.refuse(
            [name for name in ("w2", "boosting") if options[name]],
            f"a {type(net).__name__}, whose steps have one stage and no churn",
        )
    first_weight = options["w1"] if options["w1"] is not None else 1 if discrete else 2
    paths, weights = options["discriminator_ckpt"], (first_weight, options["w2"])
    if not paths:
        given = [name for name in GUIDANCE_OPTIONS if options[name] and console.given(name)]
        if given and any(weights):
            raise click.UsageError(
                "guidance options need a discriminator: give --discriminator_ckpt PATH."
            )
        return None
    if not any(weights):
        return None
    from dataclasses import replace

    from dg.checkpoints import load_discriminator
    from dg.guidance import BOOSTING, DiscriminatorGuidance
    from dg.sampling import classes_of

    discriminator = load_discriminator(
        _file(options["pretrained_classifier_ckpt"]),
        [_file(path) for path in paths],
        net,
        device=device,
        lora_path=_file(_lora_path(options)),
        weights=options["member_weights"],
    )
    if options["cond"] is not None and bool(options["cond"]) != discriminator.conditional:
        found = "conditional" if discriminator.conditional else "unconditional"
        raise click.UsageError(f"--cond {int(options['cond'])}: the discriminator is {found}.")
    if discriminator.conditional and not classes_of(net, sampling):
        raise click.UsageError("the discriminator is conditional but the network draws no classes.")
    boosting = (
        replace(BOOSTING["authors"], S_churn=options["S_churn_manual"])
        if options["boosting"]
        else None
    )
    time_min = options["time_min"]
    if time_min is None:
        time_min = DG_TIME_MIN if isinstance(net, LatentDiffusion) else 0.01
    return DiscriminatorGuidance(
        discriminator, weights, time_min, options["time_max"], boosting, options["dg_clip"]
    )


def _lora_path(options):
    """The LoRA's file; a rank of 0 or less switches it off, as in the published commands of the LoRA reproduction."""
    path, rank = options["lora_checkpoint"], options["lora_rank"]
    if rank is not None and rank <= 0:
        return None
    if rank is not None and path is None:
        raise click.UsageError("--lora_rank needs the file: give --lora_checkpoint PATH.")
    return path


def _write_grid(store, most=64):
    """A picture of the first images beside the folder, so that the folder holds samples alone."""
    from dg.data.reader import open_images
    from dg.evaluation.figures import image_grid

    stream = open_images(store.outdir)
    _, images = next(stream.batches(stream.positions(min(most, len(store.seeds))), most))
    folder = store.outdir.resolve()  # "." has no name to put -grid.png behind
    image_grid(folder.with_name(f"{folder.name}-grid.png"), images)


if __name__ == "__main__":
    console.run(main)
