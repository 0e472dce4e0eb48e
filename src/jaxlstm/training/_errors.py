"""What training raises beside ValueError and TypeError."""


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is a sentence for the user."""


class Terminated(SystemExit):
    """Training was ended by SIGTERM, after a step and a save. Left alone, it ends the process with exit code 0.

    Where nothing was saved the exit code is 143: there was nowhere to, or it was a second SIGTERM, which did not wait.
    """

    def __init__(self, message: str, *, saved: bool = False) -> None:
        super().__init__(0 if saved else 143)
        self.message = message

    def __str__(self) -> str:
        return self.message
