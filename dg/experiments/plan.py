"""The stages of an experiment in an order in which they can be run; nothing is loaded for it."""

from dataclasses import asdict, replace
from functools import partial

from dg.experiments import bound_curves, compute, derived, judging, making, measuring
from dg.experiments.context import ORDER_SEED, Context
from dg.experiments.costs import (
    REJECTION,
    Cost,
    generation_cost,
    likelihood_cost,
    model_cost,
    training_cost,
)
from dg.experiments.drawing import pool_seeds
from dg.experiments.pipeline import Stage, in_order, needed
from dg.experiments.study import System, Training, models_of
from dg.runtime.files import content_of, plain
from dg.samplers.constants import RejectionSampling
from dg.sampling import needs_log_ratio
from edm.checkpoint import network_file


def plan(context: Context) -> list[Stage]:
    """Models, reference, discriminators, systems, floor."""
    s, study = context.setting, context.study
    systems = study.systems.values()
    data = {"data": content_of(context.experiment.source), "pool": s.pool}
    data["order"] = [s.order, ORDER_SEED]
    used = derived.with_sources(s.models, study.used_models)
    models = [name for name in s.models if name in used]
    stages = [stage for name in models for stage in _model(context, name, data)]
    if study.nll:
        measured = [name for name in models if bound_curves.places(s, name)]
        stages += [bound_curves.stage(context, name, data) for name in measured]
    if any(_needs_classifier(context, system) for system in systems) or any(
        map(_trained_with_classifier, study.trainings.values())
    ):
        trained = plain(s.noisy_classifier) | data
        settings = {"classifier": s.classifier} if s.classifier else trained
        stages.append(Stage("classifier", settings, [], partial(making.make_classifier, context)))
    real = {"features": s.features, "num_features": s.num_features, "streamed": s.streamed}
    real |= {"reference": s.reference, "split": s.reference_split, "num": s.num_reference}
    real |= {"training": plain(s.feature_training), "fid": "fid" in s.metrics} | data
    real |= {"random_vgg": "fd_random_vgg" in s.metrics and not s.other_reference}
    stages.append(Stage("reference", real, [], partial(measuring.make_reference, context)))
    stages += _trainings(context, data)
    if any(system.options for system in systems):
        make = partial(making.make_choice_reference, context)
        stages.append(Stage("choice-reference", {"split": s.choice_split}, ["reference"], make))
        choices = {name: system for name, system in study.systems.items() if system.choice == name}
        stages += [_choice(context, name, system) for name, system in choices.items()]
    for name, system in study.systems.items():
        if system.weights == "chosen":
            stages.append(_selection(context, system))
        if system.weights == "suggested":
            stages += _suggestion(context, system)
        stages += _system(context, name, system, data)
    if study.compute:
        trained = {"num_data": s.num_data, "sampling": plain(s.models["score"].sampling)}
        settings, make = {"given": s.given} | trained, partial(compute.count_trainings, context)
        tuned = [name for name in models if isinstance(s.models[name], derived.Tuned)]
        tuned += [derived.OWN] if tuned else []
        sources = [f"compute-{name}" for name in _sources(context)]
        stages.append(_of_heads(context, "training-compute", settings, make, tuned + sources))
    if study.heldout:
        judged, make = {"images": judging.JUDGED}, partial(judging.judge_heads, context)
        seen = [f"sample-{name}" for name in ("unguided", *_sources(context))]
        stages.append(_of_heads(context, "heldout", judged, make, seen))
    if study.tested:
        judged, make = judging.described(study), partial(judging.judge_systems, context)
        stages.append(_of_heads(context, "tested", judged, make))
    floor = {"num_images": s.num_images, "num_sets": s.num_sets, "metrics": s.metrics}
    measure = partial(measuring.measure_floor, context)
    return in_order([*stages, Stage("measure-floor", floor, ["reference"], measure)])


def _model(context: Context, name: str, data: dict) -> list[Stage]:
    s, model = context.setting, context.setting.models[name]
    if name in context.study.models:
        return derived.stages(context, name, data)
    if model.published:
        file = network_file(model.published)
        settings = {"network": content_of(file) if file.is_file() else model.published}
    else:
        conditional = s.conditional and model.kind != "vae"
        settings = data | {"kind": model.kind, "training": plain(model.training)}
        settings |= {"conditional": conditional, "test_loss": s.num_test_loss}
        if places := bound_curves.places(s, name):
            settings["snapshots"] = places
    needs = [model.continues] if model.continues else []
    make = partial(making.make_model, context, name=name)
    return [Stage(name, settings, needs, make, model_cost(s, name), model.title)]


