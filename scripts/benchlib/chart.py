"""The table as a picture: a bar for each program, each phase on a scale of its own."""

from html import escape

COLOURS = {
    "tresor": "#c0392b", "restic": "#5b8db8", "rustic": "#8fb35b", "borg": "#b8975b",
    "bupstash": "#8a6fb0", "floor": "#999999", "pass-through": "#bbbbbb",
}
WIDTH, LABELS, BAR, GAP = 900, 330, 12, 14


def bars_of(phase):
    """Programs with their figures."""
    return [(name, f["median"]) for name, f in phase["figures"].items() if f.get("median") is not None]


def svg(title, phases):
    """`phases` as table.as_json gives them."""
    lines, y = [], 50
    for phase in phases:
        bars = bars_of(phase)
        most = max((figure for _, figure in bars), default=0)
        if not most:
            continue
        lines.append(text(LABELS - 10, y + BAR, f"{phase['title']} ({phase['unit']})", "end"))
        for name, figure in bars:
            length = max(1, round((WIDTH - LABELS - 190) * figure / most))
            colour = COLOURS.get(name, "#444444")
            lines.append(f'<rect x="{LABELS}" y="{y}" width="{length}" height="{BAR}" fill="{colour}"/>')
            lines.append(text(LABELS + length + 6, y + BAR - 2, f"{figure:,.4g} {name}"))
            y += BAR + 2
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="11">'
    page = f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, page, text(20, 28, title, size=15), *lines, "</svg>"]) + "\n"


def text(x, y, what, anchor="start", size=11):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(what)}</text>'
