"""How every picture looks: inks, lettering, widths."""

from __future__ import annotations

from typing import Any

INK, SOFT, MUTED, PAPER = "#1b1e23", "#5b626c", "#7b828c", "#ffffff"
"""Lettering; what is said beside; lines and floors; what hollow dots are filled with."""

ARMS = ("#0072b2", "#d55e00", "#00916a", "#b8558f", "#a97a00", "#3f9ad1")
"""One colour an arm: Okabe and Ito's, told apart by colour-blind eyes, darkened until each stands out from white."""

WIDE, NARROW = 7.4, 3.45
"""Inches of a figure in a column of text, and of one on a phone: letters keep their size."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
