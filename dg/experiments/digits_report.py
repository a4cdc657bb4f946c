"""Pictures and report of the digits experiment, from its results file and the folders of its stages."""

import json

import numpy as np
import torch

import edm
from dg.checkpoints import load_discriminator
from dg.data.datasets import load_images, to_float, to_uint8
from dg.evaluation import figures
from dg.evaluation.report import (
    Card,
    Code,
    Document,
    Note,
    Picture,
    Section,
    Table,
    write_markdown,
    write_report,
)
from dg.evaluation.trajectory import TrajectoryRecorder
from dg.guidance import DiscriminatorGuidance
from dg.runtime.randomness import step_generator
from dg.sampling import draw_images

SYSTEMS = {
    "unguided": "unguided",
    "guided": "guided",
    "longer": "unguided, trained longer",
    "floor": "real against real",
}
METRICS = {
    "fd": "FD",
    "fd_heldout": "FD held out",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "fd_pixels": "FD in pixels",
}
DIGITS = {"fd": 2, "fd_heldout": 2}  # decimals shown; 3 for the others
HISTOGRAM_SIGMAS = (0.1, 0.3, 1.0, 3.0)

BY_HAND = """\
python pretrain.py features --data digits:train --outdir runs/by-hand/features
python pretrain.py score --preset digits --data digits:train --outdir runs/by-hand/score
python generate.py --network runs/by-hand/score/network.safetensors --outdir runs/by-hand/fake \\
    --num_samples 3000 --seed 1000000 --batch 250
python train.py --preset digits --network runs/by-hand/score/network.safetensors --data digits:train \\
    --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc
python generate.py --network runs/by-hand/score/network.safetensors --outdir runs/by-hand/unguided \\
    --num_samples 1000 --batch 250
python generate.py --network runs/by-hand/score/network.safetensors --outdir runs/by-hand/guided \\
    --num_samples 1000 --batch 250 --discriminator_ckpt runs/by-hand/disc/best.safetensors --w_dg_1 {weight:g} \\
    --time_max {time_max:g}
python fid.py --images runs/by-hand/unguided --images runs/by-hand/guided --ref digits \\
    --features runs/by-hand/features/classifier.safetensors"""


def write(folder, outcome: dict, experiment, paths) -> None:
    """Write the pictures, report.html and report.md to `folder`."""
    draw(folder, outcome, experiment, paths)
    document = describe(folder, outcome)
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    lines = [f"{'':<26}" + "".join(f"{title:>17}" for title in METRICS.values())]
    lines += [
        f"{row[0]:<26}" + "".join(f"{cell:>17}" for cell in row[1:]) for row in metric_rows(outcome)
    ]
    return "\n".join(lines)


def metric_rows(outcome):
    def cell(entry, decimals):
        return f"{entry['mean']:.{decimals}f} ± {entry['sd']:.{decimals}f}"

    return [
        [title, *(cell(outcome["metrics"][system][name], DIGITS.get(name, 3)) for name in METRICS)]
        for system, title in SYSTEMS.items()
    ]


def draw(folder, outcome, experiment, paths) -> None:
    """All pictures; everything they show comes from the stages' own files."""
    before, after = (
        load_images(paths[system] / "set0").images for system in ("unguided", "guided")
    )
    changes = np.abs(after.astype(int) - before).mean(axis=(1, 2, 3))
    picks = {
        "Most changed": np.argsort(-changes)[:8].tolist(),
        "Random": np.random.default_rng(0).permutation(len(before))[:8].tolist(),
    }
    figures.paired_grid(folder / "pairs.png", before, after, picks)
    side = min(len(before), 100)
    figures.image_grid(folder / "unguided.png", before[:side], columns=10)
    figures.image_grid(folder / "guided.png", after[:side], columns=10)
    log = [
        json.loads(line) for line in (paths["discriminator"] / "log.jsonl").read_text().splitlines()
    ]
    figures.training_curves(folder / "curves.png", log)
    _draw_sweep(folder, outcome)
    figures.metric_bars(
        folder / "metrics.png",
        outcome["metrics"],
        {
            "fd": "FD (lower is better)",
            "fd_heldout": "FD against held-out images (lower is better)",
            "kid": "KID (lower is better)",
        },
    )
    net = edm.load_network(paths["score"] / "network.safetensors", experiment.device)
    discriminator = load_discriminator(
        None, paths["discriminator"] / "best.safetensors", net, device=experiment.device
    )
    _draw_histograms(folder, discriminator, experiment, before)
    _draw_strips(folder, net, discriminator, outcome, experiment, picks["Most changed"][:3])


