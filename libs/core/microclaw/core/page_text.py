"""What a person reads of an HTML page or mail: its visible text, with the addresses of its links. Pure."""

from __future__ import annotations

import re
from html.parser import HTMLParser

#: Elements that have no end tag.
_VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"])
#: Elements whose end tag may be missing.
_ENDED_BY_THE_NEXT = frozenset(["p", "li", "dt", "dd", "tr", "td", "th", "option"])
_UNSEEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0|opacity\s*:\s*0(?![.\d])")


class _Text(HTMLParser):
    SILENT = ("script", "style", "noscript", "template", "svg")
    BREAKS = ("p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "pre")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = 0
        #: Open elements of the kind that began an unseen part, the part's own included.
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen:
            if tag != self._unseen[0]:
                return
            if tag not in _ENDED_BY_THE_NEXT:
                self._unseen.append(tag)
                return
            self._unseen = []
        if tag not in _VOID and _is_unseen(dict(attrs)):
            self._unseen = [tag]
            return
        if tag in self.SILENT:
            self._silent += 1
        if tag in self.BREAKS:
            self.parts.append("\n")
        href = dict(attrs).get("href") if tag == "a" else None
        if href and href.startswith("http") and not self._silent:
            self.parts.append(f"[{href}] ")

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag == self._unseen[0]:
                self._unseen.pop()
            return
        if tag in self.SILENT and self._silent:
            self._silent -= 1
        if tag in self.BREAKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent and not self._unseen:
            self.parts.append(data)


def _is_unseen(attributes: dict[str, str | None]) -> bool:
    """Whether the page itself hides the element from people."""
    return "hidden" in attributes or _UNSEEN_STYLE.search((attributes.get("style") or "").lower()) is not None


def page_text(page: str) -> str:
    """What a person reads of an HTML page, with the addresses of its links."""
    reader = _Text()
    reader.feed(page)
    reader.close()
    text = re.sub(r"[ \t\r\f\v]+", " ", "".join(reader.parts))
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()
