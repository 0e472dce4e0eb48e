"""What training raises beside ValueError and TypeError."""


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is a sentence for the user."""


class Terminated(SystemExit):
    """Training was ended by SIGTERM, after a step and a save. Left alone, it ends the process with exit code 0.

    Without a message it is a second SIGTERM, which did not wait for that: exit code 143.
    """

    def __init__(self, message: str) -> None:
        super().__init__(0 if message else 143)
        self.message = message

    def __str__(self) -> str:
        return self.message
