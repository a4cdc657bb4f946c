#!/usr/bin/env python3
"""Generate images with a score network, DDPM, ADM or DiT, with or without discriminator guidance, or
with a VAE.

An image depends on its seed and on the settings, never on the batch or on the number of processes.

\b
Examples:
  # 64 images of a published network, which is downloaded once
  python generate.py --network edm-cifar10-32x32-uncond-vp --outdir out \\
      --seeds 0-63
  # the same seeds, guided by a discriminator on the ADM classifier's features
  python generate.py --network edm-cifar10-32x32-uncond-vp --outdir out-dg \\
      --seeds 0-63 --pretrained_classifier_ckpt 32x32_classifier.pt \\
      --discriminator_ckpt discriminator_60.pt
  # 50,000 images on all GPUs of a machine
  torchrun --standalone --nproc_per_node=gpu generate.py \\
      --network edm-cifar10-32x32-uncond-vp --outdir out --seeds 0-49999
  # 1,000 images of a network trained here, as PNGs
  python generate.py --network runs/by-hand/score/network.safetensors \\
      --outdir runs/by-hand/guided --num_samples 1000 --save_type png
  # a DDPM by DDIM in 50 steps
  python generate.py --network runs/mnist-ddpm/network.safetensors \\
      --outdir out-ddpm --seeds 0-63 --steps 50
  # a VAE
  python generate.py --network runs/mnist-vae/network.safetensors \\
      --outdir out-vae --seeds 0-63
  # DiT-XL/2 as published: classifier-free guidance 1.5, 250 steps
  python generate.py --network dit-xl-2-256 --outdir out-dit --seeds 0-63 \\
      --batch 16
  # ADM-G: an ADM with classifier guidance
  python generate.py --network adm-256 --outdir out-adm --seeds 0-63 \\
      --batch 16 --classifier_scale 1
  # DiT-XL/2-G++: DiT with discriminator guidance
  python generate.py --network dit-xl-2-256 --outdir out-dit-dg --seeds 0-63 \\
      --batch 16 --LT_cfg 1.25 --ST_cfg 3 --dg_time step \\
      --pretrained_classifier_ckpt latents/32x32_classifier.pt \\
      --discriminator_ckpt discriminator_7.pt
  # ADM-G++: ADM-G with a discriminator that train.py trained
  python generate.py --network adm-256 --outdir out-adm-dg --seeds 0-63 \\
      --batch 16 --classifier_scale 1 \\
      --pretrained_classifier_ckpt adm-256-classifier \\
      --discriminator_ckpt disc-adm/last.safetensors
  # image to image: from test images with the noise of half of the steps
  python generate.py --network mnist-14 --outdir out-edited --seeds 0-63 \\
      --image mnist-small-14:test --strength 0.5
  # autoguidance by the same network after fewer training steps
  python generate.py --network runs/by-hand/score/network.safetensors \\
      --outdir runs/by-hand/auto --seeds 0-63 --guide_scale 2 \\
      --guide_network runs/by-hand/early/network.safetensors
"""

import click

from dg.options.common import (
    SETTINGS,
    Command,
    finish,
    input_file,
    processes,
    texts,
    used,
    version,
)
from dg.options.computation import computation
from dg.options.generate import OPTIONS
from dg.options.guidance import guidance_of, is_asked_for
from dg.options.network import load
from dg.options.samplers import log_ratio_of, settings_class, with_image, with_log_ratio
from dg.runtime import console
from dg.runtime.run_folder import sole_writer

UNGUIDED = "unguided, as by EDM's generate.py: no option of discriminator guidance is given"


