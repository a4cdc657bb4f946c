"""Numbers of discriminators against the distance of the images that they guide."""

from dg.evaluation.figures.style import INK, MARKERS, MUTED, SERIES, WIDTH, drawing


def predictors_against_distance(path, rows: list[dict], correlations: dict, unguided: float):
    """One panel per predictor, a point per discriminator, a colour and marker per training.

    rows          `name` (training/head), `fd` and the predictors
    correlations  {predictor: {"value", "low", "high"}}: the panels and their titles
    unguided      distance without guidance, a dashed line
    """
    if not correlations:
        correlations = {"epoch": None}
    trainings = list(dict.fromkeys(row["name"].split("/")[0] for row in rows))
    colours = (INK, *SERIES)
    looks = {
        name: dict(color=colours[i % len(colours)], marker=MARKERS[i % len(MARKERS)])
        for i, name in enumerate(trainings)
    }
    lines = -(-len(correlations) // 2)
    with drawing(path, 1.5 * WIDTH, 2.6 * lines + 1.2) as figure:
        panels = figure.subplots(lines, 2, sharey=True, squeeze=False).flatten()
        for axes in panels[len(correlations) :]:
            axes.set_visible(False)
        for axes, (name, found) in zip(panels, correlations.items(), strict=False):
            for training in trainings:
                points = [
                    (row[name], row["fd"])
                    for row in rows
                    if row["name"].split("/")[0] == training and row.get(name) is not None
                ]
                x, y = zip(*points, strict=True) if points else ((), ())
                axes.scatter(x, y, s=26, label=training, **looks[training])
            axes.axhline(unguided, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.set_xlabel(name)
            if found:
                text = "{value:+.2f} ({low:+.2f} to {high:+.2f})".format(**found)
                axes.set_title(f"rank correlation {text}", fontsize=10)
        for axes in panels[::2]:
            axes.set_ylabel("Fréchet distance")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
