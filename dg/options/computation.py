"""How `generate.py` computes: the precision, threads and batches in work at once that were asked
for, that the run began with, or that the self-benchmark found to be fastest here."""

import os

import click

from dg.runtime import console

THREADS = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}  # by which a user tells how many


def computation(net, sampling, device, outdir, batches, ranks, tell, asked, options):
    """What is chosen, a `dg.runtime.self_benchmark.Chosen`.

    batches  of the run
    tell     called with a line of text about the choice
    asked    the precision: auto, or one of `dg.precision.PRECISIONS`
    options  precise: float32 without TF32; compiled: threads and batches at once then stay what
             they are, as for precise runs; speeds: measure again, and tell what was measured

    Where a log ratio decides, float32 is the default. A run that goes on keeps its precision.
    """
    import edm
    from dg.data.manifests import manifest_of
    from dg.precision import candidates
    from dg.runtime.self_benchmark import chosen
    from dg.sampling import needs_log_ratio

    if options["precise"]:
        console.compute_exactly()
        asked = "float32"
    decides = needs_log_ratio(sampling)
    if decides and asked == "bfloat16":
        raise click.UsageError(
            "--precision bfloat16 is too coarse where a log ratio decides; give float32 or float16."
        )
    if asked != "auto" or decides:
        precisions = ("float32" if asked == "auto" else asked,)
    else:
        precisions = candidates(net, device, sampling.kwargs().get("num_steps", 18))
        begun = manifest_of(outdir)
        if begun and (kept := begun["settings"].get("precision", "float32")) in precisions:
            precisions = (kept,)
    anew, fixed = options["speeds"], options["precise"] or options["compiled"] or ranks.world > 1
    fixed = fixed or not isinstance(net, edm.Preconditioner)
    own = not fixed and not THREADS & set(os.environ)
    found = ranks.by_first(lambda: chosen(net, device, precisions, batches, own, anew, tell))
    for line in found.table() if anew else ():
        tell(line)
    if asked == "auto" and found.precision != "float32":
        tell(f"computing in {found.precision}; --precision float32 is slower and exact")
    return found
