"""The log of a service: ids, counts and milliseconds, but never the content of a row."""

import logging
import traceback


logger = logging.getLogger("mm_hf.serve")


def log_failure(what: str, error: BaseException):
    """Logs an error of the service: its type and place. The message is left out, because it may contain data of a
    row."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
    logger.error("%s: %s at %s", what, type(error).__name__, places or "?")
    if isinstance(error, ImportError):  # the message names a package, and contains no data of a row
        logger.error("%s", " ".join(str(error).split()))


def log_to_stderr():
    """Writes one line per request to standard error, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
