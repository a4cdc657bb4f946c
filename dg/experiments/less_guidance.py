"""The study of gain against cost: a discriminator that is evaluated less often, or is smaller, as
plain data of a setting."""

from dataclasses import replace

from dg.experiments.methods import given_head
from dg.experiments.setting import Setting
from dg.experiments.study import Head, System

SECTIONS = ("gain", "pairs", "discriminators", "deviations", "run")
STEPS = ((1, "every step"), (2, "every second step"), (3, "every third step"))


def systems(setting: Setting) -> dict[str, System]:
    """The setting's guidance and both orders; fewer steps, other windows, smaller heads."""
    head, half = (given_head(setting),), setting.weights[0] / 2
    found = {
        "guided": System("full guidance", head, line="full guidance"),
        "both-orders": System("both orders", head, (half, half), line="both orders"),
    }
    for between in ("rescale", "keep"):
        for every, told in STEPS[1:]:
            sparse = System(f"{told}, {between}", head, every=every, between=between)
            found[f"{between}-{every}"] = replace(sparse, line=f"fewer steps, {between}")
    for end in (end for end in (1.0, 0.5, 0.3) if end != setting.window[1]):
        short = System("", head, window=(0.01, end), line=f"VP time up to {end:g}")
        for every, told in STEPS:
            title = f"{short.line}, {told}"
            found[f"to-{end:g}-{every}"] = replace(short, title=title, every=every)
    for name, width in (("score", 32), ("score-narrow", 16)):
        small = System("", (Head(name),), line=f"own encoder, {width} channels")
        for every, told in STEPS[:2]:
            title = f"{small.line}, {told}"
            found[f"{name}-{every}"] = replace(small, title=title, every=every)
    return found
