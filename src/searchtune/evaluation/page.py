"""`report.html`: a report as one file that needs no network, for people.

The page forbids itself all connections (its content security policy), carries Vega once, and escapes every text that
comes from data. It is made from the `Report` alone, so that it can be made again from `report.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from altair.utils.schemapi import debug_mode
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from searchtune.evaluation import wording
from searchtune.evaluation.charts import MOST_BARS, page_charts, pair_names
from searchtune.evaluation.explorer import PLACE, explorer_data, rankings_script, script_json
from searchtune.evaluation.hurt import hurt_most
from searchtune.evaluation.parts import cutoff_notes, leaders, shown_parts
from searchtune.evaluation.report import ALL, Comparison, Report
from searchtune.evaluation.reranking import reranking_warnings
from searchtune.evaluation.verdict import Outcome, outcome, verdict
from searchtune.storage.atomic import write_text
from searchtune.storage.derived import derived

LIMIT = 8_000_000
"""Bytes that a page takes at most; rankings are cut to what the rest leaves."""
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_BADGES = {
    Outcome.GAIN: ("good", "Gain holds"),
    Outcome.SEEN_ONLY: ("bad", "Gain lives only in seen queries"),
    Outcome.UNSETTLED: ("caution", "Gain not settled on unseen queries"),
    Outcome.INDISTINCT: ("caution", "Memory or learning: cannot tell"),
    Outcome.UNCHECKED: ("caution", "Overlap with training not checked"),
    Outcome.NO_GAIN: ("neutral", "No gain that matters"),
    Outcome.NOT_SHOWN: ("neutral", "No sure gain"),
    Outcome.NO_CHANGE: ("neutral", "Nothing changed"),
    Outcome.HARM: ("bad", "Tuning made it worse"),
    Outcome.TOO_FEW: ("neutral", "Too few queries"),
    Outcome.LEADS: ("good", "One system leads"),
    Outcome.LEVEL: ("neutral", "No clear winner"),
    Outcome.NOT_COMPARED: ("neutral", "Nothing to compare"),
}
_SLICES = {
    ALL: "every judged query",
    "unseen": "training never saw their relevant documents",
    "seen": "share a relevant document with training",
    "residual": "documents that training saw are taken out of ranking and labels",
}


def render_page(report: Report) -> str:
    """The whole page as HTML."""
    tone, badge = _BADGES[outcome(report)]
    headline, *reasons = verdict(report)
    warnings, parts = reranking_warnings(report), shown_parts(report)
    with debug_mode(False):  # altair checks each part against its schema, which takes longer than to draw it
        charts = page_charts(report)
    frame = (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            tone=tone,
            badge=badge,
            headline=headline,
            warnings=warnings,
            reasons=[sentence for sentence in reasons if sentence not in warnings],
            charts=charts,
            parts=parts,
            leaders={name: {it: leaders(part, it, report) for it in report.metrics} for name, part in parts.items()},
            cutoff_notes=cutoff_notes(report),
            pairs=pair_names(report),
            has_kinds=any(name.startswith("kind-") for name in charts),
            slice_notes=_SLICES,
            headline_metric=report.headline_metric,
            hurt=hurt_most(report),
            most_bars=MOST_BARS,
            facts_of_training=_facts(report.training),
            cost_columns=cost_columns(report.costs),
            explorer=explorer_data(report),
            vega=vega_script() if charts else "",
        )
    )
    return frame.replace(PLACE, rankings_script(report, LIMIT - len(frame.encode())), 1)


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render_page(report))


@cache
def environment() -> Environment:
    """Templates with the filters that pages share; every text is escaped, a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("searchtune.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=wording.figure,
        signed=wording.signed,
        p_text=wording.p_text,
        bare_p=wording.bare_p,
        spread=wording.spread,
        interval=wording.interval,
        metric_label=wording.metric_label,
        queries=wording.queries,
        share=wording.percent,
        milliseconds=wording.milliseconds,
        script_json=script_json,
        told_p=wording.told_p,
        p_cell=_p_cell,
        leaders_of=lambda part, report, metric: leaders(part, metric, report),
        origin=origin,
        words=_words,
        value=_value,
    )
    return environment


@cache
def vega_script() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script, safe to stand inside a script element.

    Bundling takes seconds, so the bundle is kept for each version of the bundler.
    """
    key = {"vl-convert": version("vl-convert-python"), "snippet": _SNIPPET}
    bundle = derived("scripts", key, lambda: _bundle().encode("utf-8")).decode("utf-8")
    return Markup(bundle.replace("</script", "<\\/script"))


def _bundle() -> str:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(snippet=_SNIPPET)
    return bundle


def cost_columns(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The keys of all costs, in order, without what has a table of its own."""
    return [key for key in dict.fromkeys(key for row in costs.values() for key in row) if key != "exact_loss"]


def _p_cell(it: Comparison) -> Markup:
    """The p-value, and below it the corrected one with that word: a difference of means or of kappas, a share."""
    raw, corrected = wording.bare_p(it.p_value), wording.bare_p(it.p_holm)
    told = "" if math.isnan(it.p_holm) else Markup("<small>{} corrected</small>").format(corrected)
    return Markup("{}{}").format(raw, told)


def origin(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was compared and how it was made, for the first lines of a page: base, recipe or suite, command."""
    recipe, suite = provenance.get("recipe"), provenance.get("suite")
    told: list[tuple[str, str]] = []
    if isinstance(recipe, Mapping):
        told += [("base", str(recipe[key])) for key in ("base",) if recipe.get(key)]
        told.append(("recipe", _recipe_words(recipe)))
    if isinstance(suite, Mapping):
        systems = suite.get("systems")
        known = systems.values() if isinstance(systems, Mapping) else ()
        models = dict.fromkeys(str(it["model"]) for it in known if isinstance(it, Mapping) and it.get("model"))
        told += [("suite", str(suite.get("name", "")))] + [("models", ", ".join(models))] * bool(models)
    if isinstance(provenance.get("command"), str):
        told.append(("made by", provenance["command"]))
    return told


def _recipe_words(recipe: Mapping[str, Any]) -> str:
    """`embed: lora of rank 8, 2 epochs, seed 13`: what tells recipes apart, as far as it is there."""
    method, optim = (found if isinstance(found := recipe.get(key), Mapping) else {} for key in ("method", "optim"))
    words = [
        f"{method.get('name', 'adapter')} of rank {method['rank']}" if "rank" in method else "",
        f"{optim['epochs']} epochs" if "epochs" in optim else "",
        f"rate {optim['lr']:g}" if isinstance(optim.get("lr"), float) else "",
        f"seed {recipe['seed']}" if "seed" in recipe else "",
    ]
    return ": ".join(filter(None, (str(recipe.get("kind", "")), ", ".join(filter(None, words)))))


def _facts(training: Mapping[str, Any]) -> dict[str, Any]:
    """What training says of itself beside its curve."""
    return {key: value for key, value in training.items() if key != "curve" and value is not None}


def _words(key: str) -> str:
    """`queries per second` for `queries_per_second`, `index MB` for `index_mb`."""
    return " ".join({"mb": "MB", "gb": "GB"}.get(word, word) for word in key.split("_"))


def _value(value: Any) -> str:
    """A number with a sensible count of digits, anything else as its text."""
    if value is None:
        return wording.NO_FIGURE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return str(value)
