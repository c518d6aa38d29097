"""One HTML page for a file, complete in itself: verdict, timeline, members, and the faces that decided."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from streamwatch.errors import StorageError
from streamwatch.scan.highlights import Highlights, Thumbnail
from streamwatch.scan.records import FileResult

WIDTH, HEIGHT, MARGIN = 900, 220, 36
POINTS = 600
"""So many points at most draw the timeline; of each stretch its highest score is shown."""

_STYLE = """
:root{color-scheme:light dark;--fg:#1c2128;--bg:#fff;--soft:#f2f4f7;--line:#d5dae1;
--fake:#d13b2f;--real:#23884f;--unknown:#777}
@media(prefers-color-scheme:dark){:root{--fg:#e4e8ee;--bg:#14181d;--soft:#1e242b;--line:#38414c;
--fake:#ff6b5e;--real:#4cc083}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem}
.fake,.error{color:var(--fake)}.real{color:var(--real)}.suspect{color:#c07a00}.unknown{color:var(--unknown)}
.verdict{font-size:2rem;font-weight:700}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.faces{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;background:var(--soft);padding:.4rem;border-radius:.4rem}
figcaption{font-size:.8rem}img{display:inline-block;border-radius:.2rem}svg{width:100%;height:auto;background:var(--soft)}
svg text{fill:var(--fg);font-size:12px}
"""


def write_report(target: Path, result: FileResult, details: Path, highlights: Highlights) -> None:
    """Writes the page of one file; `details` has a FrameRecord a line. Raises StorageError."""
    body = [
        f"<h1>{html.escape(Path(result.path).name)}</h1>",
        _verdict(result),
        _timeline(details, result) if result.kind == "video" else "",
        _members(result),
        _faces("Most suspicious faces", highlights.worst()),
        _faces("Least suspicious faces", highlights.best()),
        _facts(result),
    ]
    write_page(target, f"{Path(result.path).name}: {result.verdict}", "\n".join(body))


def write_index(target: Path, results: Sequence[FileResult]) -> None:
    """Writes the page that lists all files of a scan. Raises StorageError."""
    rows = "".join(
        f"<tr><td>{_link(row.report, row.path)}</td><td class={row.verdict}>{row.verdict}</td>"
        f"<td class=n>{_number(row.score)}</td><td class=n>{row.frames_with_face}/{row.frames_analysed}</td>"
        f"<td>{_link(row.annotated, 'video') if row.annotated else ''}{html.escape(_remark(row))}</td></tr>"
        for row in results
    )
    head = "<tr><th>File</th><th>Verdict</th><th class=n>Score</th><th class=n>Frames with a face</th><th></th></tr>"
    write_page(target, "Scan", f"<h1>Scan of {len(results)} files</h1><table>{head}{rows}</table>{_NOTE}")


def write_page(target: Path, title: str, body: str) -> None:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error


_NOTE = (
    "<p>A score is the estimated probability, 0 to 1, that a face is fake. It is evidence to look at, not proof: "
    "detectors miss manipulations that they were not made for, and sometimes suspect real faces.</p>"
)


def _verdict(result: FileResult) -> str:
    reason = f" ({result.reason.replace('_', ' ')})" if result.reason else ""
    score = f"score {_number(result.score)}, threshold {_number(result.threshold)}" if result.score is not None else ""
    warning = f"<p class=suspect>{html.escape(result.warning)}</p>" if result.warning else ""
    return f'<p class="verdict {result.verdict}">{result.verdict}{reason}</p><p>{score}</p>{warning}{_NOTE}'


def _timeline(details: Path, result: FileResult) -> str:
    points = _worst_over_time(details, POINTS)
    if not points:
        return "<h2>Timeline</h2><p>No face was scored.</p>"
    end = max(float(result.media.get("duration") or 0.0), points[-1][0], 1e-6)

    def place(time: float, score: float) -> tuple[float, float]:
        return MARGIN + (WIDTH - 2 * MARGIN) * time / end, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * score

    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in (place(*point) for point in points))
    left, limit = place(0.0, result.threshold or 0.0)
    grid = "".join(
        f'<text x="4" y="{place(0, level)[1] + 4:.0f}">{level:.1f}</text>'
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{place(0, level)[1]:.1f}" y2="{place(0, level)[1]:.1f}" '
        'stroke="var(--line)"/>'
        for level in (0.0, 0.5, 1.0)
    )
    return (
        f'<h2>Timeline</h2><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="score over time">{grid}'
        f'<line x1="{left}" x2="{WIDTH - MARGIN}" y1="{limit:.1f}" y2="{limit:.1f}" stroke="var(--fake)" '
        f'stroke-dasharray="6 4"/><polyline points="{path}" fill="none" stroke="#3b76d0" stroke-width="1.5"/>'
        f'<g fill="#3b76d0">{dots if len(points) <= 150 else ""}</g>'
        f'<text x="{MARGIN}" y="{HEIGHT - 10}">0 s</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 10}" text-anchor="end">{end:.1f} s</text></svg>'
        "<p>The highest score of any judged face in each analysed frame; dashed: the threshold.</p>"
    )


def _worst_over_time(details: Path, limit: int) -> list[tuple[float, float]]:
    """(seconds, score) of the worst judged face of each frame; neighbours are merged where there are too many."""
    points: list[tuple[float, float]] = []
    with details.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            scores = [face["score"] for face in record["faces"] if face["gate"] is None]
            if scores:
                points.append((record["time"], max(scores)))
            if len(points) >= 2 * limit:
                pairs = zip(points[::2], points[1::2], strict=True)
                points = [max(pair, key=lambda point: point[1]) for pair in pairs]
    return points


def _members(result: FileResult) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{_number(score)}</td></tr>"
        for name, score in result.members.items()
    )
    people = "".join(
        f"<tr><td>person {row['person']}</td><td class=n>{_number(row['score'])}</td>"
        f"<td class=n>{row['frames']} frames</td></tr>"
        for row in result.people[:20]
    )
    table = f"<h2>Members of the ensemble</h2><table>{rows}</table>" if rows else ""
    return table + (f"<h2>People</h2><table>{people}</table>" if len(result.people) > 1 else "")


def _faces(title: str, thumbnails: Sequence[Thumbnail]) -> str:
    figures = "".join(
        f'<figure><img src="{item.picture}" alt="face" width="160" height="160">'
        + (f' <img src="{item.heat}" alt="heat map" width="160" height="160">' if item.heat else "")
        + f"<figcaption>{_number(item.score)} at {item.time:.2f} s (frame {item.frame})</figcaption></figure>"
        for item in thumbnails
    )
    return f'<h2>{title}</h2><div class="faces">{figures}</div>' if figures else ""


def _facts(result: FileResult) -> str:
    facts = {
        "file": result.path,
        "frames analysed": result.frames_analysed,
        "frames with a face": result.frames_with_face,
        "faces": result.faces,
        **{name: value for name, value in result.media.items() if value is not None},
        **{f"weights {name}": value for name, value in result.weights.items()},
    }
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_plain(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<h2>Facts</h2><table>{rows}</table>"


def _plain(value: object) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _remark(row: FileResult) -> str:
    return " " + (row.error or row.warning or (row.reason or "").replace("_", " "))


def _link(target: str | None, text: str) -> str:
    shown = html.escape(text)  # `target` is a path below the page's folder
    return f'<a href="{quote(target)}">{shown}</a>' if target else shown
