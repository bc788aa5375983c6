"""searchtune: adapt the models of a search pipeline with small adapters you can trust.

The names below are the public API. Each is imported when it is first used, so that `import searchtune` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchtune.data.tasks import load_task as load_task
    from searchtune.data.tasks import open_collection as open_collection
    from searchtune.errors import ConfigError as ConfigError
    from searchtune.errors import DataError as DataError
    from searchtune.errors import SearchtuneError as SearchtuneError
    from searchtune.evaluation.judge_report import JudgeReport as JudgeReport
    from searchtune.evaluation.judge_report import read_judge_report as read_judge_report
    from searchtune.evaluation.report import Report as Report
    from searchtune.evaluation.report import read_report as read_report
    from searchtune.evaluation.table import render_report as render_report
    from searchtune.metrics.ranking import score as score
    from searchtune.metrics.significance import Estimate as Estimate
    from searchtune.pipeline import Search as Search
    from searchtune.retrieval.cache import EmbeddingCache as EmbeddingCache
    from searchtune.specs.card import AdapterCard as AdapterCard
    from searchtune.specs.card import LlmCard as LlmCard
    from searchtune.specs.card import RerankerCard as RerankerCard
    from searchtune.specs.judge import JudgeRecipe as JudgeRecipe
    from searchtune.specs.recipe import EmbedRecipe as EmbedRecipe
    from searchtune.specs.rerank import RerankRecipe as RerankRecipe
    from searchtune.specs.suite import SuiteSpec as SuiteSpec
    from searchtune.specs.task import TaskSpec as TaskSpec
    from searchtune.types import Collection as Collection
    from searchtune.types import Judgment as Judgment
    from searchtune.types import Qrels as Qrels
    from searchtune.types import RankExample as RankExample
    from searchtune.types import Run as Run
    from searchtune.workflows.adapter import Verification as Verification
    from searchtune.workflows.adapter import merge_adapter as merge_adapter
    from searchtune.workflows.adapter import verify_adapter as verify_adapter
    from searchtune.workflows.embed import EmbedResult as EmbedResult
    from searchtune.workflows.embed import train_embedding as train_embedding
    from searchtune.workflows.evaluate import load_suite as load_suite
    from searchtune.workflows.evaluate import run_suite as run_suite
    from searchtune.workflows.judge import JudgeResult as JudgeResult
    from searchtune.workflows.judge import train_judge as train_judge
    from searchtune.workflows.pipeline import open_search as open_search
    from searchtune.workflows.recipes import load_judge_recipe as load_judge_recipe
    from searchtune.workflows.recipes import load_recipe as load_recipe
    from searchtune.workflows.recipes import load_rerank_recipe as load_rerank_recipe
    from searchtune.workflows.rerank import RerankResult as RerankResult
    from searchtune.workflows.rerank import train_reranker as train_reranker
    from searchtune.workflows.search import Hit as Hit
    from searchtune.workflows.search import encode_file as encode_file
    from searchtune.workflows.search import search_collection as search_collection

__version__ = "0.1.0"

_HOMES = {
    "AdapterCard": "searchtune.specs.card",
    "Collection": "searchtune.types",
    "ConfigError": "searchtune.errors",
    "DataError": "searchtune.errors",
    "EmbedRecipe": "searchtune.specs.recipe",
    "EmbedResult": "searchtune.workflows.embed",
    "EmbeddingCache": "searchtune.retrieval.cache",
    "Estimate": "searchtune.metrics.significance",
    "Hit": "searchtune.workflows.search",
    "JudgeRecipe": "searchtune.specs.judge",
    "JudgeReport": "searchtune.evaluation.judge_report",
    "JudgeResult": "searchtune.workflows.judge",
    "Judgment": "searchtune.types",
    "LlmCard": "searchtune.specs.card",
    "Qrels": "searchtune.types",
    "RankExample": "searchtune.types",
    "Report": "searchtune.evaluation.report",
    "RerankRecipe": "searchtune.specs.rerank",
    "RerankResult": "searchtune.workflows.rerank",
    "RerankerCard": "searchtune.specs.card",
    "Run": "searchtune.types",
    "Search": "searchtune.pipeline",
    "SearchtuneError": "searchtune.errors",
    "SuiteSpec": "searchtune.specs.suite",
    "TaskSpec": "searchtune.specs.task",
    "Verification": "searchtune.workflows.adapter",
    "encode_file": "searchtune.workflows.search",
    "load_judge_recipe": "searchtune.workflows.recipes",
    "load_recipe": "searchtune.workflows.recipes",
    "load_rerank_recipe": "searchtune.workflows.recipes",
    "load_suite": "searchtune.workflows.evaluate",
    "load_task": "searchtune.data.tasks",
    "merge_adapter": "searchtune.workflows.adapter",
    "open_collection": "searchtune.data.tasks",
    "open_search": "searchtune.workflows.pipeline",
    "read_judge_report": "searchtune.evaluation.judge_report",
    "read_report": "searchtune.evaluation.report",
    "render_report": "searchtune.evaluation.table",
    "run_suite": "searchtune.workflows.evaluate",
    "score": "searchtune.metrics.ranking",
    "search_collection": "searchtune.workflows.search",
    "train_embedding": "searchtune.workflows.embed",
    "train_judge": "searchtune.workflows.judge",
    "train_reranker": "searchtune.workflows.rerank",
    "verify_adapter": "searchtune.workflows.adapter",
}
"""The public names and the modules they live in; the imports above say the same to type checkers."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
