"""How far this implementation is from the reference vectors in tests/golden, which the original
code computed.

    python -m benchmarks.parity            # prints a Markdown table
    python -m benchmarks.parity --write    # and puts it into docs/parity.md

Errors are maxima over a case, relative to the largest entry of the array ("rel") or absolute
("abs").
"""

import platform
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

import edm
from dg.guidance import BOOSTING, DiscriminatorGuidance
from tests import golden_fill
from tests.dg.test_guidance import stack
from tests.edm.test_networks import SMALL, arguments, build

FULL = "a_full_cifar10_ddpmpp_uncond"
Row = tuple[str, str, float, str]  # case, quantity, error, tolerance


def relative(actual, expected) -> float:
    return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())


def absolute(actual, expected) -> float:
    return float(np.abs(np.asarray(actual, np.float64) - expected).max())


def networks() -> list[Row]:
    rows = []
    for case in [*SMALL, FULL]:
        arrays, config = golden_fill.load(case)
        error = relative(build(config, arrays)(*arguments(arrays)), arrays["denoised"])
        rows.append((case, "denoised, rel", error, "2e-5"))
    return rows


def samplers() -> list[Row]:
    rows = []
    for case, measure, tolerance in (
        ("e_edm_sampler", absolute, "2e-4"),
        ("e_ablation_sampler", relative, "1e-4"),
    ):
        arrays, config = golden_fill.load(case)
        nets = {n: build(c, arrays, gain=0.6, prefix=f"{n}:") for n, c in config["nets"].items()}
        errors, pixels = [], []
        for name, run in config["runs"].items():
            rnd = edm.StackedRandomGenerator("cpu", config["seeds"])
            net, sampler = nets[run["net"]], getattr(edm, f"{run['sampler']}_sampler")
            images = _sample(net, rnd, partial(sampler, randn_like=rnd.randn_like, **run["kwargs"]))
            errors.append(measure(images, arrays[f"{name}:images"]))
            pixels.append(_pixels_off(images, arrays[f"{name}:uint8"]))
        kind = "abs" if measure is absolute else "rel"
        rows.append((f"{case} ({len(errors)} runs)", f"images, {kind}", max(errors), tolerance))
        rows.append(
            (f"{case} ({len(errors)} runs)", "8-bit values off by one, share", max(pixels), "2e-3")
        )
    return rows


def guidance() -> list[Row]:
    rows = []
    for case in (
        "d_grad32_uncond",
        "d_grad32_cond_onehot",
        "d_grad32_saturated",
        "d_grad64_uncond",
    ):
        arrays, config = golden_fill.load(case)
        discriminator = stack(config, "cosine" if config["img_resolution"] == 64 else "linear")
        labels = (
            torch.from_numpy(arrays["class_labels"]) if "class_labels" in arrays.files else None
        )
        steered = DiscriminatorGuidance(discriminator, (1.0, 0.0), 0.0, 1.0, clip=1e-5)
        gradients, ratios = [], []
        for k, sigma in enumerate(torch.from_numpy(arrays["sigma"])):
            if arrays["active"][k]:
                x = torch.from_numpy(arrays["image"]) + sigma.reshape(
                    -1, 1, 1, 1
                ) * torch.from_numpy(arrays["noise"])
                gradients.append(
                    relative(-steered.correction(x, sigma, labels), arrays["guidance"][k])
                )
                ratios.append(absolute(steered.log_ratio(x, sigma, labels), arrays["log_ratio"][k]))
        rows.append((case, "guidance, rel", max(gradients), "1e-4"))
        rows.append((case, "log ratio, abs", max(ratios), "4e-5"))
    return rows


def guided_sampler() -> list[Row]:
    rows = []
    for case in ("e_dg_sampler_uncond", "e_dg_sampler_cond"):
        arrays, config = golden_fill.load(case)
        net, discriminator = build(config["net"], gain=0.6), stack(config["stack"])
        errors, pixels = [], []
        for name, run in config["runs"].items():
            kwargs = dict(run)
            boosting = BOOSTING["authors"] if kwargs.pop("boosting") else None
            weights, window = (
                (kwargs.pop("w1"), kwargs.pop("w2")),
                (kwargs.pop("time_min"), kwargs.pop("time_max")),
            )
            steered = DiscriminatorGuidance(
                discriminator, weights, *window, boosting=boosting, clip=1e-5
            )
            rnd = edm.StackedRandomGenerator("cpu", config["seeds"])
            images = _sample(
                net,
                rnd,
                partial(edm.edm_sampler, randn_like=rnd.randn_like, guidance=steered, **kwargs),
            )
            errors.append(absolute(images, arrays[f"{name}:images"]))
            pixels.append(_pixels_off(images, arrays[f"{name}:uint8"]))
        rows.append((f"{case} ({len(errors)} runs)", "images, abs", max(errors), "2e-4"))
        rows.append(
            (f"{case} ({len(errors)} runs)", "8-bit values off by one, share", max(pixels), "2e-3")
        )
    return rows


def _sample(net, rnd, sampler):
    n = len(rnd.generators)
    latents = rnd.randn([n, net.img_channels, net.img_resolution, net.img_resolution])
    labels = (
        torch.eye(net.label_dim)[rnd.randint(net.label_dim, size=[n])] if net.label_dim else None
    )
    return sampler(net, latents, labels)


def _pixels_off(images, expected) -> float:
    pixels = (images * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return float((pixels != expected).mean())


def main() -> None:
    rows = [*networks(), *samplers(), *guidance(), *guided_sampler()]
    lines = ["| case | quantity | measured error | tolerance |", "|---|---|---|---|"]
    lines += [
        f"| {case} | {quantity} | {error:.1e} | {tolerance} |"
        for case, quantity, error, tolerance in rows
    ]
    lines += [
        "",
        f"torch {torch.__version__.split('+')[0]}, {platform.machine()} CPU, "
        f"{torch.get_num_threads()} threads.",
    ]
    print("\n".join(lines))
    if "--write" in sys.argv:
        path = Path("docs/parity.md")
        marks = re.compile(r"(<!-- parity -->\n).*?(<!-- /parity -->)", re.DOTALL)
        table = "\n".join(lines)
        path.write_text(marks.sub(lambda match: f"{match[1]}{table}\n{match[2]}", path.read_text()))


if __name__ == "__main__":
    main()
