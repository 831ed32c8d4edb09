"""What a service writes down: ids, counts and milliseconds, and never what a row holds."""

import logging
import traceback


logger = logging.getLogger("mm_hf.serve")


def log_failure(what: str, error: BaseException):
    """Notes a fault of ours: its type and where it happened, without its message, which may hold what a row does."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
    logger.error("%s: %s at %s", what, type(error).__name__, places or "?")
    if isinstance(error, ImportError):  # says what to install, and nothing of a row
        logger.error("%s", " ".join(str(error).split()))


def log_to_stderr():
    """One line a request on standard error, with its time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
