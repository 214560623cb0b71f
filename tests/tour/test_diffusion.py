"""How the tour's section on drawing looks for prompts among the names of emoji."""

from __future__ import annotations

from opsin.sources.opening import open_source
from opsin.tour.diffusion import PROMPTS, _emoji_names


def test_each_name_stands_for_an_emoji_of_that_name() -> None:
    names, first_name = _emoji_names()
    captions = open_source("emoji").captions
    assert captions is not None
    assert names == list(dict.fromkeys(own[0] for own in captions))
    assert {name: first_name[name] for name in names} == {name: name for name in names}
    owners = {name: {own[0] for own in captions if name in own} for own in captions for name in own}
    assert first_name.keys() == owners.keys() >= set(PROMPTS)
    assert all(first_name[name] in own for name, own in owners.items())
