"""Log lines on standard error: for people, or one JSON object each."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from edgellm.errors import harmless, one_line

FIELDS = "fields"
# Entry of a request's state whose items its log line has, too: model, tokens and speed of answers.
LOGGED = "logged"
# Control characters that JSON leaves as they are, and terminals obey.
_ESCAPES = {code: f"\\u{code:04x}" for code in range(127, 160)}


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False).translate(_ESCAPES)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, FIELDS, {})
        record.message = " ".join(
            [record.getMessage(), *(f"{name}={value}" for name, value in fields.items())]
        )
        message = one_line(record.message)  # clients' own texts are in it
        text = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()}: {message}"
        return f"{text}\n{harmless(self.formatException(record.exc_info))}" if record.exc_info else text


def configure(*, as_json: bool) -> None:
    """Send the server's log, and uvicorn's warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONFormatter() if as_json else _TextFormatter())
    for name, level in (("edgellm", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
