"""The rule by which names of images match, for masks, tables, metadata and training data alike."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from lesioncli import isic

Matches = dict[str, tuple[str, ...]]


def match_names(names: Collection[str], available: Collection[str], any_number: bool = False) -> Matches:
    """Return the available names that each name may stand for: one is a match, none or several are a problem.

    Equal names match, whatever their Unicode normalization. Of the rest, names match by their last part, if the names
    or the available ones are all without folders, and then by the ISIC number of their last part, which must also
    contain "isic" unless `any_number`. What one rule has matched is not available to the next. Several names of one
    key match nothing.
    """
    matches: Matches = {name: (name,) for name in names if name in available}
    rules: list[Callable[[str], str]] = [_normalized]
    if _are_flat(names) or _are_flat(available):
        rules += [isic_key] if any_number else [_last_part, _isic_name_key]
    for key in rules:
        if len(matches) == len(names):
            break
        matches |= _match_by(key, names, available, matches)
    return {name: matches.get(name, ()) for name in names}


def loose_key(name: str) -> str:
    """Return a name without case, leading zeros and what follows its last number: names of one key are alike."""
    words = re.findall(r"[^\W\d_]+|\d+", _last_part(name).casefold())
    while words and any(map(str.isdecimal, words)) and not words[-1].isdecimal():
        words.pop()
    return "_".join(word.lstrip("0") if word.isdecimal() else word for word in words)


def isic_key(name: str) -> str:
    """Return the ISIC id in a name, else its last part."""
    return isic.find_id(name) or _last_part(name)


def _match_by(
    key: Callable[[str], str],
    names: Collection[str],
    available: Collection[str],
    matched: Mapping[str, tuple[str, ...]],
) -> Matches:
    used = {candidate for candidates in matched.values() for candidate in candidates}
    by_key: dict[str, list[str]] = {}
    for candidate in available:
        if candidate not in used and (value := key(candidate)):
            by_key.setdefault(value, []).append(candidate)
    keys = {name: value for name in names if name not in matched and (value := key(name)) in by_key}
    count = Counter(keys.values())
    return {name: tuple(sorted(by_key[value])) for name, value in keys.items() if count[value] == 1}


def _are_flat(names: Iterable[str]) -> bool:
    return not any("/" in name for name in names)


def _normalized(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _last_part(name: str) -> str:
    return _normalized(name.rpartition("/")[2])


def _isic_name_key(name: str) -> str:
    last = name.rpartition("/")[2]
    return isic.find_id(last) if "isic" in last.lower() else ""
