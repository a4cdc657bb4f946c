"""Pictures and report of the comparison on MNIST, from its results file and the folders of its stages."""

import math

import numpy as np
import torch

import edm
from dg.data.datasets import ImageSet, load_images, to_uint8
from dg.evaluation import figures
from dg.evaluation.figures.style import mean_sd
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
from dg.evaluation.significance import paired_t
from dg.evaluation.trajectory import TrajectoryRecorder
from dg.models.discrete_sampling import as_cond_fn
from dg.models.vae_sampling import interpolate
from dg.sampling import draw_images

MODELS = {"edm": "EDM", "ddpm": "DDPM", "vae": "VAE"}
SYSTEMS = {
    "edm": "EDM",
    "edm_guided": "EDM, guided",
    "ddpm": "DDPM",
    "ddpm_guided": "DDPM, guided",
    "vae": "VAE",
}
COLUMNS = ["", "FD", "KID", "precision", "recall", "bits/dim"]
COST_COLUMNS = ["", "parameters", "training", "evaluations", "s / 1,000 images"]
KIND = {"edm": "probability flow", "ddpm": "bound", "vae": "bound"}


def write(folder, outcome: dict, experiment, paths) -> None:
    """Write the pictures, report.html and report.md to `folder`."""
    draw(folder, outcome, experiment, paths)
    document = describe(folder, outcome)
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def rows(outcome: dict) -> list[list[str]]:
    """Cells of the table of quality."""
    metrics = outcome["metrics"]
    table = [
        [
            system["title"],
            *_quality(metrics[name]),
            mean_sd(system["nll"]["mean"], system["nll"]["standard_error"]),
        ]
        for name, system in outcome["systems"].items()
    ]
    return [*table, ["train against test", *_quality(metrics["floor"]), ""]]


def cost_rows(outcome: dict) -> list[list[str]]:
    """Cells of the table of cost."""
    return [
        [
            system["title"],
            f"{system['parameters']:,}",
            _minutes(system["training_seconds"]),
            str(system["num_evaluations"]),
            f"{system['seconds_per_1000']:.1f}",
        ]
        for system in outcome["systems"].values()
    ]


def _quality(metrics) -> list[str]:
    return [
        mean_sd(metrics[name]["mean"], metrics[name]["sd"])
        for name in ("fd", "kid", "precision", "recall")
    ]


def winners(outcome: dict) -> list[list[str]]:
    """Who is best where, and how far ahead of the next in standard deviations (of the two together)."""
    systems, metrics = outcome["systems"], outcome["metrics"]
    plain = {name: system for name, system in systems.items()}

    def ranked(values, title, unit="", least=True):
        order = sorted(plain, key=lambda name: values[name][0] if least else -values[name][0])
        (first, sd0), (second, sd1) = (values[name] for name in order[:2])
        spread = math.hypot(sd0, sd1)
        ahead = f"{abs(first - second) / spread:.1f} sd" if spread else "measured once"
        return [
            title,
            systems[order[0]]["title"],
            f"{mean_sd(first, sd0)}{unit}",
            systems[order[1]]["title"],
            ahead,
        ]

    of = {
        metric: {
            name: (metrics[name][metric]["mean"], metrics[name][metric]["sd"]) for name in plain
        }
        for metric in ("fd", "kid", "precision", "recall")
    }
    return [
        ranked(of["fd"], "Fréchet distance"),
        ranked(of["kid"], "KID"),
        ranked(of["precision"], "precision", least=False),
        ranked(of["recall"], "recall", least=False),
        ranked(
            {n: (s["nll"]["mean"], s["nll"]["standard_error"]) for n, s in plain.items()},
            "bits/dim (± standard error)",
        ),
        ranked({n: (s["training_seconds"], 0.0) for n, s in plain.items()}, "training time", " s"),
        ranked(
            {n: (s["seconds_per_1000"], 0.0) for n, s in plain.items()},
            "sampling time",
            " s / 1,000",
        ),
    ]


def guidance_rows(outcome: dict) -> list[list[str]]:
    """What guidance does to each diffusion model: paired differences on equal seeds."""
    table = []
    for model, compared in outcome["comparison"].items():
        before, after = (outcome["metrics"][name]["fd"] for name in (model, f"{model}_guided"))
        fd = compared["fd"]
        sd = f"{-fd['difference'] / fd['sd']:.1f} sd" if fd["sd"] else ""
        test = paired_t(after["values"], before["values"]) if fd["sd"] else None
        table.append(
            [
                MODELS[model],
                mean_sd(before["mean"], before["sd"]),
                mean_sd(after["mean"], after["sd"]),
                f"{100 * (fd['ratio'] - 1):+.0f}%",
                sd,
                f"{test.p:.2g}" if test else "",
                f"{compared['recall']['difference']:+.3f}",
            ]
        )
    return table


