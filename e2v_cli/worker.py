"""The pipeline on one device, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby

from e2v_cli.audio import decode_ahead
from e2v_cli.batching import block_number, cut_blocks, make_batches
from e2v_cli.engine import Engine
from e2v_cli.progress import Progress
from e2v_cli.records import Failure, Utterance, Waveform
from e2v_cli.sinks import Sink


def work(
    utterances: Sequence[Utterance],
    engine: Engine,
    sink: Sink,
    progress: Progress,
    min_samples: int,
    batch_seconds: float,
    stopping: Callable[[], bool],
) -> None:
    """Recognise all utterances that the sink doesn't have yet, until done or told to stop.

    A block that is not finished is decoded and batched whole, so that its batches are those of a run that was never
    interrupted; a batch that is finished is not computed again.
    """
    blocks = (block for block in cut_blocks(utterances) if not all(map(sink.is_finished, block)))
    pending = (utterance for block in blocks for utterance in block)
    with closing(decode_ahead(pending, min_samples)) as decoded:
        for _, block in groupby(decoded, key=lambda item: block_number(item.utterance)):
            for batch in make_batches(_sound(block, sink, progress, stopping), batch_seconds):
                if stopping():
                    break
                if new := [waveform for waveform in batch.waveforms if not sink.is_finished(waveform.utterance)]:
                    results = engine.encode(batch)
                    sink.commit([result for result in results if not sink.is_finished(result.utterance)])
                    progress.advance(new)
            sink.commit([])
            if stopping():
                return


def _sound(
    decoded: Iterable[Waveform | Failure], sink: Sink, progress: Progress, stopping: Callable[[], bool]
) -> Iterator[Waveform]:
    """Pass waveforms on, and failures that are new to the sink, until told to stop."""
    for item in decoded:
        if stopping():
            return
        if isinstance(item, Waveform):
            yield item
        elif not sink.is_finished(item.utterance):
            sink.fail(item)
            progress.advance_failed()
