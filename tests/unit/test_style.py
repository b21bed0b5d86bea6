"""style.css: every text colour can be read, and colours that mean opposites differ for every kind of eye."""

from __future__ import annotations

import itertools
import re

import pytest

from harness import CHECKOUT

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
EYES = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
# A CIE76 distance that nobody confuses side by side; 2.3 is just noticeable.
CLEAR = 20.0
# WCAG 2.2, 1.4.3
READABLE = 4.5
TEXT = ("ink", "muted", "day31", "day40", "pass", "fail", "open", "link")


def schemes() -> dict[str, dict[str, str]]:
    css = (CHECKOUT / "reports/style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    found = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def linear(colour: str) -> tuple[float, ...]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    return tuple(one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)


def luminance(colour: str) -> float:
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, eye: str) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of what that eye sees."""
    red, green, blue = (
        min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear(colour), strict=True)))) for row in EYES[eye]
    )
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    fx, fy, fz = (one ** (1 / 3) if one > 0.008856 else 7.787 * one + 16 / 116 for one in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_can_be_read(scheme: str):
    colours = schemes()["light"] | schemes()[scheme]
    for name, ground in itertools.product(TEXT, ("paper", "panel")):
        assert contrast(colours[name], colours[ground]) >= READABLE, (name, ground)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("pair", [("day31", "day40"), ("pass", "fail")])
def test_opposites_differ_for_every_eye(eye: str, pair: tuple[str, str]):
    for scheme in ("light", "dark"):
        one, other = (lab(schemes()[scheme][name], eye) for name in pair)
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 >= CLEAR, scheme
