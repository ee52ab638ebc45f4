"""From figures to a table for people and to JSON for machines."""


def best_peer(phase, results, peers):
    """The peer with the best median, and that median."""
    medians = {peer: results.median(peer, phase.key) for peer in peers}
    known = {peer: median for peer, median in medians.items() if median is not None}
    if not known:
        return None, None
    best = (max if phase.more_is_better else min)(known, key=known.get)
    return best, known[best]


def verdict(phase, results, own, peers):
    """How tresor compares: the best peer, how many times better than it, the bar, whether met.

    A bar that nothing could be compared with is neither met nor missed: None.
    """
    figure = results.median(own, phase.key)
    peer, best = best_peer(phase, results, peers)
    ratio = times_better(phase, figure, best)
    met = None
    if phase.limit is not None:
        met = None if figure is None else figure <= phase.limit
    elif phase.ratio is not None:
        met = None if ratio is None else ratio >= phase.ratio
    floor = results.median("floor", phase.key)
    to_floor = times_better(phase, figure, floor)
    if phase.floor is not None and to_floor is not None:
        met = met is not False and to_floor >= phase.floor
    if results.failure(own, phase.key) and (phase.limit or phase.ratio or phase.floor):
        met = False
    return {"best_peer": peer, "ratio": ratio, "to_floor": to_floor, "met": met}


def times_better(phase, figure, other):
    if not figure or not other:
        return None
    return figure / other if phase.more_is_better else other / figure


def number(figure, decimals):
    return f"{figure:,.{decimals}f}"


def cell(phase, results, program):
    if results.failure(program, phase.key):
        return "failed"
    median = results.median(program, phase.key)
    if median is None:
        return "–"
    spread = results.spread(program, phase.key)
    return number(median, phase.decimals) + ("" if spread is None else f" ±{100 * spread:.0f}%")


def bar_text(phase):
    bars = []
    if phase.limit is not None:
        bars.append(f"≤ {number(phase.limit, phase.decimals)}")
    elif phase.ratio is not None:
        bars.append(f"≥ {phase.ratio:g}×")
    if phase.floor is not None:
        bars.append(f"≥ {phase.floor:g}× floor")
    return ", ".join(bars)


def row(phase, results, columns, own, peers):
    compared = verdict(phase, results, own, peers)
    ratio = "–" if compared["ratio"] is None else f"{compared['ratio']:.2g}× {compared['best_peer']}"
    met = {True: "yes", False: "NO", None: ""}[compared["met"]]
    cells = [cell(phase, results, program) for program in columns]
    return [phase.title, phase.unit, *cells, ratio, bar_text(phase), met]


def aligned(rows):
    """Columns of equal width; words to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def failures_text(phases, results):
    """Each reason once, with the phases that it stopped."""
    lines = []
    for program, failures in results.failures.items():
        for why in dict.fromkeys(failures.values()):
            keys = [key for key, reason in failures.items() if reason == why]
            lines.append(f"\n{program} failed in {'all phases' if len(keys) == len(phases) else ', '.join(keys)}:")
            lines += [f"    {line}" for line in why.splitlines()]
    return "\n".join(lines)


def as_text(phases, results, columns, own, peers):
    head = ["phase", "", *columns, "to best peer", "bar", "met"]
    table = aligned([head, *(row(phase, results, columns, own, peers) for phase in phases)])
    return "\n".join(filter(None, [table, failures_text(phases, results)]))


def as_json(phases, results, columns, own, peers):
    """The same as data, with the figure of every round."""

    def figures(phase):
        answer = {}
        for program in columns:
            entry = {
                "median": results.median(program, phase.key),
                "spread": results.spread(program, phase.key),
                "runs": results.runs(program, phase.key),
            }
            if why := results.failure(program, phase.key):
                entry["failure"] = why
            answer[program] = entry
        return answer

    return [
        {
            "phase": phase.key,
            "title": phase.title,
            "unit": phase.unit,
            "more_is_better": phase.more_is_better,
            "figures": figures(phase),
            "bar_ratio": phase.ratio,
            "bar_limit": phase.limit,
            "bar_floor": phase.floor,
            **verdict(phase, results, own, peers),
        }
        for phase in phases
    ]
