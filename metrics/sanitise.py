"""Text from outside made harmless for people's eyes: what a system under test says may be hostile.

Terminal escapes, other control characters, bidirectional overrides and halves of surrogate pairs are shown as visible
escapes. Quoting for HTML and XML is the business of whoever writes those.
"""

import json
import re
from typing import Any, Final

# Controls but tab and newline; bidirectional and invisible format characters; surrogates; what XML 1.0 forbids.
_HARMFUL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufffe\uffff]"
)


def plain(text: str) -> str:
    r"""The text with everything harmful as an escape that can be read: ESC becomes `\x1b`."""
    return _HARMFUL.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def one_line(text: str, *, chars_max: int = 300) -> str:
    """The text on one line, cut where it is long."""
    flat = plain(text).replace("\n", "\\n").replace("\t", " ")
    return flat if len(flat) <= chars_max else f"{flat[: chars_max - 1]}…"


def plain_json(value: Any, *, indent: int | None = None) -> str:
    """Data as JSON text for people: characters as they are, harmful ones escaped."""
    return plain(json.dumps(value, ensure_ascii=False, indent=indent, default=str))
