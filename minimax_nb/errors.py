"""What goes wrong by the reader's data or request, never by a fault of ours: one line that says what to do about it."""


class ConfigError(ValueError):
    """A config that cannot be converted or used. The message names the key and what to do."""


class CheckpointError(ValueError):
    """A folder that cannot be used. The message names the file and says what to do."""


class UsageMistake(ValueError):
    """A request that cannot be served here, such as a flag or a place for results. The message says what to give."""


MISTAKES = (ConfigError, CheckpointError, UsageMistake)
