"""The chart: horizontal bars as SVG, built from strings, without a library.

One row for each contender, one panel for each scene, one bar for each series (a Python version, or
a placement). A bar is a median, its whisker the quartiles, and the line at 1 is what all are
compared to. A bar that would make the others too small to read is cut, and tells its number.
Colours follow the reader's light or dark mode, with a ground of their own: the page around may have
another mode.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 920
EDGE = 16  # around it all
LABELS = 308  # where the panels begin
GAP = 20  # between them
NUMBERS = 46  # at the right of each panel, for the numbers of its longest bars
HEAD = 112  # above the rows
BAR = 10
ROW_GAP = 12
CUT = 2.0  # the longest that a bar may make the axis

STYLE = """
    .back { fill: #ffffff; }
    text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
    .code { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
    .head { font-weight: 600; font-size: 13px; }
    .small { font-size: 10px; fill: #59636e; }
    .grid { stroke: #d1d9e0; }
    .one { stroke: #59636e; stroke-dasharray: 3 3; }
    .whisker { stroke: #1f2328; }
    .ours { fill: #0969da; }
    .other { fill: #818b98; }
    .floor { fill: #bf8700; }
    @media (prefers-color-scheme: dark) {
      .back { fill: #0d1117; }
      text { fill: #f0f6fc; }
      .small { fill: #9198a1; }
      .grid { stroke: #3d444d; }
      .one { stroke: #9198a1; }
      .whisker { stroke: #f0f6fc; }
      .ours { fill: #4493f8; }
      .other { fill: #7d8590; }
      .floor { fill: #d29922; }
    }
"""


@dataclass(frozen=True)
class Row:
    name: str
    code: str
    kind: str  # a class of the style: ours, other, floor


@dataclass(frozen=True)
class Series:
    label: str
    #: scene to contender to (lower quartile, median, upper quartile)
    bars: Mapping[str, Mapping[str, tuple[float, float, float]]]


def chart(
    title: str, rows: Sequence[Row], scenes: Mapping[str, str], series: Sequence[Series]
) -> str:
    """Return the SVG document; *scenes* is the panels: each scene's key and its heading."""
    rows = [row for row in rows if any(row.name in s.bars[k] for s in series for k in scenes)]
    row_height = BAR * len(series) + ROW_GAP
    bottom = HEAD + row_height * len(rows)
    height = bottom + 52
    panel = (WIDTH - LABELS - EDGE - GAP * (len(scenes) - 1)) / len(scenes)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="desc">{escape(_description(rows, scenes, series))}</desc>',
        f"  <style>{STYLE}  </style>",
        '  <rect class="back" width="100%" height="100%" rx="6"/>',
        text(EDGE, 26, title, "head"),
        *_legend({row.kind for row in rows}, series),
    ]
    parts += [
        text(EDGE, HEAD + row_height * (index + 0.5) + 1, row.code, "code")
        for index, row in enumerate(rows)
    ]
    for index, (scene, heading) in enumerate(scenes.items()):
        left = LABELS + index * (panel + GAP)
        end = _end([s.bars[scene] for s in series])
        scale = (panel - NUMBERS) / end
        parts.append(text(left, HEAD - 12, heading, "head"))
        parts += _grid(left, bottom, scale, end)
        for position, row in enumerate(rows):
            top = HEAD + row_height * position + ROW_GAP / 2
            for number, one in enumerate(series):
                if row.name in one.bars[scene]:
                    bar = one.bars[scene][row.name]
                    strength = _strength(number, len(series))
                    parts += _bar(left, top + BAR * number, bar, scale, end, row.kind, strength)
    parts.append(text(LABELS, height - 14, "shorter is faster; whiskers: quartiles", "small"))
    return "\n".join([*parts, "</svg>", ""])


def _end(panels: Sequence[Mapping[str, tuple[float, float, float]]]) -> float:
    """Return where the axis ends: a multiple of a half that holds all bars but those to be cut."""
    shown = [high for bars in panels for _, _, high in bars.values() if high <= CUT]
    halves = -(-max([1.0, *shown]) // 0.5)
    return float(halves * 0.5)


def _strength(number: int, count: int) -> float:
    """Return the opacity of a series: the last one is the strongest."""
    return round(1 - 0.6 * (count - 1 - number) / max(count, 2), 2)


def _legend(shown: Collection[str], series: Sequence[Series]) -> list[str]:
    parts = []
    kinds = [("ours", "threadhop"), ("other", "others"), ("floor", "the least that is possible")]
    swatches = [(kind, 1.0, label) for kind, label in kinds if kind in shown]
    for row, entries in enumerate(
        (
            swatches,
            [("ours", _strength(n, len(series)), s.label) for n, s in enumerate(series)],
        )
    ):
        x = float(EDGE)
        y = 40 + row * 17
        for kind, strength, label in entries:
            parts.append(
                f'  <rect class="{kind}" opacity="{strength}" x="{x:g}" y="{y}" width="14"'
                f' height="{BAR}"/>'
            )
            parts.append(text(x + 19, y + 8.5, label, "small"))
            x += 19 + 5.6 * len(label) + 18
    return parts


def _grid(left: float, bottom: float, scale: float, end: float) -> list[str]:
    parts = []
    for step in range(int(end * 2) + 1):
        value = step / 2
        x = left + value * scale
        kind = "one" if value == 1 else "grid"
        parts.append(f'  <path class="{kind}" d="M{x:.1f} {HEAD - 4}V{bottom + 4}"/>')
        parts.append(text(x, bottom + 17, f"{value:g}", "small", anchor="middle"))
    return parts


def _bar(
    left: float,
    top: float,
    bar: tuple[float, float, float],
    scale: float,
    end: float,
    kind: str,
    strength: float,
) -> list[str]:
    low, median, high = bar
    middle = top + BAR / 2
    length = min(median, end) * scale
    size = f'x="{left:.1f}" y="{top:.1f}" width="{length:.1f}" height="{BAR - 1.5:g}"'
    parts = [f'  <rect class="{kind}" opacity="{strength}" {size}/>']
    label = f"{median:.2f}" if median < 10 else f"{median:.0f}"
    reach = length
    if median > end:
        label = f"\u2192 {label}"
    else:
        reach = min(high, end) * scale
        parts.append(
            f'  <path class="whisker" d="M{left + low * scale:.1f} {middle - 0.75:.2f}'
            f'H{left + reach:.1f}"/>'
        )
    parts.append(text(left + max(length, reach) + 4, middle + 2.5, label, "small"))
    return parts


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'  <text class="{kind}" x="{x:.1f}" y="{y:.1f}"{anchored}>{escape(words)}</text>'


def _description(rows: Sequence[Row], scenes: Mapping[str, str], series: Sequence[Series]) -> str:
    sentences = []
    for one in series:
        for scene, heading in scenes.items():
            numbers = ", ".join(
                f"{row.code} {one.bars[scene][row.name][1]:.2f}"
                for row in rows
                if row.name in one.bars[scene]
            )
            sentences.append(f"{one.label}, {heading}: {numbers}.")
    return " ".join(sentences)
