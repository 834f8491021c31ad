"""The report of a run: one HTML page that needs no other file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from diekae.evaluation.evaluate import PASSES
from diekae.evaluation.plots import ACCENT, MUTED, style
from diekae.files import write_atomically

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ name }}</title><style>
body{font:16px/1.55 system-ui,sans-serif;color:#1b1f24;max-width:60rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;border-bottom:1px solid #dde1e5;text-align:right}
th:first-child,td:first-child{text-align:left}
td.answer,th.answer{text-align:left}.muted{color:#69737d;font-size:.9rem}svg{width:100%;height:auto}
pre{background:#f4f6f8;padding:.8rem;overflow-x:auto;font-size:.85rem;white-space:pre-wrap}
</style></head><body>
<h1>{{ name }}</h1>
<p class="muted">{{ summary }}</p>
<h2>How much of the knowledge arrived</h2>
<table><tr><th>data</th><th>n</th><th>D(x)</th><th>D(K,x)</th><th>ours</th><th>recovered</th><th>grounded</th></tr>
{% for set, f in sets.items() %}<tr><td>{{ set }}</td><td>{{ f.n }}</td>
{% for k in ("bare", "prompted", "ours") %}<td>{{ "%.3f"|format(f.nll[k]) }}
 <span class="muted">({{ "%.1f"|format(f.perplexity[k]) }})</span></td>{% endfor %}
<td>{{ share(f.recovered) }}</td><td>{{ share(f.grounded) }}</td></tr>{% endfor %}</table>
<p class="muted">Nats per target token, perplexity in brackets. <em>Recovered</em>: the share of the gap between D(x)
(no knowledge) and D(K,x) (knowledge in the prompt) that is closed. <em>Grounded</em>: the same for what the knowledge
says, measured by giving every example another one's.</p>
<h2>What a pass costs</h2>
<table><tr><th>one pass over one example</th><th>ms</th><th>× D(x)</th><th>× D(K,x)</th></tr>
{% for label, s, a, b in times %}<tr><td>{{ label }}</td><td>{{ "%.1f"|format(1000 * s) }}</td>
<td>{{ "%.2f"|format(a) }}</td><td>{{ "%.2f"|format(b) }}</td></tr>{% endfor %}</table>
{% if answers %}<h2>Answers</h2><pre>{{ document }}</pre>
<table><tr><th>question</th><th class="answer">without knowledge</th><th class="answer">with knowledge</th></tr>
{% for a in answers %}<tr><td>{{ a.question }}</td><td class="answer">{{ a.without }}</td>
<td class="answer"><b>{{ a.with }}</b></td></tr>{% endfor %}</table>{% endif %}
<h2>Training</h2>{% for objective, plot in plots %}<p class="muted">objective: {{ objective }}</p>{{ plot }}{% endfor %}
<h2>Run</h2><pre>{{ settings }}</pre>
</body></html>"""


def write_report(path: str | Path, result: dict[str, Any]) -> Path:
    """Write the page of what :func:`diekae.recipe.run_recipe` returned, and return its path.

    ``answers`` (question, without, with) and ``document`` are shown too, if the result has them.
    """
    sets, recipe = result["sets"], result["recipe"]
    seconds = next(iter(sets.values()))["seconds"]
    times = [
        (label, seconds[k], seconds[k] / seconds["bare"], seconds[k] / seconds["prompted"])
        for k, label in PASSES.items()
    ]
    config, stages = recipe["diekae"], recipe["stages"]
    summary = (
        f"{config['encoder']} encoders of {result['parameters']:,} parameters at layers "
        f"{', '.join(map(str, result['layers']))} of {recipe['decoder']}; {result['examples']['train']:,} training "
        f"examples; {result['training_seconds'] / 60:.1f} minutes."
    )
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        name=recipe["name"],
        summary=summary,
        sets=sets,
        times=times,
        share=lambda value: "undefined" if value is None else f"{value:.2f}",
        answers=result.get("answers"),
        document=result.get("document"),
        plots=[
            (stage["objective"], Markup(draw([line for line in result["log"] if line["stage"] == number])))
            for number, stage in enumerate(stages)
        ],
        settings="\n\n".join("\n".join(f"{k} = {v!r}" for k, v in part.items()) for part in (config, *stages)),
    )
    write_atomically(Path(path), html)
    return Path(path)


def draw(log: Sequence[dict[str, Any]]) -> str:
    """Draw the loss, the unexplained share of each layer and ``recovered`` over the steps; return SVG."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, layers, recovered = figure.subplots(1, 3)
    for axis, title in (
        (loss, "loss"),
        (layers, "unexplained share, validation"),
        (recovered, "recovered, validation"),
    ):
        style(axis, title, "step")
    _line(loss, log, "loss", MUTED, "training")
    _line(loss, log, "eval_loss", ACCENT, "validation")
    loss.set_ylim(bottom=0)
    loss.legend(frameon=False, fontsize=8)
    _layers(layers, log)
    _line(recovered, log, "eval_recovered", ACCENT, "recovered")
    recovered.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=":")
    shares = [line["eval_recovered"] for line in log if "eval_recovered" in line]
    recovered.set_ylim(1.08 * min(0.0, *shares, 0.0), 1.08 * max(1.0, *shares, 1.0))
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _line(axis: Any, log: Sequence[dict[str, Any]], key: str, color: Any, label: str) -> None:
    """Draw one logged value over the steps; nothing if it was never logged."""
    points = [(line["step"], line[key]) for line in log if key in line]
    if points:
        axis.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.6, marker="o", markersize=2.5)


def _layers(axis: Any, log: Sequence[dict[str, Any]]) -> None:
    """Draw one line for each layer, from light (early layers) to dark (late ones)."""
    prefix = "eval_unexplained/layer_"
    names = sorted({key for line in log for key in line if key.startswith(prefix)}, key=lambda k: int(k[len(prefix) :]))
    shades = matplotlib.colormaps["viridis_r"]
    for number, name in enumerate(names):
        _line(axis, log, name, shades(0.1 + 0.9 * number / max(1, len(names) - 1)), name[len(prefix) :])
    if names:
        axis.set_ylim(0, 1.05)
        axis.legend(frameon=False, fontsize=7, ncols=2, title="layer", title_fontsize=7)
    else:
        axis.text(0.5, 0.5, "only under objective = difference", ha="center", transform=axis.transAxes, fontsize=8)
