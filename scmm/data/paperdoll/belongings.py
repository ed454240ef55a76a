"""What the doll carries: bags on the right side or the back, other things in the left hand."""

from typing import TYPE_CHECKING

from scmm.data.paperdoll.attributes import COLORS
from scmm.data.paperdoll.pen import INK, darker_or_lighter, shade


if TYPE_CHECKING:
    from scmm.data.paperdoll.figure import Figure


def draw_bag(figure: "Figure", x: float) -> None:
    """The shoulder bag at hip height with its strap, or the handbag below the hand."""
    pen, color = figure.pen, figure.color("bag_color", COLORS["gray"])
    edge = darker_or_lighter(color, 0.35)
    if figure.shown["bag"] == "shoulder bag":
        start = (-x * 0.5, 43) if not figure.facing else (0, 43)
        pen.line([start, (x, 88)], 3.0, edge)
        pen.line([start, (x, 88)], 1.8, color)
        pen.box(x, 96, 10.5, 10, color, 2)
        pen.polygon([(x - 10.5, 88), (x + 10.5, 88), (x + 10, 96), (x - 10, 96)], edge)
    else:
        pen.line([(x - 6, 112), (x - 4, 98), (x + 4, 98), (x + 6, 112)], 1.8, color)
        pen.polygon([(x - 8.5, 109), (x + 8.5, 109), (x + 11, 125), (x - 11, 125)], color)
        pen.line([(x - 9, 114), (x + 9, 114)], 1.4, edge)


def draw_backpack_side(figure: "Figure") -> None:
    pen, back, color = figure.pen, -figure.facing, figure.color("bag_color", COLORS["gray"])
    x = back * (figure.depth + 8)
    pen.box(x, 66, 10, 21, color, 5)
    pen.box(x + back * 8, 73, 4.5, 10, darker_or_lighter(color, 0.25), 2)


def draw_bag_or_straps(figure: "Figure") -> None:
    pen, bag = figure.pen, figure.shown.get("bag", "none")
    if bag == "backpack" and figure.view == "front":
        for side in (-1, 1):
            x = side * figure.shoulder * 0.62
            pen.line([(x, 42), (x, 66), (side * figure.shoulder * 0.8, 78)], 5.6, (205, 205, 205))
            pen.line([(x, 42), (x, 66), (side * figure.shoulder * 0.8, 78)], 3.8, (50, 50, 54))
    elif bag == "backpack":
        color = figure.color("bag_color", COLORS["gray"])
        edge = darker_or_lighter(color, 0.25)
        pen.box(0, 67, 14.5, 21, color, 5)
        pen.box(0, 76, 10.5, 8.5, edge, 2)
        pen.line([(-12, 56), (12, 56)], 1.4, edge)
        pen.line([(-4, 46), (0, 43), (4, 46)], 1.6, edge)
    elif bag != "none":
        draw_bag(figure, -figure.left * (figure.shoulder + 7 if bag == "handbag" else figure.hip + 6))


def draw_umbrella(figure: "Figure") -> None:
    pen, color = figure.pen, figure.color("carried_color", COLORS["gray"])
    pen.dome(0, 36, 46, 34, color)
    for x in (-23, 0, 23):
        pen.line([(0, 2), (x, 36)], 1.0, shade(color, 0.75))
    for x in (-34.5, -11.5, 11.5, 34.5):
        pen.ellipse(x, 36, 11.5, 3.5, shade(color, 0.6))


def draw_carried(figure: "Figure") -> None:
    """What the left hand carries."""
    pen, kind, facing = figure.pen, figure.shown.get("carried", "none"), figure.facing
    if kind == "none":
        return
    color = figure.color("carried_color", COLORS["gray"])
    edge = darker_or_lighter(color, 0.3)
    bent = (facing * 16.0, 68.0) if facing else (figure.left * (figure.shoulder - 4), 66.0)
    down = figure.near_hand if facing else (figure.left * (figure.shoulder + 6), 97.0)
    if kind == "umbrella":
        if facing <= 0:
            pen.line([bent, (bent[0] * 0.7, 36)], 1.8, (70, 60, 56))
        pen.line([(bent[0], bent[1] + 6), bent], 2.4, (70, 60, 56))
    elif kind == "phone":
        pen.box(bent[0], bent[1] - 4, 4, 7, INK, 1)
        pen.box(bent[0], bent[1] - 4, 2.8, 5.4, (120, 220, 255))
    elif kind == "cup":
        pen.polygon(
            [(bent[0] - 4.5, 57), (bent[0] + 4.5, 57), (bent[0] + 3.4, 71), (bent[0] - 3.4, 71)], (244, 240, 232)
        )
        pen.box(bent[0], 65, 4.2, 2.6, (140, 84, 44))
        pen.box(bent[0], 57, 5, 1.5, (70, 44, 30))
    elif kind == "book":
        pen.box(bent[0], 67, 8.5, 11, (150, 30, 40), 1)
        pen.box(bent[0] + 1, 67, 6.5, 9.4, (240, 232, 206))
        for y in (61, 65, 69, 73):
            pen.line([(bent[0] - 4, y), (bent[0] + 6, y)], 0.8, (110, 104, 96))
    elif kind == "shopping bag":
        x, y = down
        pen.line([(x - 5, y + 12), (x - 3, y), (x + 3, y), (x + 5, y + 12)], 1.4, shade(color, 0.7))
        pen.polygon([(x - 9.5, y + 9), (x + 9.5, y + 9), (x + 8.5, y + 35), (x - 8.5, y + 35)], color)
        pen.box(x, y + 22, 4, 4, edge)
    else:
        x, y = (-facing * 30 if facing else figure.left * (figure.shoulder + 14)), 152
        top = (x - 4 * figure.left if not facing else x + facing * 4, 118)
        pen.line([down if not facing or facing < 0 else (0, 97), top], 2.0, (60, 60, 64))
        pen.line([top, (x, 132)], 2.0, (60, 60, 64))
        pen.box(x, y + 8, 11, 25, color, 2.5)
        for offset in (-5, 0, 5):
            pen.line([(x + offset, y - 12), (x + offset, y + 28)], 1.2, edge)
        pen.ellipse(x - 7, 187, 2.6, 3, INK)
        pen.ellipse(x + 7, 187, 2.6, 3, INK)
