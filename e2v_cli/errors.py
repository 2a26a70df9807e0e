"""The errors that stop e2v, each with its exit code.

    E2vError                 1   could not go on
    ├── CorpusError          1   the input can't be read as a list of utterances
    ├── ModelError           1   the model can't be found, or its files are not valid
    ├── DeviceError          1   the requested device isn't there
    ├── OutputError          1   results can't be written or read back
    ├── WorkerError          1   worker processes die again and again
    ├── SlurmError           1   Slurm isn't there, or refuses a job
    ├── TimeLimitError       1   a job's time limit is too short for any result
    ├── UsageError           2   an option can't have that value, or contradicts others or the model; INPUT is missing,
    │                            or neither audio nor a list
    └── OutputConflictError  4   OUT holds a different run, or one in progress

Messages name the thing, the cause and the next move. A problem with a single utterance is no error but a
``records.Failure``, and the run continues.
"""

from __future__ import annotations


class E2vError(Exception):
    """e2v could not go on; the message is for the user."""

    exit_code = 1


class CorpusError(E2vError):
    """The input can't be read as a list of utterances."""


class ModelError(E2vError):
    """The model can't be found, or its files are not valid."""


class DeviceError(E2vError):
    """The requested device isn't there."""


class OutputError(E2vError):
    """Results can't be written or read back."""

    @classmethod
    def of(cls, error: OSError) -> OutputError:
        """Return the error for one of the operating system, with its file."""
        prefix = f"{error.filename}: " if error.filename else ""
        return cls(f"{prefix}{error.strerror or error}; what is done is safe, run the same command again")


class WorkerError(E2vError):
    """Worker processes die again and again."""


class SlurmError(E2vError):
    """Slurm isn't there, or refuses a job."""


class TimeLimitError(E2vError):
    """A job's time limit is too short for any result."""


class UsageError(E2vError):
    """A value of an option, several options together, or INPUT can't be used."""

    exit_code = 2


class OutputConflictError(E2vError):
    """OUT holds a different run, or one in progress."""

    exit_code = 4


EXIT_TOO_MANY_FAILURES = 3
"""The run finished, with more failures than allowed."""

EXIT_LESS = 3
"""A selection has less than was asked for."""

EXIT_STOPPED = 75
"""A signal stopped the run after all results had been committed (EX_TEMPFAIL): run the same command again."""
