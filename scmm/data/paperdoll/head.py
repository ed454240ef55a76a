"""The doll's head: hair, face, glasses, hat and scarf."""

from typing import TYPE_CHECKING

from scmm.data.paperdoll.attributes import COLORS, HAIR_COLORS
from scmm.data.paperdoll.pen import INK, darker_or_lighter, shade


if TYPE_CHECKING:
    from scmm.data.paperdoll.figure import Figure


def draw_head(figure: "Figure") -> None:
    pen, shown, facing, back = figure.pen, figure.shown, figure.facing, figure.view == "back"
    style, hair = shown.get("hair_style", "short"), HAIR_COLORS.get(shown.get("hair_color", ""), None)
    if "hair_color" not in shown:
        style = "bald"
    if shown["scarf"] != "none":
        _scarf(figure)
    if hair and style == "curly":
        pen.ellipse(-facing * 3, 22, 17, 15.5, hair)
    if hair and style == "long":
        if facing:
            pen.box(-facing * 6, 40, 8, 22, hair, 5)
        elif not back:
            for side in (-1, 1):  # falls in front of the shoulders, beside the neck
                pen.limb([(side * 8.5, 20), (side * 11.5, 40), (side * 11.5, 62)], [9, 8.5, 5], hair)
    if hair and style == "bun":
        pen.ellipse(-facing * 5, 8.5, 6.5, 6, shade(hair, 0.9))
    if hair:
        pen.ellipse(-facing * 2, 23.5, 12.8, 13, hair)
    face = figure.skin
    if back:
        pen.ellipse(0, 26, 11, 12.5, face)
        if hair:
            pen.ellipse(0, 23, 12.8, 12.5, hair)
    elif facing:
        if not hair:
            pen.ellipse(-facing * 1, 24, 11.5, 12.5, face)
        pen.ellipse(facing * 2.5, 27, 9, 10.8, face)
        pen.polygon([(facing * 10, 24), (facing * 14.5, 29.5), (facing * 10, 31)], face)
        pen.ellipse(facing * 7, 25.5, 1.5, 1.7, INK)
        pen.line([(facing * 6, 34), (facing * 10.5, 33.5)], 1.2, shade(face, 0.6))
        pen.ellipse(-facing * 3, 28, 2, 3, shade(face, 0.82))
    else:
        pen.ellipse(0, 27 if hair else 25, 10.3, 11.2 if hair else 13, face)
        for side in (-1, 1):
            pen.ellipse(side * 4.2, 26.5, 1.5, 1.7, INK)
        pen.line([(-3, 33.5), (3, 33.5)], 1.3, shade(face, 0.6))
        pen.line([(0, 27), (0, 30)], 1.0, shade(face, 0.8))
    if hair and style == "long" and back:
        pen.box(0, 38, 13.5, 24, hair, 6)
        pen.line([(0, 30), (0, 60)], 1.0, shade(hair, 0.8))
    if hair and style == "ponytail" and figure.view != "front":
        x = -facing * 14
        if facing:
            pen.limb([(-facing * 10, 18), (x - facing * 3, 28), (x - facing * 2, 52)], [6, 8.5, 3], hair)
        else:
            pen.limb([(0, 22), (0, 40), (0, 60)], [7, 9.5, 3], shade(hair, 0.85))
        pen.ellipse(-facing * 11, 19, 3, 3, (190, 60, 90))
    _glasses(figure)
    _hat(figure)


def _glasses(figure: "Figure") -> None:
    pen, kind, facing = figure.pen, figure.shown.get("glasses", "none"), figure.facing
    if kind == "none":
        return
    lens = (226, 240, 250) if kind == "glasses" else (14, 14, 18)
    radius = 3.9 if kind == "glasses" else 4.6
    for x in (facing * 7,) if facing else (-4.9, 4.9):
        pen.ellipse(x, 26.5, radius + 1.1, radius + 0.9, INK)
        pen.ellipse(x, 26.5, radius - 0.4, radius - 0.6, lens)
        if kind == "glasses":
            pen.ellipse(x, 26.5, 1.2, 1.4, INK)
    pen.line([(facing * 3, 26), (-facing * 4, 25.5)] if facing else [(-11, 25.5), (11, 25.5)], 1.5, INK)


def _hat(figure: "Figure") -> None:
    pen, kind, facing = figure.pen, figure.shown["hat"], figure.facing
    if kind == "none":
        return
    color = figure.color("hat_color", COLORS["gray"])
    edge, x = darker_or_lighter(color, 0.3), -facing * 1.5
    if kind == "cap":
        pen.dome(x, 21, 13, 13.5, color)
        if facing:
            pen.polygon([(facing * 8, 18), (facing * 22, 20.5), (facing * 22, 23), (facing * 6, 22)], edge)
        elif figure.view == "front":
            pen.ellipse(0, 20.5, 13.5, 3.6, edge)
        else:
            pen.ellipse(0, 20, 4, 2.6, figure.skin)
    elif kind == "beanie":
        pen.dome(x, 21, 13.2, 16, color)
        pen.box(x, 19.5, 13.4, 3, edge, 1.5)
        pen.ellipse(x, 5, 3.6, 3.4, edge)
    else:
        pen.ellipse(x, 19.5, 23, 4.6, color)
        pen.dome(x, 19, 12, 14.5, color)
        pen.box(x, 17, 12, 1.8, edge)


def _scarf(figure: "Figure") -> None:
    color = figure.color("scarf_color", COLORS["gray"])
    edge = darker_or_lighter(color, 0.25)
    figure.pen.ellipse(0, 42, 12.5, 6, color)
    x = figure.facing * 5 if figure.facing else -5 * figure.left
    if figure.view != "back":
        figure.pen.box(x, 56, 4.2, 13, edge, 1)
        figure.pen.box(x, 66, 4.2, 2, color)
    figure.pen.ellipse(0, 39.5, 10, 2.5, edge)
