"""Options → the words of the command line that gives them: for jobs that run the same command elsewhere."""

from __future__ import annotations

import logging

from e2v_cli.network.layers import format_layers
from e2v_cli.options import PIPE_SECONDS, Channel, InputOptions, PredictOptions
from e2v_cli.system.text import number_word


def format_words(options: PredictOptions) -> tuple[str, ...]:
    """Format the words of an ``e2v predict`` command with these options: INPUT, and all values but defaults.

    ``--jobs``, ``--shard`` and ``--overwrite`` are left out: ``e2v submit`` doesn't take them.
    """
    inputs = [f"./{item}" if item.startswith("-") and item != "-" else item for item in options.input.inputs]
    unset = PredictOptions(InputOptions(()))
    words = list(inputs)
    for name, value, default in _list_values(options, unset):
        if value is True:
            words.append(name)
        elif value is not False and value != default:
            words += [name, number_word(value) if isinstance(value, float) else str(value)]
    if options.model.classes:
        words += ["--classes", ",".join(options.model.classes)]
    for merge in options.model.merges:
        words += ["--merge", "=".join(merge)]
    if options.results.layers:
        words += ["--layers", format_layers(options.results.layers)]
    for seconds in options.results.timelines:
        words += ["--timeline", number_word(seconds)]
    if options.results.timeline_formats:
        words += ["--timeline-format", ",".join(options.results.timeline_formats)]
    if options.run.progress is not None:
        words.append("--progress" if options.run.progress else "--no-progress")
    return tuple(words)


def _list_values(options: PredictOptions, unset: PredictOptions) -> list[tuple[str, object, object]]:
    """List the names of options, their values, and their values where they are not given."""

    def values(of: PredictOptions) -> list[object]:
        model, compute, results = of.model, of.compute, of.results
        return [
            *(results.output_dir, model.name, model.hub, model.revision, model.offline, model.labels),
            *(
                compute.engine,
                compute.device,
                compute.precision,
                compute.batch_seconds,
                compute.window,
                compute.products,
            ),
            *(results.granularity, results.embeddings, results.dtype, results.compress, results.join),
            *(
                of.input.hidden,
                of.input.id_form,
                of.input.segments_rttm,
                _format_channel(of.input.channel),
                of.input.resampler,
            ),
            *(of.input.allow_pipes, of.input.pipe_seconds or PIPE_SECONDS, of.input.max_source_bytes),
            *(of.run.retry_failed, of.run.changed == "keep", of.run.changed == "recompute", of.run.mix_devices),
            *(of.run.max_failures.word, of.run.quiet),
            of.run.log_level == logging.INFO,
        ]

    names = [
        *("-o", "-m", "--hub", "--revision", "--offline", "--labels"),
        *("--engine", "--device", "--precision", "--batch-seconds", "--window", "--products"),
        *("--granularity", "--embeddings", "--embedding-dtype", "--compress", "--join"),
        *(
            "--hidden",
            "--id",
            "--segments-rttm",
            "--channel",
            "--resampler",
            "--allow-pipes",
            "--pipe-timeout",
            "--max-source-bytes",
        ),
        *("--retry-failed", "--keep-changed", "--recompute-changed", "--mix-devices", "--max-failures", "-q", "-v"),
    ]
    return list(zip(names, values(options), values(unset), strict=True))


def _format_channel(channel: Channel) -> str:
    """Format a channel as the command line counts it."""
    return channel if isinstance(channel, str) else str(channel + 1)