def _trainings(context: Context, data: dict) -> list[Stage]:
    """Discriminators, and the generated images that they learn from."""
    s, trainings, stages = context.setting, context.study.trainings, []
    compared = [one for one in trainings.values() if one.settings.needs_fake]
    for (name, number), training in {making.fake_set(s, one): one for one in compared}.items():
        if training.system:
            stages.append(_drawn(context, name, training.system, number))
        else:
            images = (training.model, s.fake_seed, number)
            stages.append(making.images_stage(context, name, *images))
    for name, training in trainings.items():
        fakes = [making.fake_set(s, training)[0]] * training.settings.needs_fake
        needs = fakes or [training.model]
        needs += ["classifier"] * _trained_with_classifier(training)
        needs += [training.like.model] if training.like else []
        make = partial(making.make_discriminator, context, training=training)
        settings, cost = _training(context, training) | data, training_cost(s, training)
        stages.append(Stage(f"train-{name}", settings, needs, make, cost))
    return stages


def _training(context: Context, training: Training) -> dict:
    """What a discriminator depends on besides its images."""
    s = context.setting
    settings = {"extractor": training.extractor, "settings": plain(training.settings)}
    settings |= {"num_data": training.num_fake or s.num_data}
    settings |= {"num_real": training.num_real or s.num_real}
    settings |= {"part": training.part} if training.part else {}
    settings |= {"width": making.width_of(context, training), "conditional": s.conditional}
    return settings | ({"like": _training(context, training.like)} if training.like else {})


def _trained_with_classifier(training: Training) -> bool:
    """Whether it is on the classifier, or as long as one that is."""
    return "classifier" in (training.extractor, training.like and training.like.extractor)


def _sources(context: Context) -> list[str]:
    """The systems that discriminators learn from."""
    found = [training.system for training in context.study.trainings.values()]
    return list(dict.fromkeys(filter(None, found)))


def _drawn(context: Context, name: str, source: str, number: int) -> Stage:
    """The stage of images of a system, that a discriminator learns from."""
    system, first = context.study.systems[source], context.setting.fake_seed
    settings = _sampling(context, system) | {"num_images": number, "seed": first}
    make = partial(making.draw_images, context, system=system, number=number)
    needs, cost = _inputs(context, system), _generation(context, system, number)
    return Stage(name, settings, needs, make, cost, f"images of {system.title}", "drawn")


def _selection(context: Context, system: System) -> Stage:
    s = context.setting
    settings = _sampling(context, system)
    settings |= {"weights": s.candidates, "num_images": s.num_selection, "seed": s.selection_seed}
    make = partial(making.choose_weight, context, system=system)
    images = (len(s.candidates) + 1) * s.num_selection
    evaluations = context.num_evaluations(system)
    cost = generation_cost(s, images, True, system.model, evaluations)
    return Stage("weights", settings, [*_needs(context, system), "reference"], make, cost)


def _suggestion(context: Context, system: System) -> list[Stage]:
    """The diagnosis of a system's discriminator, and the generated images for it."""
    s, model = context.setting, system.model
    number, first = min(judging.JUDGED, s.num_images), s.selection_seed + s.num_selection
    fakes = making.images_stage(context, judging.DIAGNOSED, model, first, number)
    heads = [s.given.get(head.training) for head in system.heads]
    settings = {"heads": [asdict(head) for head in system.heads], "given": heads}
    make = partial(judging.suggest, context, system=system)
    needs = [*_needs(context, system), fakes.name]
    return [fakes, Stage("suggestion", settings, needs, make)]


def _choice(context: Context, name: str, system: System) -> Stage:
    """The choice between the options of a system, and of others that name it."""
    s = context.setting
    settings = _sampling(context, system)
    settings |= {"titles": [option.title for option in system.options]}
    settings |= {"num_images": s.num_selection, "seed": s.selection_seed}
    make = partial(making.choose, context, system=system)
    each = [_generation(context, option, s.num_selection) for option in system.options]
    needs, told = [*_needs(context, system), "choice-reference"], f"choice for {system.title}"
    return Stage(f"choice-{name}", settings, needs, make, sum(each, Cost()), told, "choice")


def _generation(context: Context, system: System, images: int) -> Cost:
    """The cost of so many images of a system, of the first of its options where it has any."""
    settled = system.options[0] if system.options else system
    sampling, drawn = context.sampling(settled), images
    if settled.kept:
        drawn = len(pool_seeds(range(images), settled.kept.share))
    evaluations = context.num_evaluations(settled) * (2 if settled.guide else 1)
    if isinstance(sampling, RejectionSampling):
        evaluations *= REJECTION
    guided = bool(settled.heads)
    return generation_cost(context.setting, drawn, guided, system.model, evaluations)


def _of_heads(context: Context, name: str, settings: dict, make, others=()) -> Stage:
    """A stage that looks at all heads of the study."""
    systems = context.study.systems.values()
    heads = context.study.heads
    users = [next(user for user in systems if head in user.heads) for head in heads]
    needs = list(dict.fromkeys(need for user in users for need in _needs(context, user)))
    settings = {"heads": [asdict(head) for head in heads]} | settings
    return Stage(name, settings, [*needs, *others], make)


