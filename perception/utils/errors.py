"""The errors a user can meet; each message is one sentence: `<where>: <what came>, expected <what>. <what to do>`."""


class PerceptionError(ValueError):
    """Base of all errors that stand for bad input rather than for a defect of the code."""


class ConfigError(PerceptionError):
    """A config, an argument or a model description that cannot work."""


class DataError(PerceptionError):
    """A data set, a file or a scan that is missing, damaged or out of range."""


class CheckpointError(PerceptionError):
    """A checkpoint that is unreadable, unsafe or made for another model."""


class MissingDependency(PerceptionError, ImportError):
    """An optional package that the called function needs is not installed."""


class TrainingError(PerceptionError):
    """A training that cannot go on, such as one whose loss is no longer a number."""
