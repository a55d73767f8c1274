from __future__ import annotations

import re
from functools import cache

from cloche.tasks import PlantedWorld
from tests.tasks.solvers import Spend


@cache
def learned() -> dict[tuple[str, str], str]:
    """What the training text of world 0 says; the facts are not in the prompt."""
    facts = {}
    for line in PlantedWorld().corpus(composed=0).splitlines():
        for form in (
            r"The (?P<r>\w+) of (?P<s>\w+) is (?P<o>\w+)\.",
            r"(?P<s>\w+)'s (?P<r>\w+) is (?P<o>\w+)\.",
            r"(?P<o>\w+) is the (?P<r>\w+) of (?P<s>\w+)\.",
        ):
            if found := re.fullmatch(form, line):
                facts[found["r"], found["s"]] = found["o"]
    return facts


def solve_PlantedWorld(prompt: str, spend: Spend) -> set[str]:
    """Goes from fact to fact, each of which is known with a fixed probability."""
    words = re.findall(r"\b(?!The|the|of|is|s\b)\w+", prompt)
    entity, *relations = words if "'s" in prompt else words[::-1]
    for relation in relations:
        spend()
        entity = learned()[relation, entity]
    return {entity}
