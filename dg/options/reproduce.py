"""Options of reproduce.py."""

import click

from dg.experiments.registry import SETTINGS
from dg.options.common import DEVICE

OPTIONS = {
    "Experiment": [
        click.option(
            "--setting",
            "--world",
            type=click.Choice(SETTINGS),
            metavar="NAME",
            help=f"Data, networks and sizes of a study: {', '.join(SETTINGS)}.  [default: "
            "cifar10-uncond; churn: cifar10-cond]",
        ),
        click.option(
            "--network",
            metavar="PATH",
            help="Score network in place of that of --setting: a file, or a folder of pretrain.py. "
            "Its name is added to that of the results.",
        ),
        click.option(
            "--data",
            metavar="PATH",
            help="Data set of the experiment, if it is neither embedded nor downloaded.",
        ),
        click.option(
            "--samples",
            type=click.IntRange(min=2),
            metavar="N",
            help="Images of every system, all sets together.  [default: the setting's]",
        ),
        click.option(
            "--seeds-per-set",
            type=click.IntRange(min=2),
            metavar="N",
            help="Images of one measured set. There are --samples / N sets.  [default: the "
            "setting's]",
        ),
        click.option(
            "--from-scratch",
            is_flag=True,
            help="Train every network anew, in place of those in pretrained/. This takes hours on "
            "a CPU.",
        ),
        click.option(
            "--profile",
            type=click.Choice(["full", "smoke"]),
            default="full",
            help="Size of the run; smoke is tiny and only shows that everything runs.",
        ),
    ],
    "Stages": [
        click.option(
            "--dry-run", is_flag=True, help="Print the stages and their cost, and run nothing."
        ),
        click.option(
            "--stage", metavar="STAGE", help="Run only this stage and the stages it needs."
        ),
        click.option(
            "--shard",
            metavar="I/N",
            help="Make the I-th of N parts of the images of --stage, I from 0 to N - 1 (imagenet "
            "only). The command without --shard makes the rest and measures.",
        ),
        click.option(
            "--fresh",
            is_flag=True,
            help="Remove the files of earlier runs first; for a study all files of its setting. "
            "imagenet-adm and imagenet-adm-weights have theirs together.",
        ),
    ],
    "Files and computation": [
        click.option(
            "--runs", default="runs", metavar="DIR", help="Folder for intermediate files."
        ),
        click.option(
            "--results",
            default="results",
            metavar="DIR",
            help="Folder for results.json, pictures and report.",
        ),
        click.option(
            "--report-only",
            is_flag=True,
            help="Run nothing: make the report again from results.json, in DIR/NAME of --results "
            "or else of docs/results. Pictures of images stay as they are.",
        ),
        click.option(
            "--publish",
            is_flag=True,
            help="Also copy results and pictures to docs/results/NAME and fill the tables of "
            "README.md and docs/*.md.",
        ),
        DEVICE,
    ],
}
# Each experiment as commands; {weight} is the guidance weight that it chose.
QUICKSTART = """\
# 4,500 images of the network that ships: what the discriminator learns to tell from real ones
python generate.py --network mnist-14 --outdir runs/by-hand/fake --num_samples 4500 --seed 1000000
# a discriminator: a small head on the features of a frozen classifier of noisy images
python train.py --preset mnist-14 --epochs 5 --width 32 \\
    --pretrained_classifier_ckpt mnist-14-noisy-classifier --data mnist-small-14:train \\
    --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc
# the same seeds without and with guidance
python generate.py --network mnist-14 --outdir runs/by-hand/unguided --num_samples 1500
python generate.py --network mnist-14 --outdir runs/by-hand/guided --num_samples 1500 \\
    --pretrained_classifier_ckpt mnist-14-noisy-classifier \\
    --discriminator_ckpt runs/by-hand/disc/last.safetensors --w_dg_1 {weight:g} --time_max 0.3
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
