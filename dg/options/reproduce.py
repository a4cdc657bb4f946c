"""Options of reproduce.py."""

import click

from dg.experiments.registry import SETTINGS

OPTIONS = [
    click.option(
        "--setting",
        "--world",
        type=click.Choice(SETTINGS),
        help="Where to run a study: data, networks, sizes. Also --world.  [default: "
        "cifar10-uncond, churn: cifar10-cond]",
    ),
    click.option(
        "--profile",
        type=click.Choice(["full", "smoke"]),
        default="full",
        help="smoke: tiny and meaningless, to see that everything runs.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print the stages and what they would cost, and run nothing.",
    ),
    click.option(
        "--stage", metavar="STAGE", help="Run this stage and what it needs, and nothing else."
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=2),
        metavar="N",
        help="Images of every system in all.  [default: the setting's]",
    ),
    click.option(
        "--seeds-per-set",
        type=click.IntRange(min=2),
        metavar="N",
        help="Images of a measured set; --samples / N sets.  [default: the setting's]",
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Of imagenet: make only every N-th part of the images of --stage, from part I on, "
        "counted from 0. Without it afterwards the rest is made and measured.",
    ),
    click.option(
        "--fresh",
        is_flag=True,
        help="Forget what earlier runs made; of a study: everything in its setting.",
    ),
    click.option(
        "--data",
        metavar="PATH",
        help="Data set of the experiment, where it is not embedded or downloaded.",
    ),
    click.option(
        "--from-scratch",
        is_flag=True,
        help="Train every network anew, in place of those in pretrained/: hours on a CPU.",
    ),
    click.option("--runs", default="runs", metavar="DIR", help="Where intermediate files stay."),
    click.option(
        "--results",
        default="results",
        metavar="DIR",
        help="Where results.json, pictures and report go.",
    ),
    click.option(
        "--report-only",
        is_flag=True,
        help="Run nothing: make the report again from results.json, in DIR/NAME of --results or "
        "else of docs/results. Pictures of images stay as they are.",
    ),
    click.option(
        "--publish",
        is_flag=True,
        help="Copy results and pictures to docs/results/NAME, fill the README.",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
]
# What an experiment does, in commands; {weight} is the one that was chosen.
QUICKSTART = """\
# 5,000 images of the network that ships: what the discriminator learns to tell from real ones
python generate.py --network mnist-14 --outdir runs/by-hand/fake --num_samples 5000 --seed 1000000
# a discriminator: a small head on the features of a frozen classifier of noisy images
python train.py --preset mnist-14 --width 64 --pretrained_classifier_ckpt mnist-14-noisy-classifier \\
    --data mnist-small-14:train --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc --num_data 5000
# the same seeds without and with guidance
python generate.py --network mnist-14 --outdir runs/by-hand/unguided --num_samples 1500
python generate.py --network mnist-14 --outdir runs/by-hand/guided --num_samples 1500 \\
    --pretrained_classifier_ckpt mnist-14-noisy-classifier \\
    --discriminator_ckpt runs/by-hand/disc/last.safetensors --w_dg_1 {weight:g} --time_max 0.5
# their distances to test images, and whether they are copies of training images
python fid.py --images runs/by-hand/unguided --images runs/by-hand/guided --ref mnist-small-14:test \\
    --train mnist-small-14:train --features mnist-14-features"""
DIGITS = """\
score=runs/by-hand/score/network.safetensors
python pretrain.py features --data digits:train --outdir runs/by-hand/features
python pretrain.py score --preset digits --data digits:train --outdir runs/by-hand/score
python generate.py --network $score --outdir runs/by-hand/fake --num_samples 3000 \\
    --seed 1000000 --batch 250
python train.py --preset digits --network $score --data digits:train \\
    --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc
python generate.py --network $score --outdir runs/by-hand/unguided --num_samples 1000 --batch 250
python generate.py --network $score --outdir runs/by-hand/guided --num_samples 1000 --batch 250 \\
    --discriminator_ckpt runs/by-hand/disc/best.safetensors --w_dg_1 {weight:g} --time_max 0.6
python fid.py --images runs/by-hand/unguided --images runs/by-hand/guided --ref digits \\
    --features runs/by-hand/features/classifier.safetensors"""
BY_HAND = {"quickstart": QUICKSTART, "digits": DIGITS}
