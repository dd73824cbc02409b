"""Errors of one trial.

TrialError
├── DataError          images or labels cannot be used (missing folder, too few images)
├── ModelError         the model cannot be built from its name and arguments
├── PruningError       filters cannot be removed from the model as asked
├── ExportError        the model cannot be written as ONNX, or quantized
├── DisagreementError  the written file does not answer like the model it came from
├── DivergedError      the loss is no longer finite
└── StorageRefusedError  the model file cannot be stored: no fault of the trial
"""


class TrialError(Exception):
    """A trial cannot go on; the message says what was given and what is allowed."""


class DataError(TrialError):
    """The images or labels cannot be used."""


class ModelError(TrialError):
    """The model cannot be built from its name and arguments."""


class PruningError(TrialError):
    """Filters cannot be removed from the model as asked."""


class ExportError(TrialError):
    """The model cannot be written as ONNX, or its file cannot be quantized."""


class DisagreementError(TrialError):
    """The written file does not answer like the model it came from."""


class DivergedError(TrialError):
    """The training loss is no longer finite."""


class StorageRefusedError(TrialError):
    """The model file cannot be stored: no fault of the trial."""
