"""What a report says of the window and weight that the diagnosis suggests, beside those that a
search found."""

from dg.evaluation.diagnosis_report import sentence, suggestion
from dg.experiments.pictures import Source
from dg.experiments.tables import distance_name


def suggested(source: Source) -> list:
    """The suggestion in words, and the share of the gain of the search that it reaches."""
    outcome, found = source.outcome, source.outcome["suggestion"]
    if not found:
        return []
    unguided, searched, followed = (
        outcome["metrics"][name]["fd"]["mean"] for name in ("unguided", "guided", "suggested")
    )
    text = (
        f"The diagnosis (fid.py diagnose) looks at {found['images']:,} test images and as many "
        "generated ones; the discriminator has learned from neither. Its verdict is: "
        f"{found['verdict']}. {sentence(found['reason'])} {_advice(found)} With that, "
        f"{distance_name(outcome)} changes by {followed - unguided:+.2f}; with the weight of the "
        f"search by {searched - unguided:+.2f}."
    )
    if searched < unguided:
        share = (unguided - followed) / (unguided - searched)
        text += f" The suggestion reaches {100 * share:.0f}% of the gain of the search."
    return [text]


def _advice(found: dict) -> str:
    if not any(found["weights"]):
        return "It suggests no weight, so nothing is guided."
    told = suggestion({"weight": {"value": found["weights"][0]}, "window": found["window"]})
    return told.replace("suggested:", "It suggests") + "."
