"""What a report says of the window and weight that the diagnosis suggests, beside those that a
search found."""

from dg.evaluation.diagnosis_report import sentence, suggestion
from dg.evaluation.report import Table
from dg.experiments.pictures import Source
from dg.experiments.tables import distance_name

STAGES = {"search": ("weights",), "diagnosis": ("fake-diagnosed", "suggestion")}


def suggested(source: Source) -> list:
    """The suggestion in words, then what it and the search change and take, with the share of the
    gain of the search that the suggestion reaches."""
    outcome, found = source.outcome, source.outcome["suggestion"]
    if not found:
        return []
    text = (
        f"The diagnosis (fid.py diagnose) looks at {found['images']:,} test images and as many "
        "generated ones; the discriminator has learned from neither. Its verdict is: "
        f"{found['verdict']}. {sentence(found['reason'])} {_advice(found)}"
    )
    unguided, searched, followed = (
        outcome["metrics"][name]["fd"]["mean"] for name in ("unguided", "guided", "suggested")
    )
    changes = {"search": searched - unguided, "diagnosis": followed - unguided}
    took = {
        name: sum(outcome["seconds"][stage] for stage in stages) for name, stages in STAGES.items()
    }
    caption = (
        "The time is that of the search, or of the diagnosis and its generated images; what both "
        "share and the guided images are left out."
    )
    if searched < unguided:
        share = (unguided - followed) / (unguided - searched)
        caption += f" The suggestion reaches {100 * share:.0f}% of the gain of the search."
    columns = ["weight and window of the", f"change of {distance_name(outcome)}", "seconds"]
    rows = [[name, f"{changes[name]:+.2f}", f"{took[name]:.0f}"] for name in STAGES]
    return [text, Table(columns, rows, caption=caption)]


def _advice(found: dict) -> str:
    if not any(found["weights"]):
        return "It suggests no weight, so nothing is guided."
    told = suggestion({"weight": {"value": found["weights"][0]}, "window": found["window"]})
    return told.replace("suggested:", "It suggests") + "."