def _minutes(seconds):
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def draw(folder, outcome, experiment, paths) -> None:
    """All pictures; everything they show comes from the stages' own files."""
    ylabels = {"edm": "EDM loss", "ddpm": "noise MSE", "vae": "−ELBO [bits/dim]"}
    figures.loss_curves(
        folder / "losses.png",
        {
            MODELS[model]: {"ylabel": ylabels[model], "log": log}
            for model, log in outcome["logs"].items()
        },
    )
    for model, training in outcome["discriminators"].items():
        if len(training["log"]) > 1:
            figures.training_curves(
                folder / f"curves-{model}.png",
                training["log"],
                title=f"Discriminator of {MODELS[model]}",
            )
    named = {SYSTEMS.get(name, name): metrics for name, metrics in outcome["metrics"].items()}
    figures.metric_bars(
        folder / "metrics.png",
        named,
        {
            "fd": "FD (lower is better)",
            "kid": "KID (lower is better)",
            "recall": "recall (higher is better)",
        },
    )
    figures.quality_against_cost(
        folder / "cost.png",
        {
            system["title"]: {"seconds": system["seconds_per_1000"]}
            | {k: outcome["metrics"][name]["fd"][k] for k in ("mean", "sd")}
            for name, system in outcome["systems"].items()
        },
        "FD",
    )
    for name in SYSTEMS:
        figures.image_grid(
            folder / f"{name}.png",
            images_of(paths, name, 100).images,
            columns=20,
            scale=1 if experiment.train.resolution > 20 else 4,
        )
    for model in ("edm", "ddpm"):
        before, after = (images_of(paths, name).images for name in (model, f"{model}_guided"))
        changes = np.abs(after.astype(int) - before).mean(axis=(1, 2, 3))
        figures.paired_grid(
            folder / f"pairs-{model}.png",
            before,
            after,
            {
                "Most changed": np.argsort(-changes)[:6].tolist(),
                "Random": np.random.default_rng(0).permutation(len(before))[:6].tolist(),
            },
        )
    vae, test = experiment.load(paths, "vae"), experiment.test
    strips = [interpolate(vae, test.images[i], test.images[i + 1], 10) for i in range(0, 8, 2)]
    figures.image_grid(folder / "interpolation.png", np.concatenate(strips), columns=10)
    _draw_strips(folder, experiment, paths)


