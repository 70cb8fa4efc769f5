"""Model programs: operations as data, the builder, the checker, the text form and the oracle."""

from edgellm.program.builder import Builder
from edgellm.program.check import check
from edgellm.program.ops import Program
from edgellm.program.text import from_text, to_text

__all__ = ["Builder", "Program", "check", "from_text", "to_text"]
