"""The file that keeps the vocabulary of a run on text."""

import json
from pathlib import Path

from jaxlstm.tasks._run import RunError, sum_of

VOCABULARY = "vocabulary.json"


def to_json(vocabulary: str) -> str:
    """The content of the file."""
    return json.dumps({"characters": vocabulary, "sum": sum_of(vocabulary)}) + "\n"


def read_vocabulary(directory: Path) -> str:
    """The characters that the models of a run on text know.

    Raises:
      RunError: if the file is missing or damaged.
    """
    path = directory / VOCABULARY
    try:
        stored = json.loads(path.read_text())
        vocabulary, stored_sum = stored["characters"], stored["sum"]
    except OSError as error:
        raise RunError(f"{directory} holds no vocabulary: {VOCABULARY} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(vocabulary, str) or not vocabulary or sum_of(vocabulary) != stored_sum:
        raise RunError(f"{path} is damaged: the checksum of its characters has changed")
    return vocabulary