def _sampling(context: Context, system: System) -> dict:
    """What the images of a system depend on besides what was trained here."""
    s = context.setting
    if system.options:
        return {"options": [_option(context, system, option) for option in system.options]}
    settings = plain(context.sampling(system)) | {"batch_size": s.batch_size}
    if system.sampling:
        settings["sampler"] = type(system.sampling).__name__
    if system.kept:
        settings["kept"] = asdict(system.kept)
    if system.guide:
        settings["guide"] = system.guide
    if not system.heads:
        return settings
    if system.every > 1:
        settings |= {"every": system.every, "between": system.between}
    given = [s.given[head.training] for head in system.heads if head.training in s.given]
    return settings | {
        "heads": [asdict(head) for head in system.heads],
        "weights": system.weights or s.weights,
        "window": system.window or s.window,
        "boosting": context.boosted(system),
        "S_churn": system.S_churn,
        "average": system.average,
        "released": given[0] if given else None,
    }


def _option(context: Context, system: System, option: System) -> dict:
    model = {} if option.model == system.model else {"model": option.model}
    return _sampling(context, option) | model


def _needs_classifier(context: Context, system: System) -> bool:
    trainings = context.study.trainings
    return any(
        head.training in context.setting.given or trainings[head.training].extractor == "classifier"
        for head in system.heads
    )


def _inputs(context: Context, system: System) -> list[str]:
    """All that the images of a system are drawn with."""
    needs = _needs(context, system) + ["weights"] * (system.weights == "chosen")
    needs += ["suggestion"] * (system.weights == "suggested")
    return needs + [f"choice-{system.choice}"] * bool(system.options)


def _needs(context: Context, system: System) -> list[str]:
    """The models of a system, and its discriminators."""
    trained = [head.training for head in system.heads if head.training not in context.setting.given]
    heads = [f"train-{name}" for name in trained]
    return [*models_of(system), *["classifier"] * _needs_classifier(context, system), *heads]


def _pool(context: Context, name: str, system: System) -> Stage:
    """The finished images of which a system keeps some. Systems share it whose heads and noise
    levels choose alone."""
    s, drawn = context.setting, system
    if system.weights == (0.0, 0.0) and not needs_log_ratio(context.sampling(system)):
        drawn = replace(system, heads=())
    sizes = {"num_images": s.num_images, "num_sets": s.num_sets, "share": system.kept.share}
    settings = _sampling(context, replace(drawn, kept=None)) | sizes
    make = partial(making.make_pools, context, system=drawn)
    cost = _generation(context, drawn, s.num_images * s.num_sets)
    told = (f"pool-{name}", settings, _inputs(context, drawn), make, cost)
    return Stage(*told, "finished images to choose from", "pool")


def _system(context: Context, name: str, system: System, data: dict) -> list[Stage]:
    """Samples, distances, likelihood; stages that all studies of a setting share."""
    s, needs, title = context.setting, _inputs(context, system), system.title
    sizes = {"num_images": s.num_images, "num_sets": s.num_sets}
    sampled, settings = f"sample-{name}", _sampling(context, system) | sizes
    pools = [_pool(context, name, system)] if system.kept else []
    needs += [stage.name for stage in pools]
    cost = Cost() if pools else _generation(context, system, s.num_images * s.num_sets)
    make = partial(making.sample_sets, context, system=system, pools=f"pool-{name}")
    stages = [*pools, Stage(sampled, settings, needs, make, cost, title, "sample")]
    inputs, make = [sampled, "reference"], partial(measuring.measure_sets, context, sampled=sampled)
    measured = dict(title=title, kind="measure")
    stages.append(Stage(f"measure-{name}", {"metrics": s.metrics}, inputs, make, **measured))
    if context.study.compute:
        make = partial(compute.count, context, name=name, system=system)
        stages.append(Stage(f"compute-{name}", {}, [sampled], make, title=title, kind="compute"))
    if context.study.nll and s.nll_images and system.sampling is None:  # it has the model's
        settings = data | {"images": s.nll_images, "steps": s.nll_steps, "of": s.num_reference}
        make = partial(measuring.measure_likelihood, context, system=system)
        cost = likelihood_cost(s, system.model)
        stages.append(Stage(f"nll-{name}", settings, [sampled], make, cost, title, "nll"))
    return stages


def split_plan(context: Context, stages: list[Stage]) -> tuple[set[str], set[str]]:
    """(what a second process makes, for the systems aside alone; what depends on none of it)."""
    ends, systems = {True: [], False: []}, context.study.systems
    models = {system.model for name, system in systems.items() if name not in context.study.aside}
    for stage in stages:
        kind, _, name = stage.name.partition("-")
        if kind in ("sample", "nll", "measure"):
            ends[name in context.study.aside].append(stage.name)
        elif kind == "bounds":
            ends[name not in models].append(stage.name)
    aside = needed(stages, ends[True]) - needed(stages, ends[False])
    return aside, {stage.name for stage in stages if not needed(stages, [stage.name]) & aside}
