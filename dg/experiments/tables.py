"""Cells of a report's tables, from the results file alone; the README's tables use them too."""

from dg.evaluation.figures.style import decimals, mean_sd
from dg.evaluation.published import first_matching
from dg.evaluation.report import text_of
from dg.evaluation.significance import paired_t
from dg.evaluation.tables import duration, paired_test, ranking

TITLES = {
    "fd": "FD",
    "fd_heldout": "FD held out",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "fd_pixels": "FD in pixels",
    "fd_random_vgg": "FD random VGG",
    "nll": "bits/dim",
}
COSTS = ["parameters", "training", "evaluations", "s / 1,000 images"]
FLOOR = "real against real"


def distance_name(outcome: dict) -> str:
    return "FID" if outcome["extractor"]["name"] == "inception" else "FD"


def metric_names(outcome: dict) -> list[str]:
    found = [set(metrics) for metrics in outcome["metrics"].values()]
    return [metric for metric in TITLES if any(metric in names for names in found)]


def pairs(outcome: dict) -> dict[str, str]:
    """The guided system shown beside each unguided one: that named so, else the nearest one."""
    shown, systems = {}, outcome["systems"]
    for base in systems:
        found = [name for name, s in systems.items() if s["heads"] and s["against"] == base]
        if found:
            least = min(found, key=lambda name: outcome["metrics"][name]["fd"]["mean"])
            shown[base] = "guided" if "guided" in found else least
    return shown


def alone(outcome: dict) -> list[str]:
    """The systems that are no point of a line."""
    return [name for name, s in outcome["systems"].items() if s.get("line") is None]


def role(outcome: dict, name: str) -> str:
    """What a system is, for its colour: see `dg.evaluation.figures.style.ROLES`."""
    system = outcome["systems"][name]
    if system["heads"]:
        return "guided"
    model = outcome["settings"]["models"].get(system["model"], {})
    return "longer" if model.get("continues") else "unguided"


def columns(outcome: dict) -> list[str]:
    titles = TITLES | {"fd": distance_name(outcome)}
    named = [titles[metric] for metric in metric_names(outcome)]
    return ["", *named, *(["published", "off by (sd)"] if has_published(outcome) else [])]


def rows(outcome: dict) -> list[list[str]]:
    """Title, mean ± sd of every metric, published value and how many sd the mean is off it."""
    table, names = [], metric_names(outcome)
    for name, system in [*outcome["systems"].items(), ("floor", {"title": FLOOR})]:
        metrics = outcome["metrics"][name]
        cells = [cell(outcome, metric, metrics.get(metric)) for metric in names]
        if has_published(outcome):
            cells += _against_published(outcome, name, system, metrics)
        table.append([system["title"], *cells])
    for title, metrics in outcome.get("known", {}).items():
        cells = [cell(outcome, metric, metrics.get(metric)) for metric in names]
        table.insert(-1, [title, *cells, *[""] * (len(columns(outcome)) - 1 - len(names))])
    return table


def cell(outcome: dict, metric: str, entry: dict | None) -> str:
    """Mean and sd (of bits/dim: standard error) of a metric, in the setting's decimals or in as
    many as the column's spread lets be known."""
    if entry is None:
        return ""
    sd = entry.get("sd", entry.get("standard_error"))
    digits = outcome["settings"].get("decimals", {}).get(metric)
    if digits is None:
        return mean_sd(entry["mean"], sd, _digits(outcome, metric))
    return f"{entry['mean']:.{digits}f} ± {sd:.{digits}f}"


def _digits(outcome: dict, metric: str) -> int | None:
    """Digits after the point of a metric's column, by the spreads of all systems in it."""
    entries = [metrics[metric] for metrics in outcome["metrics"].values() if metric in metrics]
    return decimals(entry.get("sd", entry.get("standard_error")) for entry in entries)


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    return text_of([columns(outcome), *rows(outcome)])


# Published numbers --------------------------------------------------------------------------------


def published(outcome: dict, name: str, system: dict) -> list[dict]:
    """The published rows that stand beside a system."""
    known = outcome["settings"]["published"].get(name)
    return first_matching(known or [system.get("published")])


def published_lines(study, setting) -> list[str]:
    """A line for every system of a study beside which published numbers stand."""
    found, outcome = [], {"settings": {"published": setting.published}}
    for name, system in study.systems.items():
        rows = published(outcome, name, {"published": system.published})
        told = [" ".join(_told(row)) for row in rows]
        found += [f"published, {system.title}: {'; '.join(told)}"] if told else []
    return found