def _draw_sweep(folder, outcome):
    selection = outcome["selection"]
    table = dict(selection["fd"])
    weights = [weight for weight in table if weight]
    figures.distance_sweep(
        folder / "weights.png",
        weights,
        [table[w] for w in weights],
        [0.0] * len(weights),
        baseline=(table[0.0], 0.0),
        chosen=selection["chosen"],
        ylabel="FD to the real training images",
        title="Choice of the guidance weight (seeds of its own)",
    )


@torch.no_grad()
def _draw_histograms(folder, discriminator, experiment, generated):
    real, fake = to_float(experiment.heldout.images), to_float(generated[: len(experiment.heldout)])
    ratios = {"real": [], "fake": []}
    for index, sigma in enumerate(HISTOGRAM_SIGMAS):
        for name, images in (("real", real), ("fake", fake)):
            generator = step_generator(0, f"histogram-{name}", index)
            noisy = images + sigma * torch.randn(images.shape, generator=generator)
            logits = discriminator(
                noisy.to(experiment.device), torch.tensor(sigma, device=experiment.device)
            )
            ratios[name].append(logits.cpu().numpy())
    figures.log_ratio_histograms(
        folder / "log_ratio.png",
        HISTOGRAM_SIGMAS,
        ratios["real"],
        ratios["fake"],
        title="Log ratio of held-out real and of new generated images",
    )