def _draw_strips(folder, experiment, paths):
    """Denoised images along the way, of both diffusion models with and without guidance."""
    for model, trace in (("edm", _edm_trace), ("ddpm", _ddpm_trace)):
        net, strips, labels, levels = experiment.load(paths, model), [], [], []
        for name in (model, f"{model}_guided"):
            denoised, sigmas = trace(net, [0, 1], experiment, experiment.guidance(paths, name))
            every = max(len(sigmas) // 9, 1)
            levels = sigmas[::every]
            for row in range(2):
                strips.append(
                    np.stack([to_uint8(step[row : row + 1])[0] for step in denoised])[::every]
                )
                labels.append(f"seed {row}, {SYSTEMS[name]}")
        figures.denoising_strips(
            folder / f"strips-{model}.png",
            np.stack(strips),
            levels,
            labels,
            title=f"{MODELS[model]}: the denoised image, step by step",
        )


@torch.no_grad()
def _edm_trace(net, seeds, experiment, guidance):
    trace = TrajectoryRecorder(guidance)
    draw_images(net, seeds, experiment.settings.edm_sampling, trace, device=experiment.device)
    return trace.denoised, trace.sigmas


@torch.no_grad()
def _ddpm_trace(model, seeds, experiment, guidance):
    """Predicted clean images of DDIM steps, and their noise levels at EDM scale."""
    diffusion, denoised = model.respaced(str(experiment.settings.ddpm_sampling.num_steps)), []
    rnd = edm.StackedRandomGenerator(experiment.device, seeds)
    noise = rnd.randn(
        [len(seeds), model.img_channels, model.img_resolution, model.img_resolution],
        device=experiment.device,
    )
    classes = (
        rnd.randint(model.label_dim, size=[len(seeds)], device=experiment.device)
        if model.label_dim
        else None
    )
    one_hot = (
        None if classes is None else torch.eye(model.label_dim, device=experiment.device)[classes]
    )
    if guidance is not None:
        guidance.begin(noise)
    diffusion.ddim_sample_loop(
        model.net,
        noise.to(torch.float64),
        randn_like=rnd.randn_like,
        denoised_fn=lambda x: denoised.append(x) or x,
        cond_fn=guidance and as_cond_fn(guidance, diffusion, one_hot),
        model_kwargs={} if classes is None else {"y": classes},
    )
    alpha_bar = diffusion.schedule.alphas_cumprod[::-1]
    return denoised, np.sqrt((1 - alpha_bar) / alpha_bar)


def describe(folder, outcome) -> Document:
    """The report as plain data."""
    settings, metrics, systems, hardware = (
        outcome["settings"],
        outcome["metrics"],
        outcome["systems"],
        outcome["hardware"],
    )
    best = min(systems, key=lambda name: metrics[name]["fd"]["mean"])
    images = settings["num_sets"] * settings["num_images"]
    cards = [
        Card(
            "least Fréchet distance", f"{metrics[best]['fd']['mean']:.2f}", systems[best]["title"]
        ),
        *(
            Card(
                f"guidance of {MODELS[model]}",
                f"{100 * (c['fd']['ratio'] - 1):+.0f}%",
                f"FD {metrics[model]['fd']['mean']:.2f} → {metrics[f'{model}_guided']['fd']['mean']:.2f}",
            )
            for model, c in outcome["comparison"].items()
        ),
        Card(
            "fastest sampling",
            f"{min(s['seconds_per_1000'] for s in systems.values()):.1f} s",
            "for 1,000 images",
        ),
    ]
    return Document(
        "MNIST: EDM against DDPM and VAE",
        f"Three generative models trained on {outcome['data']} from scratch, and what a U-Net discriminator trained from scratch "
        f"adds to the two diffusion models. Budget: {settings['budget']}; mean and sd over {settings['num_sets']} sets of "
        f"{settings['num_images']:,} images.",
        cards,
        [
            Section(
                "Results",
                [
                    Table(COLUMNS, rows(outcome), caption=_caption(outcome)),
                    Table(COST_COLUMNS, cost_rows(outcome)),
                    Table(
                        ["", "best", "", "next", "ahead by"],
                        winners(outcome),
                        align="llrlr",
                        caption="sd: of the two values together, over the sets; of bits/dim standard errors over the same test "
                        "images, and a bound against an estimate. Times were measured once.",
                    ),
                    Picture(
                        folder / "metrics.png",
                        "The line is real against real: training images against the test images.",
                    ),
                    Picture(
                        folder / "cost.png",
                        f"Sampling time against distance; time of {images:,} images on "
                        f"{hardware.get('gpu') or hardware['cpu']}, one process per model.",
                    ),
                ],
            ),
            Section(
                "What guidance does",
                [
                    Table(
                        ["", "FD", "guided", "change", "better by", "p (paired)", "recall"],
                        guidance_rows(outcome),
                        caption="On equal seeds; better by: mean of the paired differences over their sd.",
                    ),
                    *_discriminators(folder, outcome),
                    Picture(folder / "pairs-edm.png", "EDM, same seeds."),
                    Picture(folder / "pairs-ddpm.png", "DDPM, same seeds."),
                    Picture(
                        folder / "strips-edm.png", "EDM's denoised image at falling noise level."
                    ),
                    Picture(folder / "strips-ddpm.png", "DDPM's, at the same scale."),
                ],
            ),
            Section(
                "Likelihood",
                [
                    "All values are bits per dimension of the 8-bit images as they are (no padding), uniform noise having 8. EDM: "
                    "likelihood of the probability flow of uniformly dequantised images, by Heun steps and Hutchinson's trace: an "
                    "estimate, not a bound; guided, the weight is the same at both stages. DDPM: the variational bound with the "
                    "discretised Gaussian decoder. VAE: the ELBO with discretised logistic pixels. A bound that is higher may be "
                    "loose rather than its model worse.",
                    Table(
                        ["", "what", "images", "bits/dim", "terms"],
                        [
                            [
                                system["title"],
                                KIND[name.split("_")[0]],
                                f"{system['nll']['n']:,}",
                                mean_sd(system["nll"]["mean"], system["nll"]["standard_error"]),
                                ", ".join(
                                    f"{term} {value:.2f}"
                                    for term, value in system["nll"]["terms"].items()
                                ),
                            ]
                            for name, system in systems.items()
                        ],
                        align="llrrl",
                    ),
                ],
            ),
            Section(
                "Training",
                [
                    Picture(
                        folder / "losses.png",
                        "Losses are on different scales: compare shapes. The test loss is of the averaged "
                        "weights on 256 test images with the same noise every time.",
                    )
                ],
            ),
            Section(
                "Images",
                [
                    *(
                        Picture(folder / f"{name}.png", f"{title}, not selected.")
                        for name, title in SYSTEMS.items()
                    ),
                    Picture(
                        folder / "interpolation.png",
                        "VAE: from one test image to another on the great circle "
                        "between their codes.",
                    ),
                ],
            ),
            Section("Deviations", _deviations(outcome)),
            Section(
                "How it was run",
                [
                    Code(outcome["command"]),
                    Table(
                        ["stage", "seconds"],
                        [[name, f"{value:.0f}"] for name, value in outcome["seconds"].items()],
                    ),
                    f"{hardware.get('gpu') or hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads per "
                    "process, on a CPU two processes side by side; "
                    + ", ".join(
                        f"{name} {version}" for name, version in outcome["versions"].items()
                    )
                    + ".",
                    "The complete settings stand in results.json beside this report.",
                ],
            ),
        ],
    )


def _discriminators(folder, outcome) -> list:
    """Curves of the discriminators, and what their validation says of what guidance can do."""
    pictures, said = [], []
    for model, training in outcome["discriminators"].items():
        best, last = training["best_epoch"], training["log"][-1]["epoch"]
        auc = next(entry["valid_auc"] for entry in training["log"] if entry["epoch"] == best)
        said.append(
            f"{MODELS[model]}: validation AUC {auc:.2f} at epoch {best}"
            + (
                ", the last one, its loss still falling: longer training would teach it more"
                if best == last
                else ""
            )
        )
        if last > 1:
            pictures.append(
                Picture(folder / f"curves-{model}.png", f"Discriminator of {MODELS[model]}.")
            )
    return [
        "A discriminator can correct only what it sees (AUC 0.5: nothing). "
        + "; ".join(said)
        + ".",
        *pictures,
    ]


def _caption(outcome) -> str:
    agreement = [
        f"{outcome['systems'][name]['title']} {100 * outcome['metrics'][name]['agreement']['mean']:.1f}%"
        for name in outcome["systems"]
        if "agreement" in outcome["metrics"][name]
    ]
    fid = [
        f"{outcome['systems'][name]['title']} {outcome['metrics'][name]['fid']['mean']:.2f}"
        for name in outcome["systems"]
        if "fid" in outcome["metrics"][name]
    ]
    text = (
        "Parameters and training of a guided model include its discriminator, and its training images. Features: "
        f"{outcome['extractor']['name']}; it names {100 * outcome['extractor']['test_accuracy']:.1f}% of the test images. No "
        "Inception FID: compare within this table only. "
    )
    text += f"In Inception's features, FID: {', '.join(fid)}. " if fid else ""
    return text + (
        f"Classifier agreement with the asked class: {', '.join(agreement)}." if agreement else ""
    )


def _deviations(outcome) -> list:
    settings, found = outcome["settings"], []
    ddpm = settings["ddpm"][1]
    seen = ddpm["steps"] * ddpm["batch_size"]
    found.append(
        f"The DDPM has seen {seen:,} training images ({seen / 60_000:.1f} epochs of MNIST; MNISTDiffusion trains for "
        "100 epochs). None of the models is at its best."
    )
    found.append(
        f"DDPM samples by DDIM in {settings['ddpm_sampling']['num_steps']} of its {ddpm['num_steps']:,} steps, clipped "
        f"to [-1, 1]; EDM by {settings['edm_sampling']['num_steps']} Heun steps. The VAE shows the means of its pixels."
    )
    if settings["num_images"] * settings["num_sets"] < 10_000:
        found.append(
            f"{settings['num_sets']} sets of {settings['num_images']} images in place of 10,000: distances carry the "
            "bias of that number, the floor has the same."
        )
    found.append(
        Note(
            "The VAE is no strong one (published ones with more latents and flows do better); it is here as the "
            "comparison that MNIST projects usually make."
        )
    )
    return found


def images_of(paths, system, count: int | None = None) -> ImageSet:
    """The first samples of a system."""
    images = load_images(paths[f"sample-{system}"] / "set0")
    return images.take(min(count, len(images))) if count else images
