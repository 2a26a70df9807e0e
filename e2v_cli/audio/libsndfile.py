"""Files that libsndfile decodes. Whether they are whole is checked elsewhere: libsndfile itself fills and cuts."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError, blame


class SndfileDecoder(Decoder):
    """A file that libsndfile decodes."""

    def __init__(self, file: soundfile.SoundFile, num_samples: int | None, can_seek: bool = False) -> None:
        """Take over an open file.

        Args:
            file: open file, at its first sample.
            num_samples: samples of each channel that the file should have; None: only decoding it tells.
            can_seek: whether libsndfile seeks to the exact sample in it.
        """
        super().__init__(file.samplerate, file.channels, num_samples, can_seek)
        self.file = file
        if not self.can_seek:
            file.seekable = lambda: False  # else soundfile seeks after each block, and libmpg123 then gets MP3 wrong

    def read(self, count: int) -> NDArray[np.float32]:
        """Read the next samples as floats of ±1."""
        return self._read(count, "float32")

    def _read(self, count: int, dtype: str) -> NDArray[Any]:
        """Read the next samples as floats of ±1, or as integers of full scale: (samples, channels)."""
        try:
            samples: NDArray[Any] = self.file.read(count, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError:
            # libsndfile's message is of no use: for a FLAC file cut short it is "error in flush"
            whole = "" if self.num_samples is None else f", or ends before sample {self.num_samples}"
            raise AudioError("truncated", f"the audio is damaged{whole}") from None
        return samples

    def seek(self, sample: int) -> None:
        """Make a sample the next to be read."""
        self.file.seek(sample)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def open_sndfile(path: str) -> soundfile.SoundFile:
    """Open a file by libsndfile.

    Raises:
        AudioError: libsndfile can't read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)  # of a name, soundfile looks at the suffix
        return soundfile.SoundFile(descriptor, closefd=True)  # which closes it, whether it can read it or not
    except soundfile.LibsndfileError as error:
        raise AudioError("not audio", error.error_string) from None
    except OSError as error:  # the file changed since it was checked, or its disk failed
        raise blame(error) from None
