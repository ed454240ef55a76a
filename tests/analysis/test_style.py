"""What the pictures share: how text is broken into lines."""

from scmm.analysis.style import text_font, wrap_text


def test_lines_fit_and_lose_nothing_until_they_are_cut():
    font = text_font(28)
    text = "a tall woman with a yellow umbrella and a superextraordinarilylongword " * 2
    lines = list(wrap_text(text, font, 500, max_lines=4))
    assert all(font.getlength(line) <= 500 for line in lines)
    assert len(lines) == 4
    assert lines[-1].endswith(" …")
    assert (
        "".join(lines)[:-2].replace(" ", "")
        == text.replace(" ", "")[: sum(len(x.replace(" ", "")) for x in lines) - 1]
    )
    assert list(wrap_text("a\nred  hat", font, 500, max_lines=4)) == ["a red hat"]
    assert "".join(wrap_text("y" * 60, font, 500, max_lines=4)) == "y" * 60
