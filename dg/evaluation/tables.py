"""Tables of measurements for the terminal."""

from dg.evaluation.measure import METRICS
from dg.evaluation.report import text_of


def measurement_table(results: dict) -> str:
    """Lines for the terminal: what was compared, then a row for every set of images."""
    extractor, reference = results["extractor"], results["reference"]
    weights = "" if extractor["published_weights"] is not False else ", NOT the published weights"
    lines = [
        f"features: {extractor['name']} ({extractor['sha256'][:8]}{weights}); reference: {reference['source']} "
        f"({reference['num_images'] or 'unknown number of'} images)"
    ]
    rows = results["images"]
    names = [name for name in METRICS if any(name in row["metrics"] for row in rows.values())]
    titles = [results["distance"] if name == "fd" else METRICS[name][0] for name in names]
    cells = [["images", "n", *titles]]
    if infinite := any("fid_infinity" in row for row in rows.values()):
        cells[0].append(f"{results['distance']}\N{INFINITY}")
    for source, row in rows.items():
        count = row["num_images"] or "?"
        cells.append(
            [
                source,
                f"{row['sets']} x {count}" if row["sets"] > 1 else str(count),
                *(_cell(row["metrics"].get(name)) for name in names),
            ]
        )
        if infinite:
            line = row["fid_infinity"]
            cells[-1].append(f"{line['value']:.4f} ± {line['standard_error']:.4f}")
    lines.append(text_of(cells))
    if any(row["sets"] > 1 for row in rows.values()):
        lines.append(
            "mean ± sd over the sets (min: the least of them, which falls with their number)"
        )
    elif any(
        "standard_error" in value for row in rows.values() for value in row["metrics"].values()
    ):
        lines.append(
            "± is one standard error; a single distance has none, several sets measure its spread"
        )
    if infinite:
        lines.append(
            f"{results['distance']}\N{INFINITY}: ± of the line through these images; over fresh ones it varies about "
            "twice as much"
        )
    return "\n".join(lines)


def _cell(value):
    if value is None:
        return ""
    if "mean" in value:
        return f"{value['mean']:.4f} ± {value['sd']:.4f} (min {value['min']:.4f})"
    spread = value.get("standard_error", value.get("sd_of_splits"))
    return f"{value['value']:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
