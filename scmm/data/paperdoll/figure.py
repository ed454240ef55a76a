"""The doll: a person drawn from the attributes that the image shows, and from nothing else, so that a hidden attribute
cannot leave a trace in the pixels."""

from scmm.data.paperdoll.attributes import COLORS, SKINS
from scmm.data.paperdoll.belongings import (
    draw_backpack_side,
    draw_bag,
    draw_bag_or_straps,
    draw_carried,
    draw_umbrella,
)
from scmm.data.paperdoll.head import draw_head
from scmm.data.paperdoll.pen import Color, Pen, darker_or_lighter, segment, shade
from scmm.data.paperdoll.scenes import Scene


WIDTHS = {"slim": 0.88, "average": 1.03, "heavy": 1.25}
LEG_ENDS = {"short": 122.0, "knee": 141.0, "cropped": 163.0, "long": 181.0}
SKIRT_ENDS = {"short": 126.0, "knee": 146.0, "long": 174.0}
HEMS = {"jacket": 104.0, "blazer": 107.0, "coat": 128.0, "vest": 101.0}


class Figure:
    """
    Draws one person with a [`Pen`]. The methods draw layers from back to front.

    Args:
        pen (`Pen`): where to draw.
        shown (`dict[str, str]`): from [`shown_attributes`]; attributes that are missing get a neutral look.
        scene (`Scene`): view, pose and stride.
    """

    def __init__(self, pen: Pen, shown: dict[str, str], scene: Scene):
        self.pen, self.shown, self.scene = pen, shown, scene
        self.view = scene.view
        self.facing = {"left": -1, "right": 1}.get(scene.view, 0)
        # Where the person's left hand is in the image, seen from the front or from behind.
        self.left = -1 if scene.view == "back" else 1
        man, width = shown["gender"] == "man", WIDTHS[shown["build"]]
        self.shoulder = (19.5 if man else 16.0) * width
        self.waist = (15.5 if man else 11.5) * width
        self.hip = (14.5 if man else 16.0) * width
        self.depth = (11.5 if man else 10.0) * width  # half of the torso, seen from the side
        self.leg = (13.5 if man else 12.5) * (0.75 + 0.25 * width)
        self.arm = 9.5 * (0.7 + 0.3 * width)
        self.near_hand = (self.facing * 2.0, 97.0)  # moved by the arm that is drawn last
        self.skin = SKINS[shown["skin"]]
        self.outer_type = shown["outer_type"]
        self.outer = self.color("outer_color", COLORS["gray"])
        self.upper = self.color("upper_color", self.outer)
        self.lower = self.color("lower_color", self.outer)
        self.second = self.color("upper_pattern_color", self.upper)

    def color(self, name: str, fallback: Color) -> Color:
        return COLORS[self.shown[name]] if name in self.shown else fallback

    def draw(self) -> None:
        """Draw the whole person."""
        carried = self.shown.get("carried", "none")
        if carried == "umbrella":
            draw_umbrella(self)
        if self.facing:
            self.arm_side(near=False)
            if self.shown.get("bag") == "backpack":
                draw_backpack_side(self)
            self.legs_side()
            self.torso_side()
            draw_head(self)
            self.arm_side(near=True)
        else:
            self.legs()
            self.torso()
            self.arms()
            draw_head(self)
            draw_bag_or_straps(self)
        draw_carried(self)

    # ---------------------------------------------------------------- legs

    def leg_cloth(self, points: list[tuple[float, float]], tone: float) -> None:
        """One leg from hip over knee to ankle: skin, and cloth down to where the garment ends."""
        (hip, knee, ankle), skin, cloth = points, shade(self.skin, tone), shade(self.lower, tone)
        self.pen.limb([hip, knee, ankle], [self.leg, 9.5, 7], skin)
        kind = self.shown.get("lower_type", "trousers")
        if kind == "skirt":
            return
        end = LEG_ENDS[self.shown.get("lower_length", "short" if kind == "shorts" else "long")]
        wide = {"leggings": 0.86, "shorts": 1.15, "jeans": 1.0}.get(kind, 1.08)
        widths = [self.leg * wide, 11.0 * wide, (8.0 if kind == "leggings" else 10.5) * wide]
        if end <= knee[1]:
            share = (end - hip[1]) / (knee[1] - hip[1])
            chain = [hip, (hip[0] + (knee[0] - hip[0]) * share, end)]
            widths = [widths[0], widths[0] * 0.98]
        else:
            share = min(1.0, (end - knee[1]) / (ankle[1] - knee[1]))
            chain = [hip, knee, (knee[0] + (ankle[0] - knee[0]) * share, knee[1] + (ankle[1] - knee[1]) * share)]
        pattern, light = self.shown.get("lower_pattern", "plain"), darker_or_lighter(self.lower, 0.75)
        pieces = list(zip(chain, chain[1:], widths, widths[1:], strict=False))
        self.pen.ellipse(*hip, widths[0] / 2, widths[0] / 2, cloth)
        for start, stop, first, last in pieces:
            self.pen.patterned(segment(start, stop, first, last), cloth, pattern, shade(light, tone))
        if len(chain) == 3 and pattern != "checks":
            self.pen.ellipse(*knee, widths[1] / 2, widths[1] / 2, cloth)
        if kind == "jeans":  # faded along the middle, with a cuff
            for start, stop, first, last in pieces:
                self.pen.polygon(
                    segment(start, stop, first * 0.35, last * 0.3), shade(darker_or_lighter(self.lower, 0.22), tone)
                )
            self.pen.ellipse(
                chain[-1][0], chain[-1][1], widths[-1] / 2, 1.6, shade(darker_or_lighter(self.lower, 0.4), tone)
            )
        if pattern == "side stripe":
            side = 0 if self.facing else (1 if hip[0] > 0 else -1)
            self.pen.line(
                [(x + side * w * 0.34, y) for (x, y), w in zip(chain, widths, strict=False)], 3.2, shade(light, tone)
            )

    def shoe(self, x: float, y: float, ankle: tuple[float, float], tone: float) -> None:
        color = shade(self.color("shoes_color", COLORS["gray"]), tone)
        kind = self.shown.get("shoes_type", "sneakers")
        pen, facing = self.pen, self.facing
        if kind == "boots":
            pen.limb([(ankle[0], ankle[1] - 15), ankle, (x, y - 2)], [10.5, 10.5, 11], color)
        if facing:
            toe = x + facing * (13 if kind != "dress shoes" else 15)
            heel = x - facing * 5
            top = y - (7 if kind != "sandals" else 3)
            if kind == "sandals":
                pen.polygon(
                    [(heel, y - 5), (x + facing * 4, y - 6), (toe, y - 2), (toe, y + 1), (heel, y + 1)],
                    shade(self.skin, tone),
                )
                pen.line([(x - facing * 2, y - 6), (x, y)], 2.2, color)
                pen.line([(x + facing * 5, y - 5), (x + facing * 6, y)], 2.6, color)
            else:
                pen.polygon(
                    [(heel, top), (x + facing * 4, top), (toe - facing * 2, y - 4), (toe, y + 2), (heel, y + 2)], color
                )
            if kind == "sneakers":
                pen.polygon(
                    [(heel, y), (toe, y), (toe, y + 3), (heel, y + 3)],
                    shade((238, 238, 236) if sum(color) < 560 else (120, 120, 124), tone),
                )
            elif kind != "sandals":
                pen.polygon(
                    [(heel, y + 1), (heel + facing * 5, y + 1), (heel + facing * 5, y + 4), (heel, y + 4)],
                    shade(color, 0.6),
                )
            else:
                pen.polygon([(heel, y + 1), (toe, y + 1), (toe, y + 3), (heel, y + 3)], color)
            return
        if kind == "sandals":
            pen.ellipse(x, y - 1, 6.5, 5.5, shade(self.skin, tone))
            pen.line([(x - 6, y - 1), (x + 6, y - 3)], 2.4, color)
            pen.line([(x - 6, y + 3), (x + 6, y + 2)], 2.0, color)
        else:
            pen.ellipse(x, y - 1, 6 if kind == "dress shoes" else 7.5, 6 if kind != "sneakers" else 5.5, color)
            if kind == "sneakers":
                pen.box(x, y + 3.4, 7.2, 1.5, shade((238, 238, 236) if sum(color) < 560 else (120, 120, 124), tone), 1)

    def skirt(self, sway: float) -> None:
        end = SKIRT_ENDS[self.shown.get("lower_length", "short")]
        waist, flare = (self.depth if self.facing else self.waist), 1 + (end - 92) / 95
        hem = min((self.depth if self.facing else self.hip) * flare + 3, 30)
        points = [(-waist, 86), (waist, 86), (hem + sway, end), (-hem + sway, end)]
        self.pen.patterned(points, self.lower, self.shown["lower_pattern"], darker_or_lighter(self.lower, 0.75))
        if self.shown["lower_pattern"] == "side stripe":
            for x in (-1, 1):
                self.pen.line(
                    [(x * waist * 0.8, 88), (x * hem * 0.82 + sway, end)], 3.0, darker_or_lighter(self.lower, 0.75)
                )
        for x in (-0.4, 0.1, 0.55):
            self.pen.line([(waist * x, 100), (hem * x + sway, end - 1)], 0.8, shade(self.lower, 0.8))

    def legs(self) -> None:
        stride = self.scene.stride
        sides = (-1, 1) if stride > 0 else (1, -1)
        for order, side in enumerate(sides):  # the leg that is back is lifted, darker and drawn first
            lift = 9 * abs(stride) if order == 0 else 0
            hip, knee = (side * self.hip * 0.5, 102.0), (side * (self.hip * 0.5 + 1.5), 142.0 - lift * 0.3)
            ankle = (side * (self.hip * 0.5 + 0.5), 181.0 - lift)
            tone = 0.84 if order == 0 else 1.0
            self.leg_cloth([hip, knee, ankle], tone)
            self.shoe(ankle[0] + side * 1.5, 186 - lift, ankle, tone)
        if self.shown.get("lower_type") == "skirt":
            self.skirt(2 * stride)

    def legs_side(self) -> None:
        stride, facing = self.scene.stride, self.facing
        for near in (False, True):
            reach = facing * 23 * stride * (1 if near else -1)
            forward = reach * facing > 0
            lift = 0 if forward else 5 * abs(stride)
            hip, ankle = (0.0 + (1.5 if near else -1.5), 100.0), (reach, 180.0 - lift)
            knee = (reach * 0.5 + facing * (3 + 3 * abs(stride)), 140.0)
            tone = 1.0 if near else 0.8
            self.leg_cloth([hip, knee, ankle], tone)
            self.shoe(ankle[0], 186 - lift, ankle, tone)
        if self.shown.get("lower_type") == "skirt":
            self.skirt(facing * 3 * abs(stride))

    # ---------------------------------------------------------------- torso

    def logo(self) -> None:
        if self.shown.get("upper_pattern") == "logo":
            x = self.facing * 3
            self.pen.box(x, 63, 7.5, 7.5, self.second, 2)
            self.pen.ellipse(x, 63, 3.5, 3.5, self.upper)

    def torso(self) -> None:
        pen, shown = self.pen, self.shown
        shoulder, waist, hip = self.shoulder, self.waist, self.hip
        kind, front = shown.get("upper_type"), self.view == "front"
        pen.box(0, 39, 4.5, 6, shade(self.skin, 0.88))
        inset = 6.5 if kind == "tank top" else 0
        outline = [
            (-shoulder + inset, 46),
            (-shoulder + inset + 4, 42),
            (shoulder - inset - 4, 42),
            (shoulder - inset, 46),
        ]
        if kind == "tank top":
            pen.polygon(
                [
                    (-shoulder, 46),
                    (-shoulder + 4, 42),
                    (shoulder - 4, 42),
                    (shoulder, 46),
                    (shoulder - 3, 60),
                    (3 - shoulder, 60),
                ],
                self.skin,
            )
        outline += [(waist + 1, 74), (hip, 101), (-hip, 101), (-waist - 1, 74)]
        pen.patterned(outline, self.upper, shown.get("upper_pattern", "plain"), self.second)
        self.logo()
        edge = darker_or_lighter(self.upper, 0.35)
        if front and kind == "shirt":
            pen.polygon([(-6, 41), (0, 50), (-8, 49)], edge)
            pen.polygon([(6, 41), (0, 50), (8, 49)], edge)
            pen.line([(0, 50), (0, 100)], 1.2, edge)
        elif front and kind in ("T-shirt", "tank top"):
            pen.ellipse(0, 42, 6.5, 4.5 if kind == "T-shirt" else 8, self.skin)
        elif kind == "shirt":
            pen.box(0, 41.5, 8, 2.4, edge, 1)
            pen.line([(3 - shoulder, 56), (0, 58), (shoulder - 3, 56)], 1.2, edge)  # the yoke
            pen.line([(0, 58), (0, 100)], 1.0, edge)
        elif kind == "T-shirt":
            pen.line([(-7, 42.5), (0, 44.5), (7, 42.5)], 1.2, edge)
        elif kind == "hoodie":
            pen.ellipse(0, 43, 12, 5.5, edge)
            if front:
                pen.ellipse(0, 41, 6, 4, shade(self.skin, 0.88))
                pen.line([(-3, 46), (-3, 56)], 1.3, edge)
                pen.line([(3, 46), (3, 56)], 1.3, edge)
                pen.polygon([(-8, 84), (8, 84), (11, 96), (-11, 96)], edge)
        elif kind == "sweater":
            pen.box(0, 42.5, 6.5, 2.5, edge, 1)
            pen.polygon([(-hip, 96), (hip, 96), (hip, 101), (-hip, 101)], edge)
        if self.outer_type != "none":
            self.outer_garment()

    def outer_garment(self) -> None:
        pen, color = self.pen, self.outer
        hem, edge = HEMS[self.outer_type], darker_or_lighter(self.outer, 0.35)
        shoulder, waist = self.shoulder + 1, self.waist + 3
        flare = self.hip + 2 + (3 if self.outer_type == "coat" else 0)
        if self.view == "back":
            pen.polygon(
                [
                    (-shoulder, 46),
                    (-shoulder + 4, 41),
                    (shoulder - 4, 41),
                    (shoulder, 46),
                    (waist, 76),
                    (flare, hem),
                    (-flare, hem),
                    (-waist, 76),
                ],
                color,
            )
            if self.outer_type in ("coat", "blazer"):
                pen.line([(0, 84), (0, hem)], 1.2, edge)
            if self.outer_type == "jacket":
                pen.polygon([(-flare + 1, hem - 6), (flare - 1, hem - 6), (flare, hem), (-flare, hem)], edge)
            if self.outer_type == "vest":
                for y in (56, 68, 80, 92):
                    pen.line([(-waist, y), (waist, y)], 1.2, edge)
            pen.box(0, 41.5, 8, 2.2, edge, 1)
            return
        for side in (-1, 1):
            gap_top, gap_mid = 6, (1 if self.outer_type == "blazer" else 8)
            panel = [
                (side * gap_top, 41),
                (side * (shoulder - 4), 41),
                (side * shoulder, 46),
                (side * waist, 76),
                (side * flare, hem),
            ]
            panel += [(side * 8, hem), (side * gap_mid, 82), (side * 7.5, 60)]
            pen.polygon(panel, color)
            pen.line([(side * gap_top, 42), (side * 7.5, 60), (side * gap_mid, 82), (side * 8, hem)], 1.2, edge)
            if self.outer_type == "blazer":
                pen.polygon([(side * 6, 41), (side * 13, 50), (side * 9, 58), (side * 3, 78)], edge)
            if self.outer_type == "coat":
                pen.polygon([(side * 6, 40), (side * 14, 44), (side * 10, 54)], edge)
                pen.line([(side * 12, 92), (side * 17, 90)], 1.6, edge)
            if self.outer_type == "jacket":
                pen.polygon(
                    [(side * 8, hem - 6), (side * (flare - 1), hem - 6), (side * flare, hem), (side * 8, hem)], edge
                )
            if self.outer_type == "vest":
                for y in (56, 68, 80, 92):
                    pen.line([(side * 9, y), (side * (waist + 1), y)], 1.2, edge)

    def torso_side(self) -> None:
        pen, shown, facing = self.pen, self.shown, self.facing
        depth, kind = self.depth, shown.get("upper_type")
        pen.box(-facing * 1, 39, 4, 6, shade(self.skin, 0.88))
        chest = depth * (1.05 if shown["gender"] == "man" else 1.22)
        outline = [
            (-facing * depth * 0.7, 42),
            (facing * 5, 42),
            (facing * chest, 58),
            (facing * depth * 0.9, 76),
            (facing * depth, 101),
            (-facing * depth * 1.1, 101),
            (-facing * depth * 0.85, 78),
            (-facing * depth, 56),
        ]
        pen.patterned(outline, self.upper, shown.get("upper_pattern", "plain"), self.second)
        self.logo()
        edge = darker_or_lighter(self.upper, 0.35)
        if kind == "hoodie":
            pen.ellipse(-facing * 7, 44, 7, 6, edge)
        elif kind == "sweater":
            pen.polygon([(-depth, 96), (depth, 96), (depth, 101), (-depth, 101)], edge)
        elif kind == "shirt":
            pen.polygon([(facing * 1, 40), (facing * 7, 42), (facing * 5, 49)], edge)
        if self.outer_type != "none":
            hem, edge = HEMS[self.outer_type], darker_or_lighter(self.outer, 0.35)
            back = -facing * (depth + 1.5)
            pen.polygon(
                [
                    (-facing * depth * 0.7, 41),
                    (facing * 2, 41),
                    (facing * 5, 58),
                    (facing * 4, 80),
                    (facing * depth * 0.6, hem),
                    (back * 1.15, hem),
                    (back * 0.9, 78),
                    (back, 56),
                ],
                self.outer,
            )
            pen.line([(facing * 2, 41), (facing * 5, 58), (facing * 4, 80), (facing * depth * 0.6, hem)], 1.4, edge)
            if self.outer_type == "jacket":
                pen.polygon(
                    [
                        (facing * depth * 0.55, hem - 6),
                        (facing * depth * 0.6, hem),
                        (back * 1.15, hem),
                        (back * 1.08, hem - 6),
                    ],
                    edge,
                )
            if self.outer_type == "vest":
                for y in (56, 68, 80, 92):
                    pen.line([(back * 0.9, y), (facing * 4, y)], 1.2, edge)
            if self.outer_type in ("coat", "blazer"):
                pen.polygon([(facing * 1, 40), (facing * 8, 46), (facing * 4, 60)], edge)

    # ---------------------------------------------------------------- arms

    def arm_cloth(self, points: list[tuple[float, float]], tone: float) -> None:
        """An arm from shoulder over elbow to hand."""
        shoulder, elbow, hand = points
        width = self.arm
        self.pen.limb(points, [width, width * 0.85, width * 0.7], shade(self.skin, tone))
        self.pen.ellipse(*hand, 3.8, 4.2, shade(self.skin, tone * 0.95))
        has_sleeves = self.outer_type not in ("none", "vest")
        sleeves = "long" if has_sleeves else self.shown.get("sleeves", "long")
        cloth = shade(self.outer if has_sleeves else self.upper, tone)
        wrist = (elbow[0] + (hand[0] - elbow[0]) * 0.82, elbow[1] + (hand[1] - elbow[1]) * 0.82)
        if sleeves == "long":
            self.pen.limb([shoulder, elbow, wrist], [width * 1.12, width, width * 0.9], cloth)
        elif sleeves == "short":
            end = (shoulder[0] + (elbow[0] - shoulder[0]) * 0.75, shoulder[1] + (elbow[1] - shoulder[1]) * 0.75)
            self.pen.limb([shoulder, end], [width * 1.12, width * 1.15], cloth)

    def arms(self) -> None:
        stride, reach = self.scene.stride, self.shoulder + 5
        held = self.shown.get("carried", "none")
        for side in (-1, 1):
            swing = 5 * stride * side
            shoulder = (side * (self.shoulder - 2.5), 48.0)
            if side == self.left and held in ("phone", "cup", "book", "umbrella"):
                elbow, hand = (side * (reach + 1), 72.0), (side * (self.shoulder - 4), 66.0)
            else:
                elbow, hand = (side * reach, 74.0), (side * (reach + 1), 98.0 - abs(swing))
            self.arm_cloth([shoulder, elbow, hand], 0.9)

    def arm_side(self, near: bool) -> None:
        stride, facing = self.scene.stride, self.facing
        # The left arm is near when the person walks to the left.
        is_left = near == (facing < 0)
        swing = -facing * stride * (1 if near else -1)
        held = self.shown.get("carried", "none") if is_left else "none"
        if held in ("phone", "cup", "book", "umbrella"):
            points = [(0.0, 48.0), (-facing * 2.0, 72.0), (facing * 16.0, 68.0)]
        else:
            if (is_left and held in ("suitcase", "shopping bag")) or (
                near and facing > 0 and self.shown.get("bag") == "handbag"
            ):
                swing *= 0.3
            points = [(0.0, 48.0), (swing * 9 - facing * 2.0, 74.0), (swing * 19 + facing * 2.0, 97.0)]
        self.arm_cloth(points, 0.88 if near else 0.72)
        if near and facing > 0 and self.shown.get("bag") in ("handbag", "shoulder bag"):
            draw_bag(self, points[-1][0] if self.shown["bag"] == "handbag" else 3.0)
        if near and facing < 0:
            self.near_hand = points[-1]
