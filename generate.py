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
  # autoguidance: away from what the same network was after fewer steps of training
  python generate.py --network runs/by-hand/score/network.safetensors --outdir runs/by-hand/auto \\
      --seeds 0-63 --guide_network runs/by-hand/early/network.safetensors --guide_scale 2
"""

from functools import reduce
from operator import add
from pathlib import Path

import click

from dg.options.common import SETTINGS, declared, version
from dg.options.generate import OPTIONS
from dg.runtime import console


@click.command(help=__doc__, context_settings=SETTINGS)
@version
@declared(OPTIONS)
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
    from dg.sampling import as_model, check_class, describe, generate

    with process_group() as ranks:
        device = console.pick_device(device, ranks.rank)
        path = _file(network)
        net = load_model(path, device)
        console.allow_tf32()
        if precise:
            console.compute_exactly()
            precision = "float32"
        sampling = _sampling(net, options)
        precision = precision or fastest(net, device, sampling.kwargs().get("num_steps", 18))
        net = _with_parts(net, path, device, precision, options)
        with console.option("--class"):
            check_class(net, class_idx, sampling)
        guidance = _guidance(net, sampling, device, precision, options)
        settings = describe(net, sampling, guidance, class_idx, precision)
        if precise and device.type == "cuda":
            settings["exact"] = True  # TF32 makes other images
        names = _class_names(path, as_model(net).num_classes(sampling))
        store = SampleStore(outdir, settings, seeds, batch, save_type, subdirs, names)
        if compiled:
            with console.option("--compile"):
                guides = [] if guidance is None else guidance.networks()
                compile_networks([*as_model(net).networks(), *guides])
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
    _tell(store, made, outdir, grid)


def _tell(store, made, outdir, grid):
    """What has been done, after the picture of the first images."""
    for name in store.damaged:
        console.notify(f"{name} was damaged and has been made again")
    if grid:
        _write_grid(store)
    speed = ", all of them were there already"
    if made.images:
        speed = f", {made.images / made.seconds:.1f} images/s"
    console.notify(f"{len(store.seeds)} images in {outdir}{speed}")


def _seeds(seeds, num_samples, seed):
    if seeds is None and num_samples is None:
        raise click.UsageError("how many images? Give --seeds 0-63 or --num_samples 64.")
    return seeds if seeds is not None else list(range(seed, seed + num_samples))


def _file(name):
    """The file that a path, URL or published name stands for; None for None."""
    from dg.runtime.downloads import resolve

    return name and resolve(name, console.progress, console.notify)


def _class_names(path, num_classes):
    """Names of the classes that pretrain.py has left beside a network, None where it has not."""
    from dg.runtime.files import read_json

    record = Path(path).with_name("training.json")
    known = read_json(record) if num_classes and record.is_file() else None
    names = known.get("class_names") if isinstance(known, dict) else None
    return names if names and len(names) == num_classes else None


def _sampling(net, options):
    """How to sample a network of this kind; options that are for other kinds are refused."""
    from dg.models.discrete_sampling import DDPMSampling
    from dg.models.vae_sampling import VAESampling
    from dg.sampling import Sampling, as_model

    model = as_model(net)
    fields = model.sampling_type.__dataclass_fields__
    of_any = {
        name
        for settings in (Sampling, DDPMSampling, VAESampling)
        for name in settings.__dataclass_fields__
    }
    console.refuse(of_any - set(fields), f"a network of this kind ({type(net).__name__})")
    if model.sampling_type is not DDPMSampling or model.null_class is None:
        console.refuse(
            {"cfg_scale", "LT_cfg", "ST_cfg", "branch_time"},
            "a network that knows no class for none",
        )
    elif (scale := options["cfg_scale"]) is not None:
        options |= {
            name: scale if options[name] is None else options[name] for name in ("LT_cfg", "ST_cfg")
        }
    return model.sampling(
        **{name: options[name] for name in fields if options.get(name) is not None}
    )


def _with_parts(net, path, device, precision, options):
    """The network with what it is sampled with: precision, decoder of latents, classifier."""
    import edm
    from dg.models.autoencoder import load_vae
    from dg.models.dit import LatentDiffusion
    from guided_diffusion import load_encoder

    if isinstance(net, edm.Preconditioner):
        net = net.with_fp16(net.use_fp16 and precision == "float16")
    if isinstance(net, LatentDiffusion):
        vae = options["vae"] or (path / "vae" if (path / "vae").is_dir() else "sd-vae-ft-mse")
        net = net.with_vae(load_vae(_file(vae), device))
    else:
        console.refuse({"vae"}, "a network that diffuses images")
    if options["classifier_scale"]:
        name = options["classifier_ckpt"] or f"adm-{net.img_resolution}-classifier"
        return net.with_classifier(load_encoder(_file(name), device))
    console.refuse({"classifier_ckpt"}, "a run without --classifier_scale")
    return net


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


def _guidance(net, sampling, device, precision, options):
    """The guidance that the options ask for, or None; for a network that has its parts."""
    terms = [
        _autoguidance(net, device, precision, options),
        _discriminator_guidance(net, sampling, device, options),
    ]
    given = [term for term in terms if term is not None]
    return reduce(add, given) if given else None


def _autoguidance(net, device, precision, options):
    """Guidance by a weaker network, or None."""
    if not (name := options["guide_network"]):
        console.refuse({"guide_scale"}, "a run without --guide_network")
        return None
    import edm
    from dg.guidance import Autoguidance
    from dg.models.loading import load_model

    if not isinstance(net, edm.Preconditioner):
        console.refuse({"guide_network"}, f"a {type(net).__name__}; it guides score networks alone")
    with console.option("--guide_network"):
        guide = load_model(_file(name), device)
        if not isinstance(guide, edm.Preconditioner):
            raise ValueError(f"{name} is a {type(guide).__name__}; give a score network")
        sizes = [(one.img_resolution, one.img_channels, one.label_dim) for one in (net, guide)]
        if sizes[0] != sizes[1]:
            found = ["{} pixels, {} channels and {} classes".format(*size) for size in sizes]
            raise ValueError(f"{name} has {found[1]}, but the network has {found[0]}")
    scale = 2.0 if options["guide_scale"] is None else options["guide_scale"]
    with console.option("--guide_scale"):
        return Autoguidance(guide.with_fp16(guide.use_fp16 and precision == "float16"), scale)


def _discriminator_guidance(net, sampling, device, options):
    """Guidance by a discriminator, or None."""
    first_weight = _first_weight(net, options)
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

    from dg.guidance import BOOSTING, DiscriminatorGuidance
    from dg.models.dit import DG_TIME_MIN, LatentDiffusion

    discriminator = _discriminator(net, sampling, device, options)
    boosting = None
    if options["boosting"]:
        boosting = replace(BOOSTING["authors"], S_churn=options["S_churn_manual"])
    time_min = options["time_min"]
    if time_min is None:
        time_min = DG_TIME_MIN if isinstance(net, LatentDiffusion) else 0.01
    return DiscriminatorGuidance(
        discriminator, weights, time_min, options["time_max"], boosting, options["dg_clip"]
    )


def _first_weight(net, options):
    """The weight of the first order, after refusing what means nothing for this kind of network."""
    from dg.models.discrete_diffusion import DiscreteDiffusion
    from dg.models.vae import VAE

    discrete = isinstance(net, DiscreteDiffusion)
    if isinstance(net, VAE):
        console.refuse(
            {"discriminator_ckpt", *GUIDANCE_OPTIONS}, "a VAE, which is sampled in one step"
        )
    if discrete:
        console.refuse(
            [name for name in ("w2", "boosting") if options[name]],
            f"a {type(net).__name__}, whose steps have one stage and no churn",
        )
    if options["w1"] is not None:
        return options["w1"]
    return 1 if discrete else 2


def _discriminator(net, sampling, device, options):
    """The discriminator from its files; one that does not fit the network is refused."""
    from dg.checkpoints import MissingLoRA, load_discriminator
    from dg.sampling import as_model

    heads = [_file(path) for path in options["discriminator_ckpt"]]
    try:
        discriminator = load_discriminator(
            _file(options["pretrained_classifier_ckpt"]),
            heads,
            net,
            device=device,
            lora_path=_file(_lora_path(options)),
            weights=options["member_weights"],
        )
    except MissingLoRA as error:
        raise click.UsageError(f"--lora_checkpoint: {error}") from None
    if options["cond"] is not None and bool(options["cond"]) != discriminator.conditional:
        found = "conditional" if discriminator.conditional else "unconditional"
        raise click.UsageError(f"--cond {int(options['cond'])}: the discriminator is {found}.")
    if discriminator.conditional and not as_model(net).num_classes(sampling):
        raise click.UsageError("the discriminator is conditional but the network draws no classes.")
    return discriminator


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