def _told(row: dict):
    """The words of a published row: metric, value, system, evaluations, source."""
    evaluations = f"{row['nfe']} evaluations" if "nfe" in row else ""
    of = [row.get("system"), evaluations, row["source"]]
    return row["metric"].upper(), f"{row['value']:g}", f"({', '.join(filter(None, of))})"


def has_published(outcome: dict) -> bool:
    return any(published(outcome, name, system) for name, system in outcome["systems"].items())


def _against_published(outcome, name, system, metrics) -> list[str]:
    """What was published, and how far the mean is from the first of it in sd."""
    found = published(outcome, name, system) if name != "floor" else []
    if not found:
        return ["", ""]
    fd, wanted = metrics["fd"], 10_000 if found[0]["metric"] == "fid-10k" else 50_000
    comparable = outcome["settings"]["num_images"] == wanted
    off = f"{(fd['mean'] - found[0]['value']) / fd['sd']:+.1f}" if fd["sd"] and comparable else ""
    return ["; ".join(f"{row['value']:g} ({row['source']})" for row in found), off]


# Comparisons --------------------------------------------------------------------------------------


def tests(outcome: dict) -> list[list[str]]:
    """Every system against the one that it is compared with, on the same seeds."""
    table, systems = [], outcome["systems"]
    for name in outcome["comparison"]:
        both = (name, systems[name]["against"])
        cells = paired_test(*(outcome["metrics"][which]["fd"]["values"] for which in both))
        if cells:
            table.append([systems[name]["title"], *cells])
    return table


def guidance_rows(outcome: dict) -> list[list[str]]:
    """What guidance does to each model: paired differences on equal seeds."""
    table = []
    for base, guided in pairs(outcome).items():
        before, after = (outcome["metrics"][name]["fd"] for name in (base, guided))
        fd, recall = (outcome["comparison"][guided][metric] for metric in ("fd", "recall"))
        better = ["", ""]
        if fd["sd"]:
            test = paired_t(after["values"], before["values"])
            better = [f"{-fd['difference'] / fd['sd']:.1f} sd", f"{test.p:.2g}"]
        means = [cell(outcome, "fd", entry) for entry in (before, after)]
        change = [f"{100 * (fd['ratio'] - 1):+.0f}%", *better, f"{recall['difference']:+.3f}"]
        table.append([outcome["systems"][base]["title"], *means, *change])
    return table


def cost_rows(outcome: dict) -> list[list[str]]:
    """Title, parameters, time of training, network evaluations and time of sampling."""
    return [
        [
            outcome["systems"][name]["title"],
            f"{costs['parameters']:,}",
            _training(costs),
            str(costs["num_evaluations"]),
            f"{costs['seconds_per_1000']:.1f}",
        ]
        for name, costs in outcome["costs"].items()
    ]


def _training(costs: dict) -> str:
    """Time of training; that of a network that ships is not known here."""
    took = duration(costs["training_seconds"]) if costs["training_seconds"] > 1 else ""
    return " + ".join(filter(None, ["as it ships" if costs.get("ships") else "", took]))


def winners(outcome: dict) -> list[list[str]]:
    """Who is best where, and how far ahead of the next."""
    systems, metrics, costs = outcome["systems"], outcome["metrics"], outcome["costs"]

    def of(metric, spread="sd"):
        entries = {system["title"]: metrics[name].get(metric) for name, system in systems.items()}
        return {name: (entry["mean"], entry[spread]) for name, entry in entries.items() if entry}

    def once(entry, names=systems):
        return {systems[name]["title"]: (costs[name][entry], 0.0) for name in names}

    trained_here = [name for name in systems if not costs[name].get("ships")]

    return [
        ["Fréchet distance", *ranking(of("fd"))],
        ["KID", *ranking(of("kid"))],
        ["precision", *ranking(of("precision"), least=False)],
        ["recall", *ranking(of("recall"), least=False)],
        ["bits/dim (± standard error)", *ranking(of("nll", "standard_error"))],
        ["training time", *ranking(once("training_seconds", trained_here), " s")],
        ["sampling time", *ranking(once("seconds_per_1000"), " s / 1,000")],
    ]
