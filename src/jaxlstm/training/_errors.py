"""What training raises beside ValueError and TypeError."""


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is a sentence for the user."""


class Terminated(SystemExit):
    """Training was ended by SIGTERM, after a step and a save. Left alone, it ends the process with exit code 0."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.message = message

    def __str__(self) -> str:
        return self.message