@click.command(cls=Command, sections=OPTIONS, **texts(__doc__), context_settings=SETTINGS)
@version
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
    precision,
    **options,
):
    seeds = _seeds(seeds, num_samples, seed)
    save_type = _save_type(save_type, subdirs)
    _check_precise(options["precise"], precision)
    import edm
    from dg.data.sample_store import SampleStore
    from dg.runtime.files import write_json
    from dg.runtime.processes import cpu_threads
    from dg.samplers.cost import measured_cost
    from dg.sampling import as_model, check_class, describe

    with processes() as ranks:
        device = console.pick_device(device, ranks.rank)
        path, taken = input_file(network), []
        net = load(path, device, taken.append, options)
        console.allow_tf32()
        sampling = _sampling(net, options)
        run = (outdir, -(-len(seeds) // batch), ranks, taken.append)
        how = computation(net, sampling, device, *run, precision, options)
        precision = how.precision
        net = _with_parts(net, path, device, precision, options)
        with console.option("--class"):
            check_class(net, class_idx, sampling)
        log_ratio = log_ratio_of(net, sampling, device, options)
        guidance = guidance_of(net, sampling, device, precision, options, log_ratio)
        if isinstance(net, edm.Preconditioner) and guidance is None and not is_asked_for():
            taken.append(UNGUIDED)
        what = (guidance, class_idx, precision)
        net = with_image(net, options, taken.append)
        with sole_writer(outdir, ranks):
            net, sampling = with_log_ratio(net, log_ratio, sampling, *what, outdir, device, ranks)
        settings = describe(net, sampling, guidance, class_idx, precision)
        if options["precise"] and device.type == "cuda":
            settings["exact"] = True  # TF32 makes other images
        names = _class_names(path, as_model(net).num_classes(sampling))
        with sole_writer(outdir, ranks):
            store = SampleStore(
                *(outdir, settings, seeds, batch, save_type, subdirs, names),
                used() | {"computation": how.describe()},
                ranks,
            )
            for line in taken if ranks.first else []:
                console.notify(line)
            if options["compiled"]:
                _compile(net, guidance)
            progress = console.stoppable(console.shown_by(ranks)[0])
            what = (sampling, guidance, class_idx, device)
            with cpu_threads(how.threads, device):
                made = _fill(net, store, *what, progress, ranks, precision, at_once=how.at_once)
            if not ranks.first:
                return
            if options["cost"]:
                write_json(store.outdir / "cost.json", measured_cost(net, *what, precision))
            trainable = isinstance(net, edm.Preconditioner) and guidance is None
            _tell(store, made, outdir, options, network if trainable else None)


def _check_precise(precise, precision):
    if precise and precision not in ("auto", "float32"):
        raise click.UsageError(
            f"--precise computes in float32, not in {precision}; give one of the two options."
        )


def _compile(net, guidance):
    from dg.precision import compile_networks
    from dg.sampling import as_model

    with console.option("--compile"):
        guides = [] if guidance is None else guidance.networks()
        compile_networks([*as_model(net).networks(), *guides])


def _fill(net, store, sampling, *how, at_once):
    """Fill the store by the sampler that was chosen."""
    from dg.samplers.constants import RejectionSampling
    from dg.samplers.filling import fill_by_rejection
    from dg.sampling import generate

    if isinstance(sampling, RejectionSampling):
        return fill_by_rejection(net, store, sampling, *how)
    return generate(net, store, sampling, *how, console.notify, at_once)


def _tell(store, made, outdir, options, network):
    """Draw the picture of the first images, and tell how the run ended.

    network  that a discriminator may be trained for, None where there is one or it takes another
    """
    for name in store.damaged:
        console.notify(f"{name} was damaged and has been made again")
    drawn = ""
    if options["grid"] and (number := options["grid_images"]):
        with console.as_notice("the grid of the first images"):
            _write_grid(store, number)
            drawn = "; the first in grid.png"
    speed = ", all of them were there already"
    if made.images:
        speed = f", {made.images / made.seconds:.1f} images/s"
    training = (
        "--network",
        network,
        "--data",
        "REAL",
        "--sample_dir",
        outdir,
        "--save_dir",
        "DISC",
    )
    finish(
        [f"{len(store.seeds)} images in {outdir}{speed}{drawn}"],
        ["fid.py", "--images", outdir, "--ref", "REFERENCE"],
        ["train.py", *training] if network else None,
    )


def _seeds(seeds, num_samples, seed):
    if seeds is None and num_samples is None:
        if is_asked_for() or console.given("seed"):
            raise click.UsageError(
                "the number of images is missing; give --seeds 0-63 or --num_samples 64."
            )
        if console.speaks():
            console.notify("seeds 0-63, as by EDM's generate.py: no number of images is given")
        seeds = range(64)
    from dg.data.sample_store import checked_seeds

    with console.option("--seed" if seeds is None else "--seeds"):
        return checked_seeds(range(seed, seed + num_samples) if seeds is None else seeds)


def _save_type(save_type, subdirs):
    """That of the files; folders of a thousand are for PNGs alone, which EDM's command writes."""
    if subdirs and save_type == "npz":
        raise click.UsageError("--subdirs is for PNGs; leave it out, or give --save_type png.")
    return save_type or ("png" if subdirs else "npz")


def _class_names(path, num_classes):
    """Names of the classes that pretrain.py has left beside a network; None if there are none."""
    from dg.runtime.files import read_json
    from edm.checkpoint import network_file

    record = network_file(path).with_name("training.json")
    known = read_json(record) if num_classes and record.is_file() else None
    names = known.get("class_names") if isinstance(known, dict) else None
    return names if isinstance(names, list) and len(names) == num_classes else None


def _sampling(net, options):
    """Sampling settings for a network of this kind. Options for other kinds are refused."""
    from dg.models.discrete_sampling import DDPMSampling
    from dg.models.vae_sampling import VAESampling
    from dg.sampling import Sampling, as_model

    model = as_model(net)
    kind, asked = settings_class(model, options)
    fields = kind.__dataclass_fields__
    of_any = {
        name
        for settings in (Sampling, DDPMSampling, VAESampling)
        for name in settings.__dataclass_fields__
    }
    if asked:
        of_any.discard("method")  # which has chosen the kind
    console.refuse(of_any - set(fields), asked or f"a network of this kind ({type(net).__name__})")
    if model.sampling_type is not DDPMSampling or model.null_class is None:
        console.refuse(
            {"cfg_scale", "LT_cfg", "ST_cfg", "branch_time"},
            "a network without a null class",
        )
    elif (scale := options["cfg_scale"]) is not None:
        options |= {
            name: scale if options[name] is None else options[name] for name in ("LT_cfg", "ST_cfg")
        }
    if model.sampling_type is not DDPMSampling:
        console.refuse({"use_ddim"}, f"a network of this kind ({type(net).__name__})")
    elif options["use_ddim"] is not None and options["method"] is None:
        options["method"] = "ddim" if options["use_ddim"] else "ancestral"
    given = {name: options[name] for name in fields if options.get(name) is not None}
    return model.sampling(**given) if kind is model.sampling_type else kind(**given)


def _with_parts(net, path, device, precision, options):
    """The network with its precision, its decoder of latents and its classifier."""
    import edm
    from dg.models.autoencoder import load_vae
    from dg.models.dit import LatentDiffusion
    from guided_diffusion import load_encoder

    if isinstance(net, edm.Preconditioner):
        net = net.with_fp16(net.use_fp16 and precision == "float16")
    if isinstance(net, LatentDiffusion):
        vae = options["vae"] or (path / "vae" if (path / "vae").is_dir() else "sd-vae-ft-mse")
        net = net.with_vae(load_vae(input_file(vae), device))
    else:
        console.refuse({"vae"}, "a network that diffuses images")
    if options["classifier_scale"]:
        name = options["classifier_ckpt"] or f"adm-{net.img_resolution}-classifier"
        return net.with_classifier(load_encoder(input_file(name), device))
    console.refuse({"classifier_ckpt"}, "a run without --classifier_scale")
    return net


def _write_grid(store, most):
    """Draw a picture of the first images into their folder; readers do not take it for an image,
    and it replaces no other picture."""
    from dg.data.reader import open_images
    from dg.data.sample_store import GRID
    from dg.evaluation.figures import image_grid, is_grid

    path = store.outdir / GRID
    if path.exists() and not is_grid(path):
        told = "is another picture, or an older version's; move it away, or leave the grid out"
        raise ValueError(f"{path} {told}")
    stream = open_images(store.outdir)
    _, images = next(stream.batches(stream.positions(min(most, len(store.seeds))), most))
    image_grid(path, images)


if __name__ == "__main__":
    console.run(main)
