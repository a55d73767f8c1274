"""Common English words, one token each with a space before them in most vocabularies. All of a list are equally long."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NAMES", "OBJECTS", "PLACES", "WORDS", "listed", "shifted", "words"]


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = words(
    """
    army baby back ball band bank base bird blue boat body bone book cake card cash city club coat coin cook
    corn dark desk dirt door duck dust east face farm fish flag food foot fuel game gate gift goal gold golf
    hair hall hand head hill home hope idea iron king lady lake lamp land leaf lion luck milk mind moon nose
    page park pink rain rice ring road rock roof room rope rose salt sand seed ship shoe sign silk snow soil
    song soup star suit team tent town tree wall wave wind wine wolf wood wool yard
    """
)
NAMES = words(
    """
    Adam Alan Alex Anna Carl Dean Emma Eric Fred Gary Greg Ivan Jack Jane Jean Jill Joan John Josh Kate Kyle
    Lisa Luke Mark Mary Matt Mike Nick Owen Paul Phil Rick Rose Ross Ruth Ryan Sara Sean Tony
    """
)
PLACES = words("school office market garden church museum palace")
OBJECTS = words("book ring gift card coat lamp ball coin rose")


def shifted(word: str, words: tuple[str, ...], by: int) -> str:
    """The word so many places further in the list, round its end: for one `by`, a bijection of the list."""
    return words[(words.index(word) + by) % len(words)]


def listed(things: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))