def _draw_strips(folder, net, discriminator, outcome, experiment, seeds):
    guidance = DiscriminatorGuidance(
        discriminator,
        (outcome["selection"]["chosen"], 0.0),
        time_max=outcome["settings"]["time_max"],
    )
    traces = [TrajectoryRecorder(), TrajectoryRecorder(guidance)]
    for trace in traces:
        draw_images(net, seeds, experiment.settings.sampling, trace, device=experiment.device)
    strips, labels = [], []
    for row, seed in enumerate(seeds):
        for name, trace in zip(("unguided", "guided"), traces, strict=True):
            strips.append(np.stack([to_uint8(step[row : row + 1])[0] for step in trace.denoised]))
            labels.append(f"seed {seed}, {name}")
    every = max(len(traces[0].sigmas) // 9, 1)
    figures.denoising_strips(
        folder / "strips.png",
        np.stack(strips)[:, ::every],
        traces[0].sigmas[::every],
        labels,
        title="Denoised image, step by step",
    )


def describe(folder, outcome) -> Document:
    """The report as plain data."""
    metrics, compared, seconds = outcome["metrics"], outcome["comparison"], outcome["seconds"]
    fd = {system: metrics[system]["fd"] for system in metrics}
    weight, settings = outcome["selection"]["chosen"], outcome["settings"]
    steps, longer = settings["score"]["steps"], settings["longer_steps"]
    share = 100 * (compared["fd"]["ratio"] - 1)
    cards = [
        Card(
            "Fréchet distance",
            f"{fd['unguided']['mean']:.2f} → {fd['guided']['mean']:.2f}",
            f"{share:+.0f}% with guidance",
        ),
        Card(
            "against held-out images",
            f"{100 * (compared['fd_heldout']['ratio'] - 1):+.0f}%",
            "of the Fréchet distance; images that nothing was trained on",
        ),
        Card(
            "KID",
            f"{100 * (compared['kid']['ratio'] - 1):+.0f}%",
            "same features, another distance",
        ),
        Card("recall", f"{compared['recall']['difference']:+.3f}", "diversity: should not fall"),
    ]
    lead = (
        f"A small diffusion model of 8 × 8 hand-written digits, sampled from the same seeds without and with "
        f"discriminator guidance (first-order weight {weight:g}). Mean and standard deviation over "
        f"{settings['num_sets']} sets of {settings['num_images']} images each."
    )
    return Document(
        "Discriminator guidance on hand-written digits",
        lead,
        cards,
        [
            Section(
                "Results",
                [
                    Table(
                        ["", *METRICS.values()],
                        metric_rows(outcome),
                        highlight=1,
                        caption="FD: Fréchet distance to all 1,797 real digits; held out: to the 360 that no network has seen; "
                        "in pixels: without the classifier. Precision and recall: k = 3.",
                    ),
                    Picture(
                        folder / "metrics.png",
                        "Distances of all systems; the line is the floor, real against real images.",
                    ),
                    f"The paired difference of FD on equal seeds is {compared['fd']['difference']:.3f} with a standard deviation "
                    f"of {compared['fd']['sd']:.3f} over the sets.",
                    Note(
                        "These are distances in the features of a small classifier trained on the real training digits "
                        f"(it names {100 * outcome['extractor']['heldout_accuracy']:.1f}% of the held-out ones). They are no "
                        "Inception FID and compare within this report only."
                    ),
                    Note(
                        f"Would the time be better spent on the network? The row “{SYSTEMS['longer']}” is the same network after "
                        f"{longer} more steps than its {steps}, which took {seconds['longer_training']:.0f} s; generating the "
                        f"discriminator's training images, training it and sampling with it took {outcome['guidance_seconds']:.0f}"
                        f" s. FD: {fd['longer']['mean']:.2f} with longer training, {fd['guided']['mean']:.2f} with guidance. "
                        "Where a network can still be trained, train it; guidance is for networks that are given."
                    ),
                ],
            ),
            Section(
                "Same seeds, before and after",
                [
                    Picture(
                        folder / "pairs.png",
                        "Most changed pairs beside random ones. Most images hardly change.",
                    ),
                    Picture(folder / "unguided.png", "The first hundred images, unguided."),
                    Picture(
                        folder / "guided.png", f"The same seeds, guided with weight {weight:g}."
                    ),
                    Picture(
                        folder / "strips.png",
                        "The denoised image at falling noise level; guidance acts at every step.",
                    ),
                ],
            ),
            Section(
                "The discriminator",
                [
                    "A small head on the score network's own frozen encoder, which sees the noisy image at the same noise level: "
                    "its forward pass is the one that denoises anyway. It is trained to tell real from generated images, and its "
                    "logit estimates the log density ratio whose gradient corrects the score.",
                    Picture(
                        folder / "curves.png",
                        "Loss and accuracy on training and validation images; the best epoch is kept.",
                    ),
                    Picture(
                        folder / "log_ratio.png",
                        "Held-out real against new generated images, which training has not seen.",
                    ),
                ],
            ),
            Section(
                "The guidance weight",
                [
                    Picture(
                        folder / "weights.png",
                        "Chosen on seeds of their own, against the training images; the numbers "
                        "above use neither.",
                    )
                ],
            ),
            Section(
                "How it was run",
                [
                    Code(outcome["command"]),
                    Table(
                        ["stage", "seconds"],
                        [[name, f"{value:.1f}"] for name, value in seconds.items()],
                    ),
                    f"{outcome['hardware']['cpu']}, {outcome['hardware']['cores']} cores, {outcome['hardware']['threads']} "
                    f"threads per process, device {outcome['hardware']['device']}; guided and unguided sets side by side in two "
                    "processes on a CPU; "
                    + ", ".join(
                        f"{name} {version}" for name, version in outcome["versions"].items()
                    )
                    + ".",
                    "The same experiment by hand:",
                    Code(BY_HAND.format(weight=weight, time_max=settings["time_max"])),
                ],
            ),
        ],
    )
