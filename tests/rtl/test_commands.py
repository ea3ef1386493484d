"""Words of the command stream as a host packs them, against Amaranth's own constants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaver.rtl import commands
from quaver.rtl.commands import GemmArguments, WordLayout

LAYOUTS = {name: layout for name, layout in vars(commands).items() if isinstance(layout, WordLayout)}


@pytest.mark.parametrize("name", LAYOUTS)
@given(st.data())
def test_words_are_those_of_amaranth(name: str, data: st.DataObject) -> None:
    layout = LAYOUTS[name]
    fields = {member: data.draw(st.integers(0, (1 << width) - 1)) for member, width in layout.members.items()}
    word = layout.const(fields).as_value().value
    assert layout.pack(**fields) == word < 1 << 32
    assert vars(layout.unpack(word)) == fields


def test_a_field_that_does_not_fit_is_refused() -> None:
    assert GemmArguments.pack(last=True) == 1 << 19
    for wrong in (-1, 1 << 16):
        with pytest.raises(ValueError, match=rf"k is {wrong}, but a word has room for 0 … 65535"):
            GemmArguments.pack(k=wrong)
